"""How findings are weighed against one another, against the window and against noise."""

from __future__ import annotations

from dataclasses import replace

import pytest

from slmtrace.model.report import Report
from slmtrace.model.taxonomy import Cause, Stage, WindowKind
from slmtrace.verdict.facts import DeviceUse, WindowFacts
from slmtrace.verdict.judge import judge
from tests.support.builders import MS, make_report
from tests.support.verdicts import Scene, request, rows

LOAD = {(Stage.IMPORT, Cause.IMPORT): 5000}
COLD = Scene(
    {**LOAD, (Stage.WEIGHTS, Cause.MAJOR_FAULT): 2000},
    size_bytes={Cause.MAJOR_FAULT: 512 << 20},
    state={"page_cache": {"before": {"resident_fraction": 0.0}}},
)


def test_a_healthy_load_has_no_finding() -> None:
    healthy = Scene(
        {
            **LOAD,
            (Stage.WEIGHTS, Cause.ANON_FAULT): 600,
            (Stage.WEIGHTS, Cause.RUN_QUEUE): 40,
            (Stage.IMPORT, Cause.OPEN_STAT): 300,
            (Stage.IMPORT, Cause.BLOCK_IO_WAIT): 60,
            (Stage.PROCESS_START, Cause.PYTHON): 300,
        },
        size_bytes={Cause.BLOCK_IO_WAIT: 8 << 20},
    )

    assert healthy.findings() == []


def test_a_first_request_that_is_all_compute_has_no_finding() -> None:
    assert Scene({(Stage.PREFILL, Cause.CPU_KERNEL): 3000}, WindowKind.TTFT).findings() == []


def test_no_time_is_claimed_twice() -> None:
    device = DeviceUse(n_reads=512, size_bytes=512 << 20, busy_ns=300 * MS, idle_wait_ns=2000 * MS, latency_ns=MS)
    held = replace(COLD, facts=WindowFacts(device=device))

    findings = held.findings()

    assert [finding.id for finding in findings] == ["io_throttled"]
    assert sum(finding.excess_ns for finding in findings) <= 2000 * MS


def test_findings_are_ranked_by_what_they_cost() -> None:
    both = replace(COLD, times_ms={**COLD.times_ms, (Stage.WEIGHTS, Cause.COMPACTION): 3000})

    assert [finding.id for finding in both.findings()] == ["thp_compaction", "cold_weights"]


def test_a_wait_that_only_the_end_of_the_program_ended_has_no_finding() -> None:
    waiting = Scene({**LOAD, (Stage.WEIGHTS, Cause.EXTERNAL): 2000, (Stage.WEIGHTS, Cause.PYTHON): 1})
    end_ns = waiting.window().end_ns

    def ids(broken_off_ns: int) -> list[str]:
        scene = replace(waiting, facts=WindowFacts(broken_off_ns=broken_off_ns))
        return [finding.id for finding in scene.findings()]

    assert ids(end_ns - 500 * MS) == []
    assert ids(end_ns) == ["outside_wait"]


def test_what_is_less_than_a_twentieth_of_the_window_is_no_finding() -> None:
    small = replace(COLD, times_ms={**LOAD, (Stage.WEIGHTS, Cause.MAJOR_FAULT): 200})

    assert small.findings() == []


def test_a_short_wait_in_a_short_request_is_no_finding() -> None:
    short = Scene({(Stage.PREFILL, Cause.CPU_KERNEL): 8, (Stage.PREFILL, Cause.RUN_QUEUE): 1}, WindowKind.TTFT)

    assert short.findings() == []


def test_one_time_slice_on_the_wrong_cpu_is_no_contention() -> None:
    slice_ms, hog_ms = 4, 20
    requests = [
        Scene({(Stage.PREFILL, Cause.CPU_KERNEL): 40, (Stage.PREFILL, Cause.RUN_QUEUE): ms}, WindowKind.TTFT)
        for ms in (slice_ms, hog_ms)
    ]

    assert [[finding.id for finding in one.findings()] for one in requests] == [[], ["cpu_contention"]]


def test_a_source_that_lost_records_lowers_the_confidence() -> None:
    lossy = replace(COLD, ledger=({"source": "ebpf", "seen": 1000, "lost": {"ring_full": 100}},))

    assert [finding.confidence for finding in COLD.findings()] == ["high"]
    assert [finding.confidence for finding in lossy.findings()] == ["medium"]


def test_a_few_lost_records_of_many_do_not() -> None:
    lossy = replace(COLD, ledger=({"source": "ebpf", "seen": 100_000, "lost": {"ring_full": 10}},))

    assert [finding.confidence for finding in lossy.findings()] == ["high"]


def test_a_request_whose_work_stands_out_of_its_neighbours_is_found() -> None:
    windows = [request({(Stage.PREFILL, Cause.CPU_KERNEL): ms}, index) for index, ms in enumerate([90, 50, 51, 50, 90])]

    judged = judge(windows, [WindowFacts()] * 5, {})

    assert [[finding.id for finding in window.findings] for window in judged] == [[], [], [], [], ["odd_request"]]
    assert judged[4].findings[0].excess_ns == 40 * MS


