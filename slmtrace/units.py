"""Integers to text: the only place that formats durations, sizes and shares."""

from __future__ import annotations


def format_ns(ns: int) -> str:
    """Format a duration with three significant digits: '842 us', '5.71 ms', '36.1 s'."""
    if ns < 0:
        return "-" + format_ns(-ns)
    for unit, scale in (("s", 1_000_000_000), ("ms", 1_000_000), ("us", 1_000)):
        if ns >= scale:
            return f"{_three_digits(ns / scale)} {unit}"
    return f"{ns} ns"


def format_bytes(size_bytes: int) -> str:
    """Format a size in binary units: '4.00 KiB', '2.88 GiB'."""
    if size_bytes < 0:
        return "-" + format_bytes(-size_bytes)
    for unit, scale in (("TiB", 1 << 40), ("GiB", 1 << 30), ("MiB", 1 << 20), ("KiB", 1 << 10)):
        if size_bytes >= scale:
            return f"{_three_digits(size_bytes / scale)} {unit}"
    return f"{size_bytes} B"


def format_rate(size_bytes: int, ns: int) -> str:
    """Format bytes over a duration in decimal units per second: '1.07 GB/s'."""
    if ns <= 0:
        return "-"
    rate = size_bytes * 1e9 / ns
    for unit, scale in (("GB/s", 1e9), ("MB/s", 1e6), ("kB/s", 1e3)):
        if rate >= scale:
            return f"{_three_digits(rate / scale)} {unit}"
    return f"{rate:.0f} B/s"


def format_share(part: int, whole: int) -> str:
    """Format a share of a whole: '81.2 %', '<0.1 %', '0 %'."""
    if part == 0 or whole == 0:
        return "0 %"
    share = 100 * part / whole
    return "<0.1 %" if share < 0.1 else f"{share:.1f} %"


def format_count(count: int) -> str:
    """Format a count with thousands apart: '295,012'."""
    return f"{count:,}"


def _three_digits(value: float) -> str:
    if value >= 99.95:
        return f"{value:.0f}"
    if value >= 9.995:
        return f"{value:.1f}"
    return f"{value:.2f}"
