"""Page-cache residency of real files, by both system calls."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from slmtrace.probes import pagecache
from slmtrace.probes.state import evict_from_page_cache, page_cache_residency

SIZE_BYTES = 8 * 1024 * 1024 + 1009


@pytest.fixture
def weights(tmp_path: Path) -> Path:
    path = tmp_path / "model.safetensors"
    path.write_bytes(os.urandom(SIZE_BYTES))
    evict_from_page_cache([path])
    if page_cache_residency(path)[0]:
        pytest.skip("the temporary directory lies in a memory file system")
    return path


def test_an_evicted_file_has_no_byte_in_memory_and_a_read_brings_all_back(weights: Path) -> None:
    evicted = page_cache_residency(weights)
    weights.read_bytes()
    warm = page_cache_residency(weights)
    evicted_again = evict_from_page_cache([weights])

    assert evicted == (0, SIZE_BYTES)
    assert warm == (SIZE_BYTES, SIZE_BYTES)
    assert evicted_again == (0, SIZE_BYTES)


def test_both_system_calls_count_the_same_pages(weights: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pagecache, "_MINCORE_CHUNK_BYTES", 1 << 20)
    descriptor = os.open(weights, os.O_RDONLY)
    os.posix_fadvise(descriptor, 0, 0, os.POSIX_FADV_RANDOM)
    os.pread(descriptor, 5 * 4096, 3 << 20)
    try:
        by_cachestat = pagecache.cachestat_pages(descriptor)
    except OSError as error:
        pytest.skip(f"cachestat: {error.strerror}")
    finally:
        by_mincore = pagecache.mincore_pages(descriptor, SIZE_BYTES)
        os.close(descriptor)

    assert by_cachestat == by_mincore
    assert 5 <= by_mincore < SIZE_BYTES // 4096


def test_without_cachestat_mincore_answers(weights: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def no_such_call(_: int) -> int:
        raise OSError(38, "Function not implemented")

    weights.read_bytes()
    monkeypatch.setattr(pagecache, "cachestat_pages", no_such_call)

    assert page_cache_residency(weights) == (SIZE_BYTES, SIZE_BYTES)


def test_an_empty_file_has_nothing_to_hold(tmp_path: Path) -> None:
    (tmp_path / "empty").touch()

    assert page_cache_residency(tmp_path / "empty") == (0, 0)
