"""The environment variables that the target and the processes it starts are told by. They are named here alone."""

from __future__ import annotations

import os

# The absolute path of the capture's raw/ directory. Without it the instrument does nothing.
RAW = "SLMTRACE_RAW"
# Whether ranges are NVTX ranges too: "auto" (where a tool listens), "on" (ask the NVTX library), "off".
NVTX = "SLMTRACE_NVTX"
# Anything but empty: failures inside the instrument are printed on stderr instead of only being counted.
DEBUG = "SLMTRACE_DEBUG"

# Anything but empty: the programs of the built-in runs do not print a line for each request.
QUIET = "SLMTRACE_QUIET"

# The tier of CUDA recording: "calls", "light" or "deep". Without it the recorder that the CUDA driver loads does
# nothing.
CUDA = "SLMTRACE_CUDA"
# The absolute path of the directory for the logs of CUDA activity.
CUDA_RAW = "SLMTRACE_CUDA_RAW"
# The libcupti to record with where none is loaded yet.
CUPTI = "SLMTRACE_CUPTI"

# How the NVTX library finds the tool that listens (NVTX C API, "Injection").
NVTX_TOOLS = ("NVTX_INJECTION64_PATH", "NVTX_INJECTION32_PATH")


def site_dir() -> str:
    """Return the directory whose sitecustomize.py loads the instrument."""
    return os.path.join(os.path.dirname(os.path.abspath(__file__)), "site")


def injected(environ: dict[str, str], raw: str) -> dict[str, str]:
    """Return what to change in a target's environment so that its Python processes record into `raw`."""
    inherited = environ.get("PYTHONPATH")
    path = os.pathsep.join([site_dir(), inherited] if inherited else [site_dir()])
    return {"PYTHONPATH": path, RAW: raw, NVTX: environ.get(NVTX) or "auto"}
