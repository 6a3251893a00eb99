"""Facts for the manifest: the host, the versions, and the command with everything private taken out."""

from __future__ import annotations

import importlib.metadata
import os
import platform
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from .. import __version__

HIDDEN = "..."
_NUMBER = re.compile(r"-?\d+(\.\d+)?\Z")
_OPTION = re.compile(r"--?[A-Za-z][A-Za-z0-9_-]*\Z")
_MODULE = re.compile(r"[A-Za-z_][\w.]*\Z")
_SCRIPT = re.compile(r"[\w.-]+\.(py|pyz|sh)\Z")
_SAFE_VALUES = frozenset({"auto", "bfloat16", "float16", "float32", "cpu", "cuda", "serve", "true", "false", "bench"})
_PACKAGES = ("torch", "transformers", "tokenizers", "safetensors", "vllm", "numpy", "nvtx", "perfetto", "py-spy")


def describe_host() -> dict[str, Any]:
    """Return what the machine is; no name, no address, no user."""
    return {
        "kernel": platform.release(),
        "machine": platform.machine(),
        "distribution": _distribution(),
        "cpu": _first_field(Path("/proc/cpuinfo"), "model name"),
        "cpus": os.cpu_count() or 0,
        "cpus_usable": len(os.sched_getaffinity(0)),
        "memory_bytes": os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE"),
        "page_bytes": os.sysconf("SC_PAGE_SIZE"),
    }


def describe_versions() -> dict[str, str]:
    """Return the versions of Python and of the packages that matter, as this interpreter sees them."""
    versions = {"python": platform.python_version(), "slmtrace": __version__}
    for package in _PACKAGES:
        if version := package_version(package):
            versions[package] = version
    return versions


def package_version(package: str) -> str:
    """Return the installed version of a package, or ''."""
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return ""


def safe_command(arguments: Sequence[str]) -> list[str]:
    """Return the command with what could be private replaced by '...'.

    Kept are the program's and a script's file name, `-m` and its module, names of options, numbers and a few words.
    """
    words = [Path(arguments[0]).name]
    previous = ""
    for argument in arguments[1:]:
        words.append(_safe_word(argument, previous))
        previous = argument
    return words


def _safe_word(argument: str, previous: str) -> str:
    name, separator, value = argument.partition("=")
    if _OPTION.match(name):
        return f"{name}={_safe_word(value, '')}" if separator else name
    if previous == "-m" and _MODULE.match(argument):
        return argument
    if _NUMBER.match(argument) or argument.lower() in _SAFE_VALUES:
        return argument
    script = Path(argument).name
    return script if _SCRIPT.match(script) and not previous.startswith("--") else HIDDEN


def _distribution() -> str:
    try:
        return platform.freedesktop_os_release().get("PRETTY_NAME", "")
    except OSError:
        return ""


def _first_field(path: Path, name: str) -> str:
    try:
        with path.open(encoding="utf-8", errors="replace") as lines:
            for line in lines:
                key, _, value = line.partition(":")
                if key.strip() == name:
                    return value.strip()
    except OSError:
        pass
    return ""
