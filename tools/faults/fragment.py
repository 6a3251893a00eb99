"""Hold one page of every eight of so many bytes, until killed or until the parent is gone."""

from __future__ import annotations

import mmap
import os
import sys
import time
from pathlib import Path

_KEEP_EVERY = 8
_CHUNK_BYTES = 256 << 20
_MADV_NOHUGEPAGE = 15  # asm-generic/mman-common.h


def main(size_bytes: int) -> None:
    """Touch every page, give most of them back, and wait."""
    parent = os.getppid()
    Path("/proc/self/oom_score_adj").write_text("1000")
    held = []
    for _ in range(size_bytes // _CHUNK_BYTES):
        chunk = mmap.mmap(-1, _CHUNK_BYTES, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
        chunk.madvise(_MADV_NOHUGEPAGE)
        for offset in range(0, _CHUNK_BYTES, mmap.PAGESIZE):
            chunk[offset] = 1
        held.append(chunk)
    for chunk in held:
        for offset in range(0, _CHUNK_BYTES, _KEEP_EVERY * mmap.PAGESIZE):
            chunk.madvise(mmap.MADV_DONTNEED, offset, (_KEEP_EVERY - 1) * mmap.PAGESIZE)
    print("ready", flush=True)
    while os.getppid() == parent:
        time.sleep(0.5)


if __name__ == "__main__":
    main(int(sys.argv[1]))
