"""Rules about the program itself: the tokenizer, garbage collection, imports of sources and twice, odd requests."""

from __future__ import annotations

from ...model.taxonomy import Cause, Stage
from ...units import format_count, format_ns
from ..case import Case
from ..floors import token_floor_ns
from ..imports import IMPORTING
from ..rule import Claim, Rule
from .device import gpus

GC_RANGE = "garbage collection"  # as the instrument calls it
_TOKENIZING = (Cause.TOKENIZE, Cause.PYTHON, Cause.LOCK_WAIT, Cause.EXTERNAL, Cause.NO_EVIDENCE)
# A call of a tokenizer takes this long whatever the prompt: its Python layers, its first use.
_CALL_NS = 2_000_000
_COLLECTING = (Cause.PYTHON, Cause.IMPORT, Cause.CPU_KERNEL, Cause.TOKENIZE, Cause.DETOKENIZE, Cause.LAUNCH)
# Importing makes garbage by its nature: a healthy load of torch and transformers collects for up to a fifth of what it
# takes without.
_USUAL_COLLECTIONS = 0.25
_PACKAGES_TOLD = 3
_WORK = (Cause.CPU_KERNEL, Cause.GPU_KERNEL, Cause.LAUNCH, Cause.PYTHON, Cause.TOKENIZE, Cause.DETOKENIZE, Cause.HTTP)


def _tokenizer(case: Case) -> Claim | None:
    took_ns, n_tokens = case.left(_TOKENIZING, (Stage.TOKENIZE,)), case.facts.n_tokens
    floor_ns = token_floor_ns(case) + _CALL_NS
    of = f" for {format_count(n_tokens)} tokens" if n_tokens else ""
    return Claim(
        took_ns - floor_ns,
        f"tokenizing took {format_ns(took_ns)}{of}, a fast tokenizer needs {format_ns(floor_ns)}",
        "use a compiled tokenizer (tokenizer.is_fast must be True: ship tokenizer.json), in a process that is not busy",
        confidence="high" if n_tokens else "medium",
    )


def _collections(case: Case) -> Claim | None:
    took_ns = case.ns_of("ranges", GC_RANGE, _COLLECTING)
    usual_ns = round(_USUAL_COLLECTIONS * (case.total_ns - took_ns)) if case.is_load else 0
    return Claim(
        took_ns - usual_ns,
        f"Python's garbage collector took {format_ns(took_ns)}",
        "gc.freeze() after the load and gc.set_threshold(100_000, 50, 50); or gc.disable() while loading",
    )


def _sources(case: Case) -> Claim | None:
    facts = case.facts
    why = "their .pyc files are missing"
    if facts.n_misfits:
        why = f"the .pyc files of {format_count(facts.n_misfits)} do not fit their sources' times and sizes"
        why += ", the others have none" if facts.n_misfits < facts.n_compiled else ""
    return Claim(
        facts.compiled_ns,
        f"compiling {format_count(facts.n_compiled)} imported modules from their sources took "
        f"{format_ns(facts.compiled_ns)}: {why}",
        "python -m compileall -q on site-packages as the last step of an image's build; unset PYTHONDONTWRITEBYTECODE",
        confidence="medium",
    )


def _imported_again(case: Case) -> Claim | None:
    """Imports of what the starting process had imported: a fork has it. Waits for files are not of their nature."""
    again = case.facts.again
    if "vllm" in again.ns_by_package and not gpus(case, "before"):
        return None  # vLLM on CPUs always spawns (vllm/platforms/cpu.py sets it over whatever is set)
    # What other rules explained of a cause, they explained of this part of it alike.
    took_ns = sum(
        again.ns_by_cause.get(cause, 0) * case.left((cause,)) // max(case.share(cause).ns, 1) for cause in IMPORTING
    )
    packages = sorted(again.ns_by_package, key=lambda name: (-again.ns_by_package[name], name))[:_PACKAGES_TOLD]
    told = ", ".join(f"{name} {format_ns(again.ns_by_package[name])}" for name in packages)
    preload = ", ".join(repr(name) for name in packages)
    return Claim(
        took_ns,
        f"{', '.join(again.processes)} started anew, and imported for {format_ns(took_ns)} what the process that "
        f"started it had imported before ({told})",
        "VLLM_WORKER_MULTIPROC_METHOD=fork (vllm serve takes spawn where nothing is set; vLLM does so whatever is set "
        "with --numa-bind, under Ray, and once CUDA is initialized)"
        if "vllm" in again.ns_by_package
        else "fork, where neither threads nor CUDA run yet: multiprocessing.set_start_method('fork'); or let a fork "
        f"server import it meanwhile: set_start_method('forkserver'), set_forkserver_preload([{preload}])",
        confidence="medium",
    )


def _odd_request(case: Case) -> Claim | None:
    """A request whose own work took longer than the same work of its neighbours."""
    if not case.is_steady:
        return None
    longest = max(_WORK, key=lambda cause: case.left((cause,)) - case.usual_ns((cause,)))
    usual_ns, took_ns = case.usual_ns((longest,)), case.left((longest,))
    if not usual_ns:
        return None
    after = f", after {format_ns(case.idle_ns)} without a request" if case.idle_ns else ""
    return Claim(
        took_ns - usual_ns,
        f"{longest.label} took {format_ns(took_ns)}, and {format_ns(usual_ns)} in the other requests{after}",
        "have a health check generate a token now and then, or keep the node from dozing off: cpupower idle-set -D 0; "
        "nvidia-smi -pm 1"
        if after
        else "compare the two requests in the timeline (slmtrace view): prompt length, batch, CPU or GPU frequency",
        confidence="low",
    )


RULES = (
    Rule("slow_tokenizer", _TOKENIZING, _tokenizer, (Stage.TOKENIZE,)),
    Rule("garbage_collection", _COLLECTING, _collections),
    Rule("no_compiled_python", (Cause.IMPORT,), _sources),
    Rule("serial_imports", IMPORTING, _imported_again, (Stage.IMPORT,)),
    Rule("odd_request", _WORK, _odd_request, is_work=True),
)
