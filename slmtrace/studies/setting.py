"""What a point of a sweep sets, and a recommendation tells others to: how to run with it, to type it, to keep it.

A kind of setting is a class, here or in `run_settings`, and nothing else knows of it. What it changes on the node is
named by `node_file`: the sweep writes it before each run, and puts back what was there.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import ClassVar

from ..builtin import RunRequest

# Lines by the head that they stand under; those under '' stand alone.
Snippet = Mapping[str, Sequence[str]]
_SYSCTLS = Path("/proc/sys")
_TMPFILES, _SYSCTL_D = "# /etc/tmpfiles.d/slmtrace.conf", "# /etc/sysctl.d/90-slmtrace.conf"
# Heads that several kinds of settings have lines under: of a systemd unit, and of a Kubernetes container.
SERVICE = "[Service]"
LIMITS, REQUESTS = "resources:\n  limits:", "resources:\n  requests:"


class Setting(ABC):
    """One thing that is set."""

    __slots__ = ()

    @property
    @abstractmethod
    def key(self) -> str:
        """Return what is set: of two settings of one key only one can hold."""

    @property
    @abstractmethod
    def command(self) -> str:
        """Return what a user types."""

    @property
    def node_file(self) -> tuple[Path, str] | None:
        """Return the file of the node that holds it, and what to write there; None: it is the run's own."""
        return None

    def asked_of(self, request: RunRequest) -> RunRequest:
        """Return the request with this set."""
        return request

    @abstractmethod
    def snippet(self, form: str) -> Snippet:
        """Return what keeps it: for sysctl.d and tmpfiles.d, a systemd unit or a Kubernetes container (forms.FORMS)."""


@dataclass(frozen=True, slots=True)
class Variable(Setting):
    """A variable of the program's environment."""

    name: str
    value: str

    @property
    def key(self) -> str:
        """Return its name."""
        return self.name

    @property
    def command(self) -> str:
        """Return what a user types before the program."""
        return f"{self.name}={self.value}"

    def asked_of(self, request: RunRequest) -> RunRequest:
        """Return the request with the variable."""
        return replace(request, environ={**request.environ, self.name: self.value})

    def snippet(self, form: str) -> Snippet:
        """Return what sets it for a service."""
        if form == "systemd":
            return {SERVICE: [f'Environment="{self.command}"']}
        if form == "k8s":
            return {"env:": [f'- {{name: {self.name}, value: "{self.value}"}}']}
        return {"": [f"# no sysctl: set {self.command} for the service"]}


@dataclass(frozen=True, slots=True)
class NodeFile(Setting):
    """A setting of the kernel's, which holds for the whole node."""

    path: Path
    value: str

    @property
    def key(self) -> str:
        """Return the file's path."""
        return str(self.path)

    @property
    def command(self) -> str:
        """Return what root types."""
        if self._sysctl:
            return f"sysctl -w {self._sysctl}={self.value}"
        return self._echo

    @property
    def node_file(self) -> tuple[Path, str]:
        """Return the file, and the value."""
        return self.path, self.value

    def snippet(self, form: str) -> Snippet:
        """Return what sets it at each boot, or before a service."""
        if form == "systemd":
            return {SERVICE: [f'ExecStartPre=+/bin/sh -c "{self._echo}"']}
        if form == "k8s":
            return {
                "initContainers:  # of the pod": [
                    f"- name: set-{self.path.name.replace('_', '-')}",
                    "  image: busybox",
                    "  securityContext: {privileged: true}",
                    f'  command: [sh, -c, "{self._echo}"]',
                ]
            }
        if self._sysctl:
            return {_SYSCTL_D: [f"{self._sysctl} = {self.value}"]}
        return {_TMPFILES: [f"w {self.path} - - - - {self.value}"]}

    @property
    def _echo(self) -> str:
        return f"echo {self.value} > {self.path}"

    @property
    def _sysctl(self) -> str:
        """Return its name for sysctl(8); '': it has none."""
        return ".".join(self.path.relative_to(_SYSCTLS).parts) if self.path.is_relative_to(_SYSCTLS) else ""


@dataclass(frozen=True, slots=True)
class HugePagePool(NodeFile):
    """A pool of reserved huge pages. By itself it does nothing: who maps memory from it has to be told to."""

    own_bytes: int  # what of it is meant for the program
    page_bytes: int

    PATH: ClassVar = Path("/proc/sys/vm/nr_hugepages")

    def snippet(self, form: str) -> Snippet:
        """Return what reserves it; to Kubernetes it is a resource of the node, of which containers get their parts."""
        if form != "k8s":
            return NodeFile.snippet(self, form)
        mib = self.page_bytes >> 20
        size = f"{mib}Mi" if mib < 1024 else f"{mib >> 10}Gi"
        return {
            "": [f"# on the node, before the kubelet starts: {self.command}"],
            LIMITS: [f"    hugepages-{size}: {self.own_bytes >> 20}Mi", "    memory: YOUR-LIMIT"],
        }


def merge_snippets(settings: Sequence[Setting], form: str) -> list[str]:
    """Return the lines that keep all of these settings; of one key the first holds."""
    chosen: dict[str, Setting] = {}
    for setting in settings:
        chosen.setdefault(setting.key, setting)
    sections: dict[str, list[str]] = {"": []}
    for setting in chosen.values():
        for head, lines in setting.snippet(form).items():
            sections.setdefault(head, []).extend(lines)
    merged: list[str] = []
    for head, lines in sorted(sections.items(), key=lambda section: section[0].partition("\n")[0]):
        merged += [line for line in head.splitlines() if line not in merged] + lines
    return merged
