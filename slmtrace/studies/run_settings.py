"""Settings that a run alone has: arguments of its engine, its CPUs and NUMA nodes, what is read ahead for it."""

from __future__ import annotations

import shlex
from dataclasses import dataclass, replace
from pathlib import Path

from ..builtin import RunRequest
from .cpu_list import format_cpus
from .setting import LIMITS, REQUESTS, SERVICE, Setting, Snippet


@dataclass(frozen=True, slots=True)
class EngineArgument(Setting):
    """An argument of `vllm serve`."""

    flag: str
    value: str

    @property
    def key(self) -> str:
        """Return the flag."""
        return self.flag

    @property
    def command(self) -> str:
        """Return what a user types behind the command."""
        return f"{self.flag} {self.value}"

    def asked_of(self, request: RunRequest) -> RunRequest:
        """Return the request with the argument."""
        arguments = (*request.vllm.arguments, self.flag, self.value)
        return replace(request, vllm=replace(request.vllm, arguments=arguments))

    def snippet(self, form: str) -> Snippet:
        """Return where to add it."""
        if form == "k8s":
            return {"args:": [f'- "{self.flag}={self.value}"']}
        return {"": [f"# add to ExecStart=: {self.command}" if form == "systemd" else f"# no sysctl: {self.command}"]}


@dataclass(frozen=True, slots=True)
class Cpus(Setting):
    """The CPUs that the program may run on."""

    cpus: tuple[int, ...]

    @property
    def key(self) -> str:
        """Return what it is about."""
        return "cpus"

    @property
    def command(self) -> str:
        """Return what a user types before the command."""
        return f"taskset -c {format_cpus(self.cpus)}"

    def asked_of(self, request: RunRequest) -> RunRequest:
        """Return the request with the CPUs."""
        return replace(request, prefix=("taskset", "-c", format_cpus(self.cpus), *request.prefix))

    def snippet(self, form: str) -> Snippet:
        """Return what pins a service; in Kubernetes the kubelet decides which CPUs a container has alone."""
        if form == "systemd":
            return {SERVICE: [f"CPUAffinity={format_cpus(self.cpus)}"]}
        if form == "k8s":
            return {
                "": ["# on the node: kubelet --cpu-manager-policy=static gives whole CPUs to containers of their own"],
                LIMITS: [f"    cpu: {len(self.cpus)}"],
            }
        return {"": [f"# no sysctl: {self.command} before the command"]}


@dataclass(frozen=True, slots=True)
class NumaPolicy(Setting):
    """The NUMA nodes that the program runs on and has its memory from."""

    policy: str  # bind: to `nodes`, CPUs and memory; interleave: memory over all of them
    nodes: str = "all"

    @property
    def key(self) -> str:
        """Return what it is about."""
        return "numa"

    @property
    def command(self) -> str:
        """Return what a user types before the command."""
        return " ".join(self._words)

    def asked_of(self, request: RunRequest) -> RunRequest:
        """Return the request with the policy."""
        return replace(request, prefix=(*self._words, *request.prefix))

    def snippet(self, form: str) -> Snippet:
        """Return what binds a service; in Kubernetes the kubelet does, to a node that it chooses."""
        if form == "systemd":
            cpus = ["CPUAffinity=numa"] if self.policy == "bind" else []
            return {SERVICE: [f"NUMAPolicy={self.policy}", f"NUMAMask={self.nodes}", *cpus]}
        if form == "k8s" and self.policy == "bind":
            kubelet = "--topology-manager-policy=single-numa-node --memory-manager-policy=Static"
            return {"": [f"# on the node: kubelet --cpu-manager-policy=static {kubelet}"]}
        return {"": [f"# {self.command} before the command"]}

    @property
    def _words(self) -> tuple[str, ...]:
        if self.policy == "interleave":
            return "numactl", f"--interleave={self.nodes}"
        return "numactl", f"--cpunodebind={self.nodes}", f"--membind={self.nodes}"


