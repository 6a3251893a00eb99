"""A bundle keeps what is public and what counts, and nothing else."""

from __future__ import annotations

import io
import json
import shutil
import zipfile
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from slmtrace.analysis import analyze, build_report
from slmtrace.bundle import find_secrets, make_bundle
from slmtrace.bundle.names import LEFT_OUT, Names
from slmtrace.bundle.report import redact_report
from slmtrace.bundle.trace import redact_trace
from slmtrace.capture.directory import Capture
from slmtrace.cli.main import main
from slmtrace.model.events import EventKind
from slmtrace.model.quality import Issue, Quality
from slmtrace.model.report import Finding, Floor, Report, SourceStatus
from slmtrace.model.taxonomy import Cause, Phase
from slmtrace.model.trace import CounterSeries, LedgerLine, Loss, Trace
from slmtrace.model.tracks import TrackKind
from slmtrace.output.json_ import check_conservation
from slmtrace.output.perfetto import read_embedded_breakdown
from tests.support.builders import MS, T0_NS, TraceBuilder, sample_run
from tests.support.secrets import find_planted, make_secrets

_PLACES = (
    "{}",
    "/home/{}/model.safetensors",
    "/data/{}.safetensors",
    "/opt/{}/lib/python3.11/site-packages/private_thing/{}.py",
    "load {} (run.py:3)",
    "{} ({}.py:7);<module> (/home/{}/main.py:1)",
    "void {}<float>(int)",
    "--token={}",
    "Authorization: Bearer {}",
)


def plant(secrets: list[str]) -> tuple[Trace, Report, int]:
    """Put secrets in every place of a trace and a report that holds text; return how many were planted."""
    planter = Planter(secrets)
    return planter.trace(), planter.report(), planter.n_planted


