"""What a row of a hook table is."""

from __future__ import annotations

from dataclasses import dataclass, field

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Any

    from ..wrap import Call


@dataclass(frozen=True)
class Target:
    """A function by its module and its dotted name in it."""

    module: str
    attribute: str

    def __str__(self) -> str:
        return f"{self.module}:{self.attribute}"


@dataclass(frozen=True)
class HookStatus:
    """What became of a row: `status` is "ok", "missing", "not needed" or "not importable"."""

    table: str
    name: str
    target: str
    status: str


@dataclass
class Hook:
    """One thing to wrap: where it is, under which stage and label it is recorded, and what else its calls tell."""

    module: str
    attribute: str
    stage: str = ""  # a label of model/taxonomy.py's Stage; '': the stage of the range around it
    label: str = ""  # '': the attribute that was found
    begin: bool = False  # write a BEGIN record first: for what takes long, and may be killed
    accounting: bool = False  # write a RUSAGE record too
    gated: bool = False  # nothing of it is recorded after a request's first token
    compiled: bool = False  # torch.compile may trace calls of it, and must not notice; torch has been imported
    silent: bool = False  # no record: only `enter` and `leave` count
    shortest_ns: int = 0  # calls shorter than this are not recorded
    also: tuple[tuple[str, str], ...] = ()  # other places (module, attribute), tried in this order
    unless: str = ""  # not needed where the module has this attribute
    optional: bool = False  # where it is missing, another row covers for it, or there is nothing to record
    size: Callable[[Call, Any], int] | None = None  # bytes, from the call and its result
    request: Callable[[Call, Any], str] | None = None  # the request id, where the thread itself works on none
    admit: Callable[[Call], bool] | None = None  # asked first: whether this call is recorded
    sliced: bool = False  # of a coroutine: each stretch that it runs on its thread is a RANGE too
    later_stage: str | None = None  # of a sliced coroutine: its stage once it was suspended
    item: Callable[[Call, Any, int], None] | None = None  # of a sliced generator: called with each item and its time
    replace: Callable[[Any, str], None] | None = None  # puts something else in place, instead of wrapping
    enter: Callable[[Call, int], None] | None = None  # called with the call and its start
    leave: Callable[[Call, Any, int, int], None] | None = None  # called with the call, its result, start and end

    is_installed: bool = field(default=False, init=False)
    has_failed: bool = field(default=False, init=False)
    name: str = field(default="", init=False)  # as it is recorded, "stage|label"
    later_name: str = field(default="", init=False)  # the name of a sliced coroutine once it was suspended

    def __post_init__(self) -> None:
        self.targets = [Target(self.module, self.attribute), *(Target(*place) for place in self.also)]
        self._name_after(self.targets[0])

    def install_at(self, target: Target) -> None:
        """Settle on one of the targets; without a label of its own, the row is called after it."""
        self.is_installed = True
        self._name_after(target)

    def _name_after(self, target: Target) -> None:
        label = self.label or target.attribute
        self.name = f"{self.stage}|{label}"
        self.later_name = self.name if self.later_stage is None else f"{self.later_stage}|{label}"
