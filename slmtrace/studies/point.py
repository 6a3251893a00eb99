"""A point of a sweep: a run request, what is set for it, and the values that tell it from the others."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import reduce
from pathlib import Path

from ..builtin import RunRequest
from .setting import Setting


@dataclass(frozen=True, slots=True)
class Point:
    """One point of a sweep. `values` are its columns, in order; the first is the axis."""

    values: Mapping[str, str | int]
    request: RunRequest  # without what is set
    settings: tuple[Setting, ...] = ()

    @property
    def name(self) -> str:
        """Return the point's name, unique in its sweep."""
        return " ".join(f"{key}={value}" for key, value in self.values.items())

    @property
    def whole_request(self) -> RunRequest:
        """Return the request with what is set for the run; what is set on the node is in `node_files`."""
        return reduce(lambda request, setting: setting.asked_of(request), self.settings, self.request)

    @property
    def node_files(self) -> dict[Path, str]:
        """Return what the node's files must hold during the run."""
        return dict(setting.node_file for setting in self.settings if setting.node_file is not None)
