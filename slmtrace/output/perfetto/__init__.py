"""The timeline: a native Perfetto trace with the critical path on top and the breakdown inside."""

from .embedded import read_embedded_breakdown, read_embedded_report
from .writer import TraceFile, render_perfetto, write_perfetto

__all__ = ["TraceFile", "read_embedded_breakdown", "read_embedded_report", "render_perfetto", "write_perfetto"]