@dataclass(frozen=True, slots=True)
class Prefetch(Setting):
    """Reading the weights into the page cache while the program starts: its imports leave the disk idle."""

    files: tuple[Path, ...]

    @property
    def key(self) -> str:
        """Return what it is about."""
        return "prefetch"

    @property
    def command(self) -> str:
        """Return what a user types before the command."""
        patterns = sorted({f"{shlex.quote(str(file.parent))}/*{file.suffix}" for file in self.files})
        return f"cat {' '.join(patterns)} > /dev/null &"

    def asked_of(self, request: RunRequest) -> RunRequest:
        """Return the request with a shell that reads aside."""
        return replace(request, prefix=("sh", "-c", f'{self.command} exec "$@"', "sh", *request.prefix))

    def snippet(self, form: str) -> Snippet:
        """Return a command that does it; what a service does before its start would have to end first."""
        if form == "systemd":
            # systemd takes a single dollar for a variable of its own.
            return {"": [f"""# ExecStart=/bin/sh -c '{self.command} exec "$$@"' sh YOUR-COMMAND"""]}
        if form == "k8s":
            return {"": [f"""command: [sh, -c, '{self.command} exec "$@"', sh]  # and YOUR-COMMAND as args"""]}
        return {"": [f"# no sysctl: {self.command}"]}


@dataclass(frozen=True, slots=True)
class CompileCaches(Setting):
    """A place for compiled code that outlives the program: what was compiled once is there at the next start."""

    name: str = "inference"  # of the directory in /var/cache

    @property
    def key(self) -> str:
        """Return what it is about."""
        return "compile caches"

    @property
    def command(self) -> str:
        """Return what a user types before the program."""
        return " ".join(f"{name}={value}" for name, value in self._variables.items())

    def snippet(self, form: str) -> Snippet:
        """Return what gives a service the place, and names it."""
        if form == "systemd":
            lines = [f'Environment="{name}={value}"' for name, value in self._variables.items()]
            return {SERVICE: [f"CacheDirectory={self.name}", *lines]}
        if form == "k8s":
            return {
                "env:": [f'- {{name: {name}, value: "{value}"}}' for name, value in self._variables.items()],
                "volumeMounts:": [f"- {{name: {self.name}-cache, mountPath: /var/cache/{self.name}}}"],
                "volumes:  # of the pod": [
                    f"- {{name: {self.name}-cache, persistentVolumeClaim: {{claimName: YOUR-CLAIM}}}}"
                ],
            }
        return {"": [f"# no sysctl: set {self.command} for the service"]}

    @property
    def _variables(self) -> dict[str, str]:
        places = {"VLLM_CACHE_ROOT": "vllm", "TORCHINDUCTOR_CACHE_DIR": "inductor", "TRITON_CACHE_DIR": "triton"}
        return {name: f"/var/cache/{self.name}/{place}" for name, place in places.items()}


@dataclass(frozen=True, slots=True)
class Replicas(Setting):
    """So many copies of the program on a node, and what each is sure to get."""

    n: int
    n_cpus: float
    memory_bytes: int

    @property
    def key(self) -> str:
        """Return what it is about."""
        return "replicas"

    @property
    def command(self) -> str:
        """Return what to start."""
        return f"start {self.n} on a node of this kind"

    def snippet(self, form: str) -> Snippet:
        """Return what reserves a replica's part: a scheduler then puts no more of them on a node."""
        mib = self.memory_bytes >> 20
        if form == "k8s":
            return {REQUESTS: [f"    cpu: {round(1000 * self.n_cpus)}m", f"    memory: {mib}Mi"]}
        if form == "systemd":
            return {
                "": [f"# {self.n} instances of a template unit: NAME@1 to NAME@{self.n}"],
                SERVICE: [f"MemoryMin={mib}M"],
            }
        return {"": [f"# no sysctl: {self.command}"]}
