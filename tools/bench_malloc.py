"""Measure what the malloc shim costs a call: malloc and free of 64 bytes, with it and without, interleaved.

python -m tools.bench_malloc [--rounds N] [--preload LIBRARY]
"""

from __future__ import annotations

import argparse
import os
import statistics
import subprocess
import tempfile
from pathlib import Path

from slmtrace.capture.directory import Capture
from slmtrace.probes.base import RecordOptions
from slmtrace.probes.malloc import MallocProbe

PROGRAM = r"""
#include <stdio.h>
#include <stdlib.h>
#include <time.h>
enum { PAIRS = 1000000, REPEATS = 5 };
int main(void) {
	double best = 1e18;
	for (int r = 0; r < REPEATS; r++) {
		struct timespec a, b;
		clock_gettime(CLOCK_MONOTONIC, &a);
		for (int i = 0; i < PAIRS; i++) { void *volatile p = malloc(64); free(p); }
		clock_gettime(CLOCK_MONOTONIC, &b);
		double ns = (b.tv_sec - a.tv_sec) * 1e9 + (b.tv_nsec - a.tv_nsec);
		if (ns < best) best = ns;
	}
	printf("%f\n", best / (2.0 * PAIRS));
}
"""


def main() -> None:
    """Print the nanoseconds a call and their ratio."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--preload", default="", help="another allocator, by the name of its library")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as directory:
        program = compile_program(Path(directory))
        probe = MallocProbe()
        probe.start(Capture.create(Path(directory) / "capture"), RecordOptions(malloc="slow"))
        plain = {**os.environ, "LD_PRELOAD": arguments.preload}
        shimmed = {**plain, **probe.environ(plain)}
        pairs = [(time_call(program, plain), time_call(program, shimmed)) for _ in range(arguments.rounds)]
    without_ns = statistics.median(pair[0] for pair in pairs)
    with_ns = statistics.median(pair[1] for pair in pairs)
    print(f"without {without_ns:.1f} ns a call, with {with_ns:.1f} ns: +{with_ns - without_ns:.1f} ns", end="")
    print(f", {with_ns / without_ns:.1f} x (median of {arguments.rounds} interleaved pairs)")


def compile_program(directory: Path) -> Path:
    """Compile the loop."""
    source, program = directory / "loop.c", directory / "loop"
    source.write_text(PROGRAM)
    subprocess.run(["cc", "-O1", "-fno-builtin", "-o", program, source], check=True)
    return program


def time_call(program: Path, environ: dict[str, str]) -> float:
    """Return the nanoseconds of one call."""
    return float(subprocess.run([program], env=environ, capture_output=True, check=True).stdout)


if __name__ == "__main__":
    main()
