"""vLLM V1, 0.20 and newer: front end, engine core and workers, wherever they run."""

from __future__ import annotations

from . import core, front, loading, messages, seams, worker

HOOKS = [
    *seams.HOOKS,
    *loading.HOOKS,
    *front.HOOKS,
    *messages.HOOKS,
    *core.HOOKS,
    *worker.HOOKS,
]
