"""The health certificate of a node: what a small model's cold and warm runs measured there, and its plain JSON form."""

from __future__ import annotations

import itertools
import json
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from datetime import datetime, timezone
from importlib import resources
from pathlib import Path
from statistics import median
from typing import Any

from ..builtin import Answered, ProbeChoices, RunRequest
from ..capture.json_file import read_json_object
from ..capture.shape import Each, Whole, find_misfit
from ..engines.floors import measure_floors
from ..engines.models import Model, find_model
from ..errors import CaptureError
from ..model.report import Report, WindowReport
from ..model.taxonomy import Phase, Stage, WindowKind
from ..output.summary import as_mapping, state_before
from ..recording.deadline import OutOfTime
from ..recording.facts import describe_host
from ..recording.progress import Progress
from .advice import advise
from .density import fit_replicas, read_node
from .judge import SLOW, Check, judge, overall
from .recommendation import Recommendation
from .repeat import FIRST, LATER, LOAD, Run, own_ns, run_once, series_of, size_columns

SCHEMA = "slmtrace.certificate/1"
SCHEMA_FILE = "certificate.schema.json"
MAX_CERTIFICATE_BYTES = 16 << 20
# What its readers rely on; the published schema says more.
_SHAPE = Whole(
    {
        **dict.fromkeys(("schema", "created", "verdict"), str),
        "checks": [Whole(dict.fromkeys(("name", "status", "reason", "phase", "cause"), str))],
        "host": {},
        "engine": Each(str),
        **dict.fromkeys(("floors", "measures"), Each(float)),
        "windows": Each(Whole({"total_ns": int, "phases": Each(int), "causes": Each(int)})),
        "state": {},
    }
)
LIMIT_S = 60.0
N_REQUESTS, N_NEW_TOKENS = 8, 8
# As many answers make a run whole: of a cold one the load counts, of a warm one what is steady.
_ENOUGH = {"cold": 1, "warm": 4}
# Shares of the limit by which the floors are measured, and the cold run is explained.
_FLOORS_SHARE, _COLD_SHARE = 0.25, 0.6
# Stages that read other files than the model's.
_OTHER_READING = (Stage.PROCESS_START, Stage.IMPORT)
# For the end of a recording, and its analysis.
_EXPLAIN_S = 6.0
CONTEXT_LENGTHS = (2048, 4096, 8192, 16384, 32768)
# memory.events of version 2, and what version 1 counts in their place.
_LIMIT_EVENTS = ("high", "max", "failcnt")
# What of the state a certificate keeps: settings and limits, no lists of files.
_STATE_TOPICS = ("memory", "thp", "hugepages", "numa", "cgroup", "cpu", "allocator", "storage", "kernel", "gpu")


@dataclass(frozen=True, slots=True)
class Certificate:
    """What was measured, in which windows the time went where, and what each check says of it."""

    data: Mapping[str, Any]
    recommendations: Sequence[Recommendation] = ()  # of one just made; in `data` is their text

    @property
    def verdict(self) -> str:
        """Return pass, warn or fail."""
        return str(self.data["verdict"])

    @property
    def checks(self) -> list[Check]:
        """Return the checks, the gravest first."""
        return [Check(**one) for one in self.data["checks"]]


def certify(
    request: RunRequest,
    probes: ProbeChoices,
    progress: Progress,
    baseline: Certificate | None = None,
    say: Callable[[str], None] = lambda text: None,
    limit_s: float = LIMIT_S,
) -> Certificate:
    """Measure the floors anew, load cold, load warm, answer a few requests, and judge what there was time for.

    Raises:
        SlmtraceError: the model or the engine is not there, or a run failed.
    """
    start = time.monotonic()

    def run(request: RunRequest, by_s: float) -> Run | None:
        with suppress(OutOfTime):
            return run_once(replace(request, deadline_s=by_s - _EXPLAIN_S), probes, progress, explained_by_s=by_s)
        return None

    model = find_model(request.model_name, progress.say)
    say("step 1 of 3: what the disk, the memory and the CPUs can do")
    floors = measure_floors(model, progress.say, _FLOORS_SHARE * limit_s)
    say("step 2 of 3: a load with nothing of the model in memory")
    cold = run(replace(request, cache="cold", n_requests=1, n_new_tokens=1), start + _COLD_SHARE * limit_s)
    say(f"step 3 of 3: a load from memory, and {N_REQUESTS} requests")
    warm_request = replace(request, cache="warm", n_requests=N_REQUESTS, n_new_tokens=N_NEW_TOKENS)
    warm = run(warm_request, start + limit_s)
    facts = describe(model, floors, cold, warm)
    checks = judge(facts, baseline.data if baseline else None)
    recommendations = recommend(cold, warm)
    return Certificate(
        {
            "schema": SCHEMA,
            "created": datetime.now(timezone.utc).strftime("%Y-%m-%dT%H:%M:%SZ"),
            "took_s": round(time.monotonic() - start, 3),
            "limit_s": limit_s,
            "verdict": overall(checks),
            "checks": [one.to_json() for one in checks],
            "recommendations": [one.text for one in recommendations],
            **facts,
        },
        recommendations,
    )


