"""Start the instrument in this process; called once, by sitecustomize, before anything else runs."""

from __future__ import annotations

import os

from . import environment, garbage, imports
from .recorder import recorder


def start() -> None:
    """Open this process's log and hook the import system. A log that cannot be opened leaves the process as it was."""
    if recorder.open(os.environ[environment.RAW]):
        os.register_at_fork(after_in_child=recorder.reopen_after_fork)
        imports.install()
        garbage.install()
    if os.environ.get(environment.CUDA):
        from . import cuda

        cuda.prepare()
