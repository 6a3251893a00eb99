"""Skip what cannot run here, for the reason that slmtrace itself gives; SLMTRACE_REQUIRE=root,bpf,... makes it fail."""

from __future__ import annotations

import functools
import importlib.util
import os
import shutil
import signal
from collections.abc import Iterator
from pathlib import Path

import pytest

from slmtrace.engines.vllm import find_vllm
from slmtrace.errors import SlmtraceError
from slmtrace.probes.group import check_probe

# A test run in the background of a shell has SIGINT ignored, and every program it starts would inherit that.
signal.signal(signal.SIGINT, signal.default_int_handler)

REQUIRED = frozenset(name.strip() for name in os.environ.get("SLMTRACE_REQUIRE", "").split(",") if name.strip())


def pytest_runtest_setup(item: pytest.Item) -> None:
    for marker in ("root", "bpf", "gpu", "vllm", "hf", "browser"):
        if item.get_closest_marker(marker) is None:
            continue
        reason = why_unavailable(marker)
        if reason and marker in REQUIRED:
            pytest.fail(f"required by SLMTRACE_REQUIRE: {marker}: {reason}", pytrace=False)
        if reason:
            pytest.skip(f"{marker}: {reason}")


@functools.cache
def why_unavailable(marker: str) -> str:
    """Return why tests with this marker cannot run here; '': they can."""
    if marker == "root":
        return "" if os.geteuid() == 0 else "not root"
    if marker in ("bpf", "gpu"):
        _, availability = check_probe("ebpf" if marker == "bpf" else "nvml")
        return "" if availability.is_available else availability.reason
    if marker == "browser":
        found = any(shutil.which(name) for name in ("chromium", "chromium-browser", "google-chrome"))
        return "" if found else "no Chromium on PATH"
    if marker == "vllm":
        # It may live in an environment of its own: what counts is what `slmtrace run --engine vllm` would find.
        try:
            return "" if find_vllm().version else "vllm does not know its version"
        except SlmtraceError as error:
            return f"{error}; {error.hint}"
    missing = [package for package in ("torch", "transformers") if importlib.util.find_spec(package) is None]
    return f"not installed: {', '.join(missing)}" if missing else ""


@pytest.fixture(autouse=True)
def _own_cache(tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Keep what tests put into the user's cache in one directory of the test run."""
    cache = tmp_path_factory.getbasetemp() / "cache"
    cache.mkdir(exist_ok=True)
    monkeypatch.setenv("XDG_CACHE_HOME", str(Path(cache)))
    yield
