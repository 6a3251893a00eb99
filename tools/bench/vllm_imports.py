"""Do the imports of vLLM's three processes, as recorded, agree with what Python's own -X importtime says?

    PATH=VENV/bin:$PATH VLLM_CPU_KVCACHE_SPACE=1 python -m tools.bench.vllm_imports [--pairs 3] [--model DIR]

Each pair starts a server once under `slmtrace record` and once under importtime, in alternating order, and ends it when
it is ready. Printed, for each process: the medians of what its imports took, their ratio, and the packages that took
longest. Exit code 1: a ratio is off by more than 10 %, or the packages are not the same.
"""

from __future__ import annotations

import argparse
import os
import statistics
import sys
import tempfile
from collections import Counter
from collections.abc import Sequence
from pathlib import Path

import psutil

from slmtrace.analysis import load
from slmtrace.attribute.evidence import EvidenceBook
from slmtrace.capture.directory import Capture
from slmtrace.engines.models import find_model
from slmtrace.model.events import EventKind
from slmtrace.model.tracks import TrackKind
from slmtrace.output.perfetto.groups import process_names

from .vllm_server import free_ports, serve, serve_command

MAX_DIFFERENCE = 0.1
N_LEADING = 3
# How the titles of the processes begin.
PROCESSES = {"API server": "vllm", "engine core": "VLLM::EngineCor", "worker": "VLLM::Worker"}
# importtime writes to the standard error of all processes alike: each gets a file of its own.
SITECUSTOMIZE = """
import os
def _redirect():
    file = os.open(os.path.join(os.environ["IMPORTTIME_DIR"], str(os.getpid())), os.O_WRONLY | os.O_CREAT | os.O_APPEND)
    os.dup2(file, 2)
    os.close(file)
_redirect()
os.register_at_fork(after_in_child=_redirect)
"""

# What the modules of each package took by themselves, ns.
Times = Counter[str]


def main() -> int:
    """Measure, compare, print."""
    args = _arguments()
    model = str(find_model(args.model).path)
    recorded: dict[str, list[Times]] = {process: [] for process in PROCESSES}
    told: dict[str, list[Times]] = {process: [] for process in PROCESSES}
    with tempfile.TemporaryDirectory(prefix="slmtrace-imports-") as name:
        for number in range(args.pairs):
            scratch = Path(name) / str(number)
            sides = [(_record, recorded), (_run_importtime, told)]
            for measure, into in sides[::-1] if number % 2 else sides:
                for process, times in measure(model, scratch).items():
                    into[process].append(times)
    print(f"{args.pairs} pairs     importtime    recorded   ratio  packages that took longest")
    lines = [_compare(process, told[process], recorded[process]) for process in PROCESSES]
    return 0 if all(lines) else 1


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--pairs", type=int, default=3)
    parser.add_argument("--model", default="tiny", help="a model directory; default: the embedded tiny model")
    return parser.parse_args()


def _record(model: str, scratch: Path) -> dict[str, Times]:
    """Return what the imports of each process took by a recording."""
    port, capture = free_ports()[0], scratch / "capture"
    recorder = [sys.executable, "-m", "slmtrace", "record", "--probes", "ranges", "-o", str(capture), "--"]
    with serve([*recorder, *serve_command(model, port)], port):
        pass
    trace = load(Capture.open(capture))
    book, names = EvidenceBook(trace), process_names(trace)
    found = {process: Times() for process in PROCESSES}
    for track in trace.tracks.rows(TrackKind.THREAD):
        process = _process_of(names[trace.tracks[track].pid or trace.tracks[track].tid])
        imports = book.nested(book.rows(track, (EventKind.IMPORT, EventKind.DLOPEN)))
        for row, dur_ns in zip(imports.owner.tolist(), (imports.end_ns - imports.start_ns).tolist(), strict=True):
            if process:
                found[process][trace.strings[int(trace.events.name[row])].partition(".")[0]] += dur_ns
    return found


def _run_importtime(model: str, scratch: Path) -> dict[str, Times]:
    """Return what the imports of each process took by importtime."""
    port, site, logs = free_ports()[0], scratch / "site", scratch / "importtime"
    for directory in (site, logs):
        directory.mkdir(parents=True)
    (site / "sitecustomize.py").write_text(SITECUSTOMIZE)
    environ = {**os.environ, "PYTHONPATH": str(site), "PYTHONPROFILEIMPORTTIME": "1", "IMPORTTIME_DIR": str(logs)}
    with serve(serve_command(model, port), port, environ) as server:
        root = psutil.Process(server.pid)
        title_by_pid = {process.pid: process.name() for process in (root, *root.children(recursive=True))}
    return {
        process: _read_importtime(logs / str(pid))
        for pid, title in title_by_pid.items()
        if (process := _process_of(title))
    }


def _process_of(title: str) -> str:
    return next((process for process, beginning in PROCESSES.items() if title.startswith(beginning)), "")


def _read_importtime(path: Path) -> Times:
    times = Times()
    for line in path.read_text(errors="replace").splitlines():
        own_us, _, rest = line.removeprefix("import time:").partition("|")
        if line.startswith("import time:") and own_us.strip().isdigit():
            times[rest.rpartition("|")[2].strip().partition(".")[0]] += 1000 * int(own_us)
    return times


def _compare(process: str, told: Sequence[Times], recorded: Sequence[Times]) -> bool:
    """Print the line of a process, and say whether both sides agree."""
    told_s, recorded_s = (statistics.median(times.total() for times in side) / 1e9 for side in (told, recorded))
    leading, own_leading = (_leading(side) for side in (told, recorded))
    ratio = recorded_s / told_s
    is_near, is_same = abs(ratio - 1) <= MAX_DIFFERENCE, set(leading) == set(own_leading)
    packages = ", ".join(leading) if is_same else f"{', '.join(leading)}, but recorded: {', '.join(own_leading)}"
    failed = "" if is_near and is_same else "  DISAGREES"
    print(f"{process:12}{told_s:10.2f} s{recorded_s:10.2f} s{ratio:8.3f}  {packages}{failed}")
    return is_near and is_same


def _leading(side: Sequence[Times]) -> list[str]:
    total = Times()
    for times in side:
        total.update(times)
    return [package for package, _ in total.most_common(N_LEADING)]


if __name__ == "__main__":
    sys.exit(main())