class Planter:
    """Hands out secrets, each in another guise."""

    def __init__(self, secrets: list[str]) -> None:
        self._secrets = secrets
        self.n_planted = 0

    def text(self) -> str:
        """Return the next secret in the next guise."""
        secret = self._secrets[self.n_planted % len(self._secrets)]
        place = _PLACES[(self.n_planted + self.n_planted // len(self._secrets)) % len(_PLACES)]
        self.n_planted += 1
        return place.replace("{}", secret)

    def trace(self) -> Trace:
        builder = TraceBuilder()
        thread = builder.thread(10, 10, self.text(), self.text())
        tracks = [thread, builder.thread(11, 10, self.text(), self.text())]
        tracks += [builder.tracks.other(kind, 0, 7, self.text()) for kind in TrackKind if kind is not TrackKind.THREAD]
        for number, kind in enumerate(EventKind):
            for _ in range(12):
                track, start_ns = tracks[number % len(tracks)], T0_NS + number * MS
                builder.event(kind, track, start_ns, MS, self.text(), file=self.text(), request=self.text())
        series = sample_run()[0].counters[0]
        builder.counters.append(CounterSeries(self.text(), self.text(), series.ts_ns, series.value))
        builder.losses.append(Loss(T0_NS, self.text(), self.text(), 3))
        builder.ledger.append(LedgerLine(self.text(), 3, 2, 2, {self.text(): 1}))
        return builder.build()

    def report(self) -> Report:
        _, report = sample_run()
        window = report.windows[0]
        causes = [
            replace(share, detail={key: [{"name": self.text(), "ns": 1, "count": 1, "bytes": 1}] for key in _KEYS})
            for share in window.causes
        ]
        finding = Finding(self.text(), Phase.STORAGE, Cause.MAJOR_FAULT, 1, self.text(), self.text(), 1, self.text())
        floor = Floor(self.text(), Phase.STORAGE, 1, 2, self.text())
        planted = replace(
            window, causes=causes, request_id=self.text(), note=self.text(), findings=[finding], floors=[floor]
        )
        host = {key: self.text() for key in ("kernel", "cpu", "distribution", "hostname", "machine", self.text())}
        capture = {key: self.text() for key in (*report.capture, "prompt", self.text())}
        return Report(
            capture={**capture, "command": [self.text() for _ in range(9)], "host": host},
            sources=[SourceStatus(self.text(), self.text(), self.text(), 1, 1)],
            state=self._state(),
            windows=[planted],
            overhead={"method": self.text(), "windows": [{"name": self.text(), "ns": 3, "share": 0.1}]},
            ledger=[{"source": self.text(), "seen": 1, "written": 1, "decoded": 1, "lost": {self.text(): 1}}],
            clock={"residual_ns": {self.text(): 3}, "snapshots": []},
            quality=[self.text()],
        )

    def _state(self) -> dict[str, Any]:
        topics = ("allocator", "cpu", "gpu", "kernel", "numa", "page_cache", "storage", "thp", "versions", self.text())
        return {topic: {"before": self._facts(), "after": [self.text()]} for topic in topics}

    def _facts(self) -> dict[str, Any]:
        names = (
            "name",
            "model",
            "settings",
            "glibc_tunables",
            "release",
            "cmdline",
            "cpus_allowed",
            "lies_on",
            "enabled",
        )
        texts = {name: self.text() for name in names}
        lists = {"files": [{"name": self.text(), "error": self.text()}], "environment": {"HF_TOKEN": self.text()}}
        return {**texts, **lists, "device": {"name": self.text(), "model": self.text()}, "settings": [self.text()]}


_KEYS = ("files", "packages", "functions", "kernels", "ranges", "prompts")


@pytest.mark.parametrize("hash_paths", [False, True])
@pytest.mark.parametrize("seed", range(4))
def test_no_planted_secret_is_in_any_file_of_the_bundle(seed: int, hash_paths: bool) -> None:
    # Another number of secrets puts each of them in other places, in other guises.
    secrets = make_secrets(360 + seed, seed)
    trace, report, n_planted = plant(secrets)

    bundle, dropped = make_bundle(trace, report, hash_paths=hash_paths)

    assert n_planted > len(secrets)
    assert find_planted(bundle, secrets) == []
    assert find_secrets(bundle, dropped) == []


def test_the_search_finds_what_was_planted() -> None:
    secrets = make_secrets(360)

    unredacted = _zip_of(*plant(secrets)[:2])

    # Not every place reaches a file even so: what a report has no room for, what the timeline does not show.
    assert len({secret for _, secret in find_planted(unredacted, secrets)}) > 300


def test_verify_finds_names_and_tokens_that_slipped_through() -> None:
    secret = "hf_" + "a1B2" * 8
    trace, report = sample_run()

    leaks = find_secrets(_zip_of(trace, replace(report, quality=[secret])), {"VLLM::EngineCore"})

    assert {(leak.file, leak.what) for leak in leaks} >= {
        ("breakdown.json", "a Hugging Face token"),
        ("trace.pftrace", "a name that was left out"),
    }
    assert secret not in "".join(map(str, leaks))


def test_a_thread_that_is_called_like_a_public_module_is_no_leak() -> None:
    names = Names()

    assert names.thread("vllm.model_executor.models.registry") == ""
    assert names.thread("vllm.model_executor.models.zyxgpt") == ""

    assert names.dropped == {"vllm.model_executor.models.zyxgpt"}


def test_spans_of_vllm_keep_their_names() -> None:
    assert [
        Names().range(name) for name in ("Load weights", "Allocate KV cache", "input queue", "scheduler queue")
    ] == [
        *("Load weights", "Allocate KV cache", "input queue", "scheduler queue"),
    ]


def test_the_redacted_trace_attributes_the_same() -> None:
    trace, _ = sample_run()
    trace = replace(trace, manifest={"target": {"pid": 1000, "start_ns": T0_NS}, "status": "complete"})

    redacted = redact_trace(trace, Names())

    before, after = (
        [(one.label, one.phases, one.stages, [(c.cause, c.ns, c.count) for c in one.causes]) for one in report.windows]
        for report in (build_report(trace), build_report(redacted))
    )
    assert before == after
    assert len(before) == 4


@pytest.mark.parametrize("name", ["hf-light", "hf-deep"])
def test_a_capture_of_a_gpu_attributes_the_same_and_keeps_what_kernels_are_called(name: str, tmp_path: Path) -> None:
    shutil.unpack_archive(Path(__file__).parents[1] / "fixtures" / f"{name}.tar.xz", tmp_path)
    trace, report = analyze(Capture.open(tmp_path / name))

    bundle, dropped = make_bundle(trace, report)
    redacted = redact_trace(trace, Names())

    assert find_secrets(bundle, dropped) == []
    assert [window.phases for window in build_report(redacted).windows] == [window.phases for window in report.windows]
    kernels = np.unique(redacted.events.name[redacted.events.kind == EventKind.GPU_KERNEL]).tolist()
    assert not [redacted.strings[one] for one in kernels if LEFT_OUT in redacted.strings[one]]


def test_what_was_wrong_with_the_data_is_told() -> None:
    quality = Quality()
    for issue in Issue:
        quality.note(issue, 1_234_567)
    report = replace(sample_run()[1], quality=quality.lines())

    assert redact_report(report, Names()).quality == quality.lines()


def test_the_report_keeps_its_sums() -> None:
    _, report = sample_run()

    redacted = redact_report(report, Names()).to_json()

    assert check_conservation(redacted) == []
    assert [window["phases"] for window in redacted["windows"]] == [
        window["phases"] for window in report.to_json()["windows"]
    ]


def test_the_bundle_opens_again(tmp_path: Path) -> None:
    bundle, _ = make_bundle(*sample_run())

    with zipfile.ZipFile(io.BytesIO(bundle)) as archive:
        archive.extractall(tmp_path)

    assert sorted(path.name for path in tmp_path.iterdir()) == [
        *("README.txt", "breakdown.json", "certificate.json", "ledger.json", "report.md", "trace.pftrace"),
    ]
    breakdown = json.loads((tmp_path / "breakdown.json").read_text())
    assert read_embedded_breakdown(tmp_path / "trace.pftrace") == breakdown


def test_the_same_recording_gives_the_same_bytes() -> None:
    assert make_bundle(*sample_run())[0] == make_bundle(*sample_run())[0]


@pytest.mark.parametrize(
    ("path", "public"),
    [
        ("/models/private/model.safetensors", "model.safetensors"),
        ("/x/model-00001-of-00004.safetensors", "model-00001-of-00004.safetensors"),
        ("/home/me/.venv/lib/python3.11/site-packages/torch/lib/libtorch_cpu.so", "torch/lib/libtorch_cpu.so"),
        ("/opt/lib/python3.11/__pycache__/argparse.cpython-311.pyc", "argparse.cpython-311.pyc"),
        ("/usr/lib/x86_64-linux-gnu/libm.so.6", "libm.so.6"),
        ("/home/me/secret.py", "file 1.py"),
        ("/home/me/secret.docx", "file 1"),
        ("/v/site-packages/acme_internal/x.py", "file 1.py"),
        ("/v/site-packages/torch/sk-abc123def456.py", "file 1.py"),
        ("", ""),
    ],
)
def test_a_path_becomes_its_public_part_or_a_number(path: str, public: str) -> None:
    assert Names().path(path) == public


def test_hashed_paths_say_nothing_and_stay_equal() -> None:
    names, others = Names(hash_paths=True), Names(hash_paths=True)

    first = names.path("/models/a/model.safetensors")

    assert first == names.path("/models/a/model.safetensors")
    assert first != names.path("/models/b/model.safetensors")
    assert first != others.path("/models/a/model.safetensors")
    assert first.endswith(".safetensors")
    assert "model." not in first


@pytest.mark.parametrize(
    ("kernel", "public"),
    [
        (
            "ampere_bf16_s16816gemm_bf16_128x128_ldg8_f2f_stages_32x5_tn",
            "ampere_bf16_…_bf16_128x128_ldg8_f2f_stages_32x5_tn",
        ),
        ("vectorized_elementwise_kernel [Fill]", "vectorized_elementwise_kernel [Fill]"),
        ("triton_poi_fused_add_acme_7", "triton_poi_fused_add_…_7"),
        ("CatArrayBatchedCopy_alignedK_contig", "CatArrayBatchedCopy_alignedK_contig"),
        ("CatAcmeBatchedCopy", "kernel 1"),
        ("acme", "kernel 1"),
    ],
)
def test_a_kernel_keeps_the_words_that_all_kernels_have(kernel: str, public: str) -> None:
    assert Names().kernel(kernel) == public


@pytest.mark.parametrize(
    ("frame", "public"),
    [
        ("forward (torch/nn/modules/linear.py:125)", "forward (torch/nn/modules/linear.py:125)"),
        ("forward (/x/site-packages/torch/nn/linear.py:125)", "forward (torch/nn/linear.py:125)"),
        ("load_customer_data (train.py:3)", "frame 1"),
        ("forward (acme/model.py:3)", "frame 1"),
        # A directory of the user's own with the name of a public package.
        ("load_zyxcorp (datasets/loader.py:3)", "frame 1"),
        ("forward (datasets/zyxcorp.py:3)", "frame 1"),
    ],
)
def test_a_stack_frame_of_public_code_keeps_its_name(frame: str, public: str) -> None:
    assert Names().frame(frame) == public


@pytest.mark.parametrize(
    ("module", "public"),
    [
        ("torch.nn.modules.linear", "torch.nn.modules.linear"),
        ("transformers.models.qwen2.modeling_qwen2", "transformers.models.qwen2.modeling_qwen2"),
        ("_slmtrace.instrument.hooks.hf", "_slmtrace.instrument.hooks.hf"),
        ("cProfile", "cProfile"),
        ("datasets.zyxcorp_prompts", "module 1"),
        ("vllm.model_executor.models.zyxgpt", "module 1"),
        ("torch.aBcDeFgHiJkLm", "module 1"),
        ("json.h.u.n.t.e.r", "module 1"),
    ],
)
def test_a_module_of_a_public_package_keeps_a_name_of_public_words(module: str, public: str) -> None:
    assert Names().module(module) == public


@pytest.mark.parametrize(
    ("thread", "public"),
    [
        ("pt_main_thread", "pt_main_thread"),
        ("pt_nccl_watchdg", "pt_nccl_watchdg"),
        ("VLLM::EngineCor", "VLLM::EngineCor"),
        ("VLLM::EngineCore", "VLLM::EngineCore"),
        ("VLLM::Worker_TP0", "VLLM::Worker_TP0"),
        ("cuda00001400006", "cuda00001400006"),
        ("VLLM::Worker_bob", ""),
        ("pt_mainHunter2", ""),
        ("slmtrace bob", ""),
        ("cuda4111111111", ""),
    ],
)
def test_a_thread_keeps_the_name_that_its_library_gave_it(thread: str, public: str) -> None:
    assert Names().thread(thread) == public


def test_a_number_on_the_command_line_stays_only_after_an_option_that_takes_one() -> None:
    _, report = sample_run()
    command = ["python3", "serve", "482913", "--pin", "482913", "--port", "8000", "--seed=7", "--model=482913"]

    redacted = redact_report(replace(report, capture={**report.capture, "command": command}), Names())

    shown = ["python3", "serve", "...", "...", "...", "--port", "8000", "--seed=7", "--model=..."]
    assert redacted.capture["command"] == shown


def test_equal_names_stay_equal_and_different_ones_different() -> None:
    names = Names()

    assert [names.range(label) for label in ("mine", "yours", "mine", "generate")] == [
        *("range 1", "range 2", "range 1", "generate"),
    ]


def test_a_trace_file_cannot_be_bundled(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "x.pftrace").write_bytes(b"")

    assert main(["bundle", str(tmp_path / "x.pftrace"), "-o", str(tmp_path / "b.zip")]) == 2
    assert "name the capture directory" in capsys.readouterr().err


def _zip_of(trace: Trace, report: Report) -> bytes:
    """Pack a recording without redaction."""
    from slmtrace.bundle import archive

    return archive._zip(dict(_files_of(trace, report)))


def _files_of(trace: Trace, report: Report) -> Iterator[tuple[str, bytes]]:
    from slmtrace.output.json_ import render_json
    from slmtrace.output.perfetto import render_perfetto

    yield "trace.pftrace", render_perfetto(trace, report)
    yield "breakdown.json", render_json(report).encode()


def test_a_load_that_failed_keeps_its_note_without_the_process_that_was_killed() -> None:
    _, report = sample_run()
    note = "the target never got ready: secret-engine (7) was killed by SIGKILL"
    told = replace(report, windows=[replace(report.windows[0], note=note)])

    assert redact_report(told, Names()).windows[0].note == "the target never got ready"


def test_a_finding_keeps_the_name_of_its_rule_and_none_of_its_words() -> None:
    _, report = sample_run()
    words = ("/secret/weights", "cat /secret/weights")
    findings = [
        Finding(name, Phase.STORAGE, Cause.MAJOR_FAULT, 7, *words, 5, "high")
        for name in ("cold_weights", "rm -rf /secret")
    ]
    told = replace(report, windows=[replace(report.windows[0], findings=findings)])

    kept = redact_report(told, Names()).windows[0].findings

    assert [finding.id for finding in kept] == ["cold_weights", "storage.major_fault"]
    assert not any("secret" in finding.evidence + finding.recommendation for finding in kept)
