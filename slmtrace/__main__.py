"""The `slmtrace` program, and `python -m slmtrace`."""

from __future__ import annotations

import sys

_INTERRUPTED = 130


def run() -> int:
    """Run the command line; Ctrl-C is no traceback even while it is still being imported."""
    try:
        from .cli.main import main  # noqa: PLC0415
    except KeyboardInterrupt:
        sys.stderr.write("slmtrace: interrupted\n")
        return _INTERRUPTED
    return main()


if __name__ == "__main__":
    sys.exit(run())
