"""Read the Chrome trace that py-spy writes: in comes its JSON, out come stretches of equal stacks, one thread each.

py-spy emits, at each sample of a thread, an end for every frame that went and a beginning for every frame that came
(its src/chrometrace.rs), so between two such moments every sample showed the same stack.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from dataclasses import dataclass, field
from itertools import groupby
from pathlib import Path
from typing import Any, TextIO

CHUNK_CHARS = 1 << 20
_THREAD = re.compile(r"thread \((0x[0-9A-Fa-f]+|\d+)\)(?:: (.*))?")
_PACKAGE_ROOT = re.compile(r".*/(?:site-packages|dist-packages|python\d+\.\d+)/")

Object = dict[str, Any]


@dataclass(frozen=True, slots=True)
class Stretch:
    """Samples of one thread with one stack; times are ns since py-spy started. `tid` is 0 when py-spy cannot tell."""

    start_ns: int
    end_ns: int
    pid: int
    tid: int
    stack: str


@dataclass(slots=True)
class _Thread:
    """The state of one py-spy thread id while reading."""

    frames: list[str] = field(default_factory=list)
    start_ns: int = 0
    pid: int = 0


def read_stretches(path: Path) -> Iterator[Stretch]:
    """Read the stretches of a trace in order of their end; a file cut at any byte gives those before the cut."""
    threads: dict[int, _Thread] = {}
    with path.open(encoding="utf-8", errors="replace") as file:
        events = (event for event in read_objects(file) if event.get("ph") in ("B", "E"))
        for (key, ts_us), batch in groupby(events, key=lambda event: (int(event["tid"]), int(event["ts"]))):
            thread = threads.setdefault(key, _Thread())
            ts_ns = ts_us * 1000
            if (stretch := _close(thread, ts_ns)) is not None:
                yield stretch
            for event in batch:
                _apply(thread, event)
            thread.start_ns = ts_ns


def read_objects(file: TextIO) -> Iterator[Object]:
    """Read the objects of a JSON array one by one, since a trace of minutes would not fit into memory at once."""
    decoder = json.JSONDecoder()
    text = ""
    while chunk := file.read(CHUNK_CHARS):
        text += chunk
        position = 0
        while (start := text.find("{", position)) >= 0:
            try:
                value, position = decoder.raw_decode(text, start)
            except json.JSONDecodeError:
                break  # the rest of the object is in the next chunk
            yield value
        text = text[position:]


def _apply(thread: _Thread, event: Object) -> None:
    if event["ph"] == "B":
        thread.frames.append(_frame_text(event))
        thread.pid = int(event["pid"])
    elif thread.frames:
        thread.frames.pop()


def _close(thread: _Thread, end_ns: int) -> Stretch | None:
    """Return what the thread did until now. Roots that are no Python frames say whose it is, and are left out."""
    if not thread.frames:
        return None
    tid = 0
    stack = []
    for frame in thread.frames:
        match = _THREAD.fullmatch(frame)
        if match is not None:
            tid = _host_tid(match, thread.pid)
        elif not frame.startswith("process "):
            stack.append(frame)
    return Stretch(thread.start_ns, end_ns, thread.pid, tid, ";".join(stack)) if stack else None


def _host_tid(match: re.Match[str], pid: int) -> int:
    # Before Python 3.11 an interpreter holds no host thread ids, and py-spy gives pthread ids in hexadecimal.
    number, name = match.groups()
    if not number.startswith("0x"):
        return int(number)
    return pid if name == "MainThread" else 0


def _frame_text(event: Object) -> str:
    name = str(event["name"]).replace(";", ",")
    args = event.get("args") or {}
    filename = str(args.get("filename") or "")
    if not filename:
        return name  # one of the roots
    # Paths outside of packages may say who the user is: their last part is enough.
    short = _PACKAGE_ROOT.sub("", filename) if _PACKAGE_ROOT.match(filename) else Path(filename).name
    line = args.get("line")
    return f"{name} ({short.replace(';', ',')}:{line})" if line else f"{name} ({short.replace(';', ',')})"