def test_a_request_that_is_slower_after_an_idle_time_says_so() -> None:
    windows = [request({(Stage.PREFILL, Cause.CPU_KERNEL): ms}, index) for index, ms in enumerate([90, 50, 51, 50, 90])]

    judged = judge(windows, [WindowFacts()] * 4 + [WindowFacts(idle_ns=10_000 * MS)], {})

    (finding,) = judged[4].findings
    assert finding.evidence.endswith("after 10.0 s without a request")
    assert "health check" in finding.recommendation


def test_requests_that_differ_by_their_nature_are_no_finding() -> None:
    lengths_ms = [90, 50, 70, 95, 60, 40, 85]
    windows = [request({(Stage.PREFILL, Cause.CPU_KERNEL): ms}, index) for index, ms in enumerate(lengths_ms)]

    judged = judge(windows, [WindowFacts()] * 7, {})

    assert [window.findings for window in judged] == [[]] * 7


def test_kernels_slower_than_in_other_requests_on_a_gpu_in_use_are_found() -> None:
    state = {"gpu": {"before": {"gpus": [{"memory_used_bytes": 30 << 30}]}}}
    windows = [request({(Stage.PREFILL, Cause.GPU_KERNEL): ms}, index) for index, ms in enumerate([90, 50, 51, 50, 90])]

    judged = judge(windows, [WindowFacts()] * 5, state)

    assert [finding.id for finding in judged[4].findings] == ["gpu_shared"]


def fresh(first_ms: int, later_ms: int) -> list[list[str]]:
    """Return the findings of five requests that got fresh memory for so long."""
    took_ms = [first_ms, *[later_ms] * 4]
    times = [{(Stage.PREFILL, Cause.CPU_KERNEL): 100, (Stage.PREFILL, Cause.ANON_FAULT): ms} for ms in took_ms]
    windows = [request(one, index) for index, one in enumerate(times)]
    return [[finding.id for finding in window.findings] for window in judge(windows, [WindowFacts()] * 5, {})]


def test_memory_that_every_request_gets_anew_is_found() -> None:
    assert fresh(80, 60) == [["memory_churn"]] * 5


def test_memory_that_the_first_request_gets_for_all_is_no_finding() -> None:
    assert fresh(80, 1) == [[]] * 5


def test_a_measured_device_gives_a_floor_to_its_reads() -> None:
    measured = replace(COLD, state={**COLD.state, "floors": {"disk_bytes_per_second": (512 << 20) * 2}})

    floor = measured.judged().floors[0]

    assert (floor.name, floor.floor_ns, floor.actual_ns) == ("reads from the device", 500 * MS, 2000 * MS)


def test_copies_from_the_page_cache_go_at_the_speed_of_memory() -> None:
    copied = Scene(
        {**LOAD, (Stage.WEIGHTS, Cause.FILE_READ_COPY): 400},
        size_bytes={Cause.FILE_READ_COPY: 1 << 30},
        # As the recorder notes what it measured: at a moment, like all that it says of the node.
        state={"floors": {"before": {"memory_bytes_per_second": 10 * (1 << 30)}}},
    )

    floor = copied.judged().floors[0]

    assert (floor.name, floor.floor_ns, floor.actual_ns) == ("copies of cached file data", 100 * MS, 400 * MS)


def test_without_a_measurement_there_is_no_floor_of_the_device() -> None:
    assert COLD.judged().floors == []


def test_faults_have_the_run_itself_for_a_floor() -> None:
    faults = Scene({**LOAD, (Stage.WEIGHTS, Cause.ANON_FAULT): 600}, facts=WindowFacts(fault_ns=400_000))

    floor = faults.judged().floors[0]

    assert (floor.name, floor.floor_ns, floor.actual_ns) == ("faults on fresh memory", 400_000, 600 * MS)


def test_findings_and_floors_survive_the_way_through_json() -> None:
    measured = replace(COLD, state={**COLD.state, "floors": {"disk_bytes_per_second": 1e9}})
    report = make_report([measured.judged()])

    again = Report.from_json(report.to_json())

    assert again.windows[0].findings == report.windows[0].findings != []
    assert again.windows[0].floors == report.windows[0].floors != []


@pytest.mark.parametrize(("idle_ms", "finding"), [(5_000, "dropped_while_idle"), (20, "cold_weights")])
def test_weights_that_a_later_request_reads_again_were_dropped_while_nobody_asked(idle_ms: int, finding: str) -> None:
    usual = {(Stage.PREFILL, Cause.CPU_KERNEL): 50}
    files = {Cause.MAJOR_FAULT: {"files": rows(**{"/m/model.safetensors": 80})}}
    again = Scene(
        {**usual, (Stage.PREFILL, Cause.MAJOR_FAULT): 80}, WindowKind.TTFT, files, {Cause.MAJOR_FAULT: 1 << 27}
    )
    windows = [request(usual, 0), again.window(1), request(usual, 2)]

    judged = judge(windows, [WindowFacts(), WindowFacts(idle_ns=idle_ms * MS), WindowFacts()], {})

    assert [[one.id for one in window.findings] for window in judged] == [[], [finding], []]
