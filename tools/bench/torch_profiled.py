"""Run a program under torch.profiler, and export what it saw: torch_profiled.py TRACE PROGRAM ARGUMENT..."""

from __future__ import annotations

import runpy
import sys

from torch.profiler import ProfilerActivity, profile


def main() -> None:
    """Run, then export: what the program measures of itself is over by then."""
    trace, program, *arguments = sys.argv[1:]
    sys.argv = [program, *arguments]
    with profile(activities=[ProfilerActivity.CPU]) as profiler:
        runpy.run_path(program, run_name="__main__")
    profiler.export_chrome_trace(trace)


if __name__ == "__main__":
    main()
