"""Tell by its content whose trace a file is, and read it."""

from __future__ import annotations

from pathlib import Path

from ..errors import CaptureError, UsageError
from ..model.trace import Trace
from .document import read_document
from .kineto import read_kineto
from .otel import read_otel


def read_foreign(path: Path, annotation: str = "") -> Trace:
    """Read a trace of torch.profiler, or spans of vLLM; `annotation` chooses the windows of the former.

    Raises:
        CaptureError: the file is neither, or has nothing in it.
        UsageError: there is no such annotation.
    """
    document = read_document(path)
    if document.has("traceEvents"):
        return read_kineto(document, annotation)
    if document.has("resourceSpans"):
        if annotation:
            raise UsageError("spans of vLLM have their own windows", hint="leave --range out")
        return read_otel(document)
    raise CaptureError(
        f"{path} has neither traceEvents nor resourceSpans",
        hint="export it with profile.export_chrome_trace(...), or as OTLP JSON",
    )
