"""Check that recording leaves CUDA graphs alone: captured, then replayed, under each way of recording.

Usage: graphs.py [--replays N] [--keep DIR]
The program's exit code must be 0 and its results those of a run without recording. Expected of the captures: graphs as
wholes in the light tier, their launches alone without kernels, each of their kernels in the deep tier. Exits with 1 if
anything is otherwise.
"""

from __future__ import annotations

import argparse
import re
import subprocess
import sys
import tempfile
from collections import Counter
from pathlib import Path

import numpy as np

from slmtrace.analysis import load
from slmtrace.capture.directory import Capture
from slmtrace.model.events import EventKind
from slmtrace.model.trace import Trace

WORKLOAD = Path(__file__).with_name("graph_workload.py")
RECORDERS = {"light": [], "calls": ["--no-gpu-kernels"], "deep": ["--tier", "deep"]}
_TIMEOUT_S = 150
_TOLD = re.compile(r"^launches (\d+) kernels (\d+) digest (\w+)$", re.MULTILINE)
_LAUNCHES = ("cudaGraphLaunch", "cuGraphLaunch")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--replays", type=int, default=100)
    parser.add_argument("--keep", type=Path, help="where the captures stay  [default: nowhere]")
    args = parser.parse_args()
    command = [sys.executable, str(WORKLOAD), "--replays", str(args.replays)]
    bare = _TOLD.search(run(command))
    if bare is None:
        sys.exit("the program does not run without recording either")
    failures = []
    with tempfile.TemporaryDirectory() as temporary:
        for name, options in RECORDERS.items():
            path = (args.keep or Path(temporary)) / f"graphs-{name}"
            recorder = [sys.executable, "-m", "slmtrace", "record", "--probes", "ranges,cuda", *options]
            told = _TOLD.search(run([*recorder, "-o", str(path), "--", *command]))
            found = ["it failed"] if told is None else []
            if told is not None:
                if told[0] != bare[0]:
                    found.append(f"it computed {told[0]!r} and not {bare[0]!r}")
                found += problems(name, load(Capture.open(path)), int(told[1]), int(told[2]))
            print(f"{name}: {'; '.join(found) or 'ok'}", flush=True)
            failures += found
    sys.exit(bool(failures))


def run(command: list[str]) -> str:
    """Return what a program printed, '' if it failed."""
    try:
        done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=_TIMEOUT_S)
    except subprocess.TimeoutExpired:
        print(f"no end after {_TIMEOUT_S} s: {' '.join(command)}")
        return ""
    if done.returncode:
        print(f"exit code {done.returncode}: {' '.join(command)}\n{done.stderr[-2000:]}")
        return ""
    return done.stdout


def problems(recorder: str, trace: Trace, n_launches: int, n_kernels: int) -> list[str]:
    """Return what is wrong with a capture of so many launches of graphs with at least so many kernels each."""
    events = trace.events
    names = np.array([trace.strings[name] for name in events.name.tolist()], np.str_)
    launches = events.detail[(events.kind == EventKind.CUDA_API) & np.isin(names, _LAUNCHES)]
    calls = set(launches.tolist())
    is_kernel = events.kind == EventKind.GPU_KERNEL
    is_graph = is_kernel & np.char.startswith(names, "graph ")
    kernels = Counter(events.detail[is_kernel & ~is_graph & np.isin(events.detail, launches)].tolist())
    n_copies = int(((events.kind == EventKind.GPU_MEMCPY) & np.isin(events.detail, launches)).sum())
    print(
        f"{recorder}: {len(calls)} launches, {int(is_graph.sum())} graphs, {sum(kernels.values())} kernels and "
        f"{n_copies} copies of graphs, {int(is_kernel.sum())} kernels in all"
    )
    n_graphs = n_launches if recorder == "light" else 0
    expected = {
        f"{n_launches} launches": len(calls) == n_launches,
        f"{n_graphs} graphs as wholes": int(is_graph.sum()) == n_graphs,
        "no kernels of graphs": recorder == "deep" or not kernels,
        "no kernels at all": recorder != "calls" or not is_kernel.any(),
        f"{n_kernels} kernels or more in each launch": recorder != "deep"
        or (len(kernels) == n_launches and min(kernels.values()) >= n_kernels),
    }
    return [f"expected {what}" for what, is_so in expected.items() if not is_so]


if __name__ == "__main__":
    main()
