"""Lists of CPUs as the kernel, taskset(1) and systemd write them, such as 0-3,8."""

from __future__ import annotations

from collections.abc import Sequence


def parse_cpus(text: str) -> set[int]:
    """Return the CPUs of a list."""
    runs = [part.partition("-") for part in text.strip().split(",") if part]
    return {cpu for first, dash, last in runs for cpu in range(int(first), int(last if dash else first) + 1)}


def format_cpus(cpus: Sequence[int]) -> str:
    """Return the list of these CPUs."""
    runs: list[list[int]] = []
    for cpu in sorted(cpus):
        if runs and cpu == runs[-1][-1] + 1:
            runs[-1].append(cpu)
        else:
            runs.append([cpu])
    return ",".join(f"{run[0]}-{run[-1]}" if len(run) > 1 else str(run[0]) for run in runs)
