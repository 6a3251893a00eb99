"""What a fault is: what it does to a command, and what a right verdict of it would be."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

from .undo import Undo


class Impossible(Exception):
    """This fault cannot be injected here; the text says why."""


@dataclass(slots=True)
class Setting:
    """What a fault may change: the command's environment, its cgroups, and the machine, with a way back."""

    undo: Undo
    model: Path | None  # the directory of the model that the command loads
    environ: dict[str, str] = field(default_factory=dict)
    arguments: list[str] = field(default_factory=list)  # put at the end of the command
    cgroups: list[Path] = field(default_factory=list)  # the command starts in these
    changes: list[str] = field(default_factory=list)  # what was changed, for people

    def weights(self) -> list[Path]:
        """Return the model's weight files.

        Raises:
            Impossible: no model with weights was named.
        """
        files = sorted(self.model.glob("*.safetensors")) if self.model else []
        if not files:
            raise Impossible("needs --model DIR with *.safetensors in it")
        return files


@dataclass(frozen=True, slots=True)
class Fault:
    """A fault: `expects` are the causes that it lengthens, `findings` the verdicts that name it, in `windows`."""

    name: str
    summary: str
    inject: Callable[[Setting], None]
    expects: tuple[str, ...]
    findings: tuple[str, ...]
    windows: tuple[str, ...] = ("load",)
    cure: Callable[[Setting], None] | None = None  # what the finding recommends, done while the fault lasts
    is_tested: bool = True  # on a machine that has what it needs
    needs_engine: str = ""  # the one that it is about; none: any

    @contextmanager
    def injected(self, model: Path | None = None, *, is_cured: bool = False) -> Iterator[Setting]:
        """Inject it for the time of the context, and follow the verdict's recommendation if asked.

        Raises:
            Impossible: it cannot be injected here.
        """
        with Undo() as undo:
            setting = Setting(undo, model)
            self.inject(setting)
            if is_cured:
                if self.cure is None:
                    raise Impossible("there is no cure to apply but to remove the fault")
                self.cure(setting)
            yield setting
