"""All probes of one recording: whatever one of them does, the others go on and the books are kept."""

from __future__ import annotations

from pathlib import Path

import pytest

from slmtrace.capture.directory import Capture
from slmtrace.errors import ProbeUnavailable, SlmtraceError, UsageError
from slmtrace.probes import group as group_module
from slmtrace.probes.base import Availability, Probe, ProbeResult, RecordOptions
from slmtrace.probes.group import ProbeGroup, check_probe
from slmtrace.probes.registry import PROBE_NAMES, make_probe, parse_names


class Fake(Probe):
    """Does what its attributes say, and writes down what was called."""

    def __init__(self, calls: list[str], name: str, fails_in: str = "", status: str = "ok") -> None:
        self.name, self._calls, self._fails_in, self._status = name, calls, fails_in, status

    def check(self) -> Availability:
        return Availability(self._status, "nothing to measure", "plug it in")

    def start(self, capture: Capture, options: RecordOptions) -> None:
        self._do("start")

    def environ(self, environ: dict[str, str]) -> dict[str, str]:
        self._do("environ")
        return {"PATHS": environ.get("PATHS", "") + self.name}

    def enroll(self, pid: int) -> None:
        self._do("enroll")

    def poll(self) -> None:
        self._do("poll")

    def stop(self) -> ProbeResult:
        self._do("stop")
        return ProbeResult("ok", seen=3, written=2, lost={"full": 1})

    def _do(self, what: str) -> None:
        self._calls.append(f"{self.name} {what}")
        if self._fails_in == what:
            raise SlmtraceError("it broke") if what == "start" else ValueError("it broke")


@pytest.fixture
def calls(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    return []


def use(monkeypatch: pytest.MonkeyPatch, *probes: Fake) -> None:
    by_name = {probe.name: probe for probe in probes}
    monkeypatch.setattr(group_module, "make_probe", by_name.__getitem__)


def test_probes_start_in_order_and_stop_in_reverse(
    calls: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    use(monkeypatch, Fake(calls, "ranges"), Fake(calls, "ebpf"))
    group = ProbeGroup(["ranges", "ebpf"])

    group.start(Capture(tmp_path), RecordOptions())
    group.stop()

    assert calls == ["ebpf start", "ranges start", "ranges stop", "ebpf stop"]


def test_each_probe_sees_the_environment_that_the_ones_before_it_made(
    calls: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    use(monkeypatch, Fake(calls, "ebpf"), Fake(calls, "ranges"))
    group = ProbeGroup(["ebpf", "ranges"])
    group.start(Capture(tmp_path), RecordOptions())

    assert group.environ({"HOME": "/"}) == {"HOME": "/", "PATHS": "ebpfranges"}


@pytest.mark.parametrize("moment", ["environ", "enroll", "poll"])
def test_a_probe_that_fails_midway_is_stopped_and_the_others_go_on(
    moment: str, calls: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    use(monkeypatch, Fake(calls, "ebpf", fails_in=moment), Fake(calls, "ranges"))
    group = ProbeGroup(["ebpf", "ranges"])
    group.start(Capture(tmp_path), RecordOptions())

    group.environ({})
    group.enroll(1)
    group.poll()
    results = group.stop()

    assert results["ebpf"] == ProbeResult("partial", "ValueError: it broke", 3, 2, {"full": 1})
    assert results["ranges"].status == "ok"
    assert calls.count("ebpf stop") == 1
    assert calls.count("ranges poll") == 1


def test_a_probe_that_cannot_start_is_unavailable_for_its_reason(
    calls: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    use(monkeypatch, Fake(calls, "ebpf", fails_in="start"), Fake(calls, "ranges"))
    group = ProbeGroup(["ebpf", "ranges"])

    group.start(Capture(tmp_path), RecordOptions())

    assert group.running == ("ranges",)
    assert group.stop()["ebpf"] == ProbeResult("unavailable", "it broke")


def test_a_required_probe_that_cannot_start_stops_the_recording(
    calls: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    use(monkeypatch, Fake(calls, "ebpf"), Fake(calls, "ranges", fails_in="start"))
    group = ProbeGroup(["ebpf"], required=["ranges"])

    with pytest.raises(ProbeUnavailable, match="ranges is unavailable: it broke") as caught:
        group.start(Capture(tmp_path), RecordOptions())

    assert caught.value.exit_code == 3
    assert calls[-1] == "ebpf stop"


def test_a_required_probe_that_cannot_run_says_why_and_what_to_do(
    calls: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    use(monkeypatch, Fake(calls, "nvml", status="unavailable"))

    with pytest.raises(ProbeUnavailable, match="nvml is unavailable: nothing to measure") as caught:
        ProbeGroup([], required=["nvml"], if_present=["nvml"])

    assert caught.value.hint == "plug it in"


def test_a_probe_that_is_not_missed_is_left_out_without_a_word(
    calls: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    use(monkeypatch, Fake(calls, "nvml", status="unavailable"), Fake(calls, "proc", status="unavailable"))

    assert list(ProbeGroup(["proc"], if_present=["nvml"]).results) == ["proc"]


def test_a_probe_that_stops_badly_is_partial(calls: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    use(monkeypatch, Fake(calls, "ebpf", fails_in="stop"))
    group = ProbeGroup(["ebpf"])
    group.start(Capture(tmp_path), RecordOptions())

    assert group.stop()["ebpf"].status == "partial"


def test_a_probe_whose_module_is_broken_is_unavailable(monkeypatch: pytest.MonkeyPatch) -> None:
    def explode(name: str) -> Probe:
        raise ImportError("libmissing.so: cannot open shared object file")

    monkeypatch.setattr(group_module, "make_probe", explode)
    probe, availability = check_probe("ebpf")

    assert probe is None
    assert "libmissing.so" in availability.reason


@pytest.mark.parametrize("name", PROBE_NAMES)
def test_every_registered_probe_exists_under_its_name(name: str) -> None:
    assert make_probe(name).name == name


def test_probe_names_are_read_in_the_registrys_order() -> None:
    assert parse_names(" ranges,ebpf,,ranges ") == ("ebpf", "ranges")


def test_an_unknown_probe_is_named() -> None:
    with pytest.raises(UsageError, match="no such probe: perf"):
        parse_names("ebpf,perf")
