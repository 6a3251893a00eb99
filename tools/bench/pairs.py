"""Compare what was measured in interleaved pairs, bare and recorded: the median ratio and how sure it is."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

N_BOOTSTRAP = 10_000


def compare(name: str, bare_ns: Sequence[float], recorded_ns: Sequence[float]) -> dict[str, Any]:
    """Return the medians, the median of the pairs' ratios, and its 95 % bootstrap interval."""
    ratios = np.array(recorded_ns) / np.array(bare_ns)
    random = np.random.default_rng(0)
    medians = np.median(random.choice(ratios, (N_BOOTSTRAP, len(ratios))), axis=1)
    low, high = np.percentile(medians, [2.5, 97.5])
    return {
        "what": name,
        "pairs": len(ratios),
        "bare_ms": round(float(np.median(bare_ns)) / 1e6, 3),
        "recorded_ms": round(float(np.median(recorded_ns)) / 1e6, 3),
        "ratio": round(float(np.median(ratios)), 4),
        "low": round(float(low), 4),
        "high": round(float(high), 4),
    }


def print_table(rows: Sequence[dict[str, Any]]) -> None:
    """Print one line a comparison."""
    print(f"{'what':12}{'pairs':>6}{'bare':>12}{'recorded':>12}{'ratio':>9}   95 % interval of the median")
    for row in rows:
        print(
            f"{row['what']:12}{row['pairs']:>6}{row['bare_ms']:>9.1f} ms{row['recorded_ms']:>9.1f} ms"
            f"{row['ratio']:>9.4f}   {row['low']:.4f} to {row['high']:.4f}"
        )
