"""The functions of the CUDA driver that are probed in processes that run already, numbered across its libraries."""

from __future__ import annotations

from typing import NamedTuple

from ...capture.cuda_calls import RARE_DRIVER_FUNCTIONS
from .sites import find_sites


class Function(NamedTuple):
    """An exported function: the library that has it, its name, and where in the file to probe it."""

    library: str
    name: str
    offset: int


class Driver(NamedTuple):
    """What there is to probe; a function's number is its place. `troubles` says what there is not."""

    functions: tuple[Function, ...]
    troubles: tuple[str, ...]

    def offsets(self) -> dict[str, dict[int, int]]:
        """Return the offsets of each library's functions by their numbers."""
        found: dict[str, dict[int, int]] = {}
        for number, function in enumerate(self.functions):
            found.setdefault(function.library, {})[number] = function.offset
        return found


def find_driver(libraries: list[str]) -> Driver:
    """Find the rare functions of each library, in all their versions (cuMemAlloc, cuMemAlloc_v2_ptsz)."""
    functions, troubles = [], []
    for library in libraries:
        try:
            sites = find_sites(library, lambda name: name.startswith(RARE_DRIVER_FUNCTIONS))
        except (OSError, ValueError) as error:
            troubles.append(f"{library}: {error}")
            continue
        functions += [Function(library, name, site.offset) for name, site in sorted(sites.items())]
        missing = [wanted for wanted in RARE_DRIVER_FUNCTIONS if not any(name.startswith(wanted) for name in sites)]
        if missing:
            troubles.append(f"{library} has no {', '.join(missing)}")
    return Driver(tuple(functions), tuple(troubles))