def recommend(cold: Run | None, warm: Run | None) -> list[Recommendation]:
    """Return what can be set about the findings of both runs, and how many replicas fit, by the warm one."""
    advised = {one.subject: one for run in (warm, cold) if run is not None for one in advise(run.report)}
    return [*advised.values(), *(fit_replicas([size_columns(warm)], read_node()) if warm is not None else ())]


def describe(model: Model, floors: Mapping[str, float], cold: Run | None, warm: Run | None) -> dict[str, Any]:
    """Return what was measured: the part of a certificate that is judged. None: there was no time for that run."""
    runs = {name: run for name, run in (("cold", cold), ("warm", warm)) if run is not None}
    report = next((run.report for run in (warm, cold) if run is not None), _nothing(model))
    unfinished = [name for name, run in runs.items() if len(run.answers) < _ENOUGH[name]]
    later = [one for one in report.windows if one.kind is WindowKind.TTFT][1:] if warm is not None else []
    windows = {f"{name} {LOAD}": series_of(run.report).get(LOAD) for name, run in runs.items()}
    windows |= {name: one for name, one in series_of(report).items() if name != LOAD and warm is not None}
    if len(later) > 2:
        # Whatever else runs on a node disturbs one request now and then: the slowest of all says nothing.
        windows[SLOW] = sorted(later, key=own_ns)[3 * len(later) // 4]
    return {
        "host": dict(as_mapping(report.capture.get("host"))),
        "engine": {key: str(report.capture.get(key) or "") for key in ("engine", "engine_version", "model", "tier")},
        "model_bytes": _weights_bytes(model),
        "floors": dict(floors),
        "measures": {
            **_measures(windows, report, warm.answers if warm is not None else []),
            **(_weights_read(cold.report) if cold is not None and "cold" not in unfinished else {}),
        },
        "windows": {name: _window(window) for name, window in windows.items() if window is not None},
        "unfinished": unfinished,
        "not_done": [name for name in _ENOUGH if name not in runs],
        "missing_sources": [one.name for one in report.sources if one.status == "unavailable"],
        "state": {topic: dict(found) if isinstance(found, Mapping) else found for topic, found in _state(report)},
        "kv_cache": kv_cache_table(model, report),
    }


def read_certificate(path: Path) -> Certificate:
    """Read a certificate.

    Raises:
        CaptureError: it is none.
    """
    try:
        data = read_json_object(path, MAX_CERTIFICATE_BYTES, follows_links=True)
        if misfit := find_misfit(data, _SHAPE):
            raise ValueError(misfit)
        if data["schema"] != SCHEMA:
            raise ValueError(f"schema {data['schema'][:80]!r} is not {SCHEMA!r}")
        certificate = Certificate(data)
        _ = certificate.checks
    except (OSError, ValueError, TypeError) as error:
        raise CaptureError(f"{path} is no certificate: {error}", hint="slmtrace certify -o DIR makes one") from error
    return certificate


def read_certificate_schema() -> dict[str, Any]:
    """Return the published JSON Schema of certificate.json."""
    text = resources.files(__package__).joinpath(SCHEMA_FILE).read_text(encoding="utf-8")
    schema: dict[str, Any] = json.loads(text)
    return schema


def render_certificate_json(certificate: Certificate) -> str:
    """Render certificate.json."""
    return json.dumps(certificate.data, indent=1, sort_keys=True, allow_nan=False) + "\n"


def kv_cache_table(model: Model, report: Report) -> list[dict[str, int]]:
    """Return, for each context length, the bytes of one sequence's KV cache and how many fit the first GPU.

    It is computed from the model's configuration and the GPU's memory, not measured; empty without a GPU.
    """
    gpus = state_before(report, "gpu").get("gpus")
    gpu = as_mapping(gpus[0]) if isinstance(gpus, list) and gpus else {}
    memory_bytes, config = gpu.get("memory_total_bytes"), model.config
    try:
        heads = int(config["num_attention_heads"])
        head_size = int(config.get("head_dim") or config["hidden_size"] // heads)
        per_token = 4 * int(config["num_hidden_layers"]) * int(config.get("num_key_value_heads") or heads) * head_size
    except (KeyError, TypeError, ValueError, ZeroDivisionError):
        return []
    if not isinstance(memory_bytes, int):
        return []
    free_bytes = max(0, memory_bytes - _weights_bytes(model))
    return [
        {"max_model_len": n, "bytes_per_sequence": n * per_token, "sequences": free_bytes // (n * per_token)}
        for n in CONTEXT_LENGTHS
    ]


def _nothing(model: Model) -> Report:
    """Return the report of a node where no run could be explained."""
    capture = {"host": describe_host(), "engine": "hf", "model": model.name}
    return Report(capture=capture, sources=[], state={}, windows=[], overhead={}, ledger=[], clock={}, quality=[])


def _weights_bytes(model: Model) -> int:
    return sum(path.stat().st_size for path in model.weight_files)


def _measures(
    windows: Mapping[str, WindowReport | None], report: Report, all_answers: Sequence[Answered]
) -> dict[str, float]:
    names = {
        "cold_load_real_s": f"cold {LOAD}",
        "warm_load_real_s": f"warm {LOAD}",
        "ttft_first_s": FIRST,
        "ttft_steady_s": LATER,
        "ttft_slow_s": SLOW,
    }
    found = {name: window.total_ns / 1e9 for name, key in names.items() if (window := windows.get(key)) is not None}
    steady, slow = windows.get(LATER), windows.get(SLOW)
    if steady is not None and slow is not None:
        found["ttft_spread"] = own_ns(slow) / own_ns(steady)
    found |= _memory_limit_reached(report)
    answers = all_answers[1:]
    if answers:
        found["gen_latency_s"] = float(median(one.latency_s for one in answers))
        found["tokens_per_second"] = sum(one.n_new_tokens for one in answers) / sum(one.latency_s for one in answers)
    if len(answers) > 2 and answers[0].rss_bytes:
        steps = [b.rss_bytes - a.rss_bytes for a, b in itertools.pairwise(answers)]
        found["rss_drift_bytes_per_request"] = float(median(steps))
    return found


def _weights_read(report: Report) -> dict[str, float]:
    """Return how long storage held up a cold run outside imports; mapped weights come with the first request."""
    stages = (one for window in report.windows for one in window.stages)
    spent_ns = sum(one.phases.get(Phase.STORAGE, 0) for one in stages if one.stage not in _OTHER_READING)
    return {"cold_weights_read_s": spent_ns / 1e9}


def _memory_limit_reached(report: Report) -> dict[str, float]:
    """Return how often a run met its cgroup's memory limits; empty where nobody counts."""
    moments = as_mapping(report.state.get("cgroup"))
    before, after = (as_mapping(as_mapping(moments.get(key)).get("memory_events")) for key in ("before", "after"))
    grown = [int(after[name]) - int(before[name]) for name in _LIMIT_EVENTS if name in before and name in after]
    return {"memory_limit_reached": float(sum(grown))} if grown else {}


def _window(window: WindowReport) -> dict[str, Any]:
    causes = sorted(window.causes, key=lambda share: (-share.ns, share.cause))
    return {
        "total_ns": window.total_ns,
        "phases": {phase.label: int(window.phases.get(phase, 0)) for phase in Phase},
        "causes": {f"{one.cause.phase.label}.{one.cause.label}": one.ns for one in causes if one.ns},
    }


def _state(report: Report) -> list[tuple[str, Any]]:
    found = []
    for topic in _STATE_TOPICS:
        value = report.state.get(topic)
        before = value.get("before", value) if isinstance(value, Mapping) else value
        if before is not None:
            found.append((topic, before))
    return found
