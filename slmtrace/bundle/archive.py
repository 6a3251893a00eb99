"""One zip for a bug report: all in it is rendered anew from redacted tables, nothing is copied from the capture."""

from __future__ import annotations

import io
import json
import os
import zipfile
from pathlib import Path
from typing import Any

from ..errors import CaptureError
from ..model.report import Report
from ..model.trace import Trace
from ..output.json_ import render_json
from ..output.markdown import render_markdown
from ..output.perfetto import render_perfetto
from .names import Names
from .report import redact_report
from .trace import redact_trace

# Zip's earliest date: when a bundle was made says nothing, and the same content gives the same bytes.
_DATE = (1980, 1, 1, 0, 0, 0)

README = """\
slmtrace: why is the first token slow on this node?

trace.pftrace      the timeline, with the breakdown inside: open it in https://ui.perfetto.dev (the file stays in your
                   browser), or with: slmtrace view trace.pftrace
breakdown.json     the attribution: phases, causes and stages of every window; again: slmtrace report trace.pftrace
report.md          the same for people
certificate.json   the state of the node: page cache, huge pages, NUMA, limits, GPU, versions
ledger.json        per source, how many records were seen, written, decoded and lost

What was left out. Every name was compared with lists of public ones: functions that slmtrace wraps, system calls,
CUDA's functions, Python's library, well-known packages and the words of their modules and functions, well-known model
files and system libraries, words of kernel names. What is on no list became a number ('file 7.json', 'range 2',
'kernel 3'), equal names equal numbers. Directories, environment, arguments, prompts, generated text, notes and the
wording of findings are not in here at all. Times, sizes, counts, process and thread ids are as recorded.
"""


def make_bundle(trace: Trace, report: Report, *, hash_paths: bool = False) -> tuple[bytes, set[str]]:
    """Return the zip, and the names that were replaced in it, for `find_secrets`."""
    names = Names(hash_paths=hash_paths)
    redacted_report = redact_report(report, names)
    redacted_trace = redact_trace(trace, names)
    files = {
        "README.txt": README.encode(),
        "trace.pftrace": render_perfetto(redacted_trace, redacted_report),
        "breakdown.json": render_json(redacted_report).encode(),
        "report.md": render_markdown(redacted_report).encode(),
        "certificate.json": _json({"capture": redacted_report.capture, "state": redacted_report.state}),
        "ledger.json": _json({"ledger": redacted_report.ledger, "quality": redacted_report.quality}),
    }
    return _zip(files), names.dropped


def write_bundle(content: bytes, path: Path) -> None:
    """Write a bundle completely or not at all, readable by its owner alone.

    Raises:
        CaptureError: it cannot be written.
    """
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        descriptor = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
        try:
            with os.fdopen(descriptor, "wb") as file:
                file.write(content)
            temporary.replace(path)
        except BaseException:
            temporary.unlink(missing_ok=True)
            raise
    except OSError as error:
        raise CaptureError(f"cannot write {path}: {error.strerror}", hint="name another file with -o") from error


def _zip(files: dict[str, bytes]) -> bytes:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", zipfile.ZIP_DEFLATED, compresslevel=9) as archive:
        for name, content in files.items():
            archive.writestr(zipfile.ZipInfo(name, _DATE), content, zipfile.ZIP_DEFLATED, 9)
    return buffer.getvalue()


def _json(data: dict[str, Any]) -> bytes:
    return (json.dumps(data, indent=1, sort_keys=True, allow_nan=False) + "\n").encode()
