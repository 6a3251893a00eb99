# mypy: ignore-errors
# Found first on PYTHONPATH: start the instrument, then run the sitecustomize that this one shadows. It is read by every
# Python of the target's tree, also by ones too old for the instrument: no annotations, no syntax newer than Python 2.7.
import os
import sys

_here = os.path.dirname(os.path.abspath(__file__))


def _start():
    package = type(sys)("_slmtrace")
    package.__path__ = [os.path.dirname(os.path.dirname(_here))]
    sys.modules["_slmtrace"] = package
    from _slmtrace.instrument import boot

    boot.start()


def _run_shadowed():
    """Import the sitecustomize that Python would have found without us; its failures are its own."""
    ours = sys.modules.pop("sitecustomize", None)
    try:
        import sitecustomize  # noqa: F401
    except ImportError as error:
        if getattr(error, "name", "sitecustomize") != "sitecustomize":
            raise
    finally:
        # The import system expects to find a module under the name that it has just loaded.
        sys.modules.setdefault("sitecustomize", ours)


# The target sees the sys.path that it would have had; its children find us through PYTHONPATH again.
sys.path[:] = [entry for entry in sys.path if os.path.abspath(entry or os.curdir) != _here]
if sys.version_info >= (3, 9) and os.environ.get("SLMTRACE_RAW"):
    try:
        _start()
    except Exception:
        if os.environ.get("SLMTRACE_DEBUG"):
            raise
_run_shadowed()
