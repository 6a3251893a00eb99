"""The timeline's bytes: tables, order, flows, scheduler events, the breakdown read back."""

from __future__ import annotations

import json
import stat
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from perfetto.protos.perfetto.trace import perfetto_trace_pb2 as pb

from slmtrace.errors import CaptureError
from slmtrace.model.events import NO_EVENT, EventKind, make_events
from slmtrace.model.sched import Out
from slmtrace.model.segments import Segments
from slmtrace.model.taxonomy import Cause, Stage
from slmtrace.model.trace import Trace
from slmtrace.model.tracks import TrackKind
from slmtrace.output.json_ import render_json
from slmtrace.output.perfetto import read_embedded_breakdown, render_perfetto, wire, write_perfetto
from slmtrace.output.perfetto.embedded import MAX_BREAKDOWN_BYTES
from slmtrace.output.perfetto.flows import link_events
from tests.support.builders import MS, T0_NS, US, TraceBuilder, make_report, make_segments, sample_run
from tests.support.pftrace import DecodedTrace, decode


def _decode(trace: Trace) -> DecodedTrace:
    return decode(render_perfetto(trace, make_report([])))


def _switches(trace: Trace) -> list[tuple[int, int, int, int]]:
    return sorted(
        (event.timestamp, event.sched_switch.prev_pid, event.sched_switch.prev_state, event.sched_switch.next_pid)
        for packet in _decode(trace).packets
        for event in packet.ftrace_events.event
        if event.HasField("sched_switch")
    )


def test_the_first_request_is_only_a_first_use_after_a_load() -> None:
    trace, report = sample_run()
    attached = replace(report, windows=report.windows[1:])

    names = [
        {one.name for one in decode(render_perfetto(trace, each)).slices if one.track == "slmtrace > windows"}
        for each in (report, attached)
    ]

    assert ["ttft 0 (first use): 38.0 ms" in each for each in names] == [True, False]
    assert ["ttft 0: 38.0 ms" in each for each in names] == [False, True]


def test_the_rows_of_a_table_are_encoded_as_protobuf_would() -> None:
    values = [0, 1, 127, 128, 300, 2**62, -1]
    expected = pb.Trace()
    for value in values:
        expected.packet.add(timestamp=value % (1 << 64)).track_event.track_uuid = 300

    packet = wire.integer(8, np.array(values)) + wire.message(11, wire.integer(11, np.full(len(values), 300)))
    encoded = b"".join(wire.encode(wire.message(1, packet), len(values)))

    assert encoded == expected.SerializeToString(deterministic=True)


def test_tables_longer_than_a_chunk_lose_no_row() -> None:
    n = (1 << 16) + 3

    encoded = b"".join(wire.encode(wire.integer(1, np.arange(n)), n))

    assert len(encoded) == sum(1 + len(wire.encode_varint(value)) for value in range(n))


def test_the_same_capture_gives_the_same_bytes_and_another_analysis_another_identity() -> None:
    trace, report = sample_run()
    first = render_perfetto(trace, report)

    assert render_perfetto(*sample_run()) == first
    other = decode(render_perfetto(trace, replace(report, quality=["doubt"])))
    assert other.packets[0].trace_uuid != decode(first).packets[0].trace_uuid


def test_the_file_is_private_and_complete_or_not_there(tmp_path: Path) -> None:
    trace, report = sample_run()
    path = tmp_path / "trace.pftrace"

    written = write_perfetto(trace, report, path)

    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert path.read_bytes() == render_perfetto(trace, report)
    assert written.size_bytes == path.stat().st_size
    assert written.n_slices == len(decode(path.read_bytes()).slices)
    assert [entry.name for entry in tmp_path.iterdir()] == ["trace.pftrace"]


def test_a_directory_that_cannot_be_written_gives_an_error_with_a_remedy(tmp_path: Path) -> None:
    with pytest.raises(CaptureError) as caught:
        write_perfetto(*sample_run(), tmp_path / "missing" / "trace.pftrace")

    assert caught.value.hint


def test_events_of_a_kind_that_a_track_never_has_are_still_shown() -> None:
    builder = TraceBuilder()
    stream = builder.tracks.other(TrackKind.GPU_STREAM, 0, 7)
    builder.event(EventKind.SYSCALL, stream, T0_NS, US, "read")

    (one,) = _decode(builder.build()).slices

    assert (one.track, one.name) == ("slmtrace: node > GPU 0 > other events", "read")


def test_every_kind_of_event_is_written_once() -> None:
    builder = TraceBuilder()
    tracks = [
        builder.thread(10, 10, "main", "target"),
        builder.tracks.other(TrackKind.REQUESTS, 10, 0),
        builder.tracks.other(TrackKind.GPU_STREAM, 0, 7),
        builder.tracks.other(TrackKind.BLOCK_DEVICE, 0, 3, "sda"),
        builder.tracks.other(TrackKind.SYSTEM, 0, 60, "kcompactd0"),
    ]
    shown = [kind for kind in EventKind if kind is not EventKind.SAMPLE]
    for track in tracks:
        for kind in shown:
            builder.event(kind, track, T0_NS + 10 * kind, 5, f"{kind.name}")

    decoded = _decode(builder.build())

    n_instants = sum(event["type"] == 3 for event in decoded.events)
    assert len(decoded.slices) + n_instants == len(tracks) * len(shown)
    assert n_instants == len(tracks) * 4


def test_a_generator_does_not_cut_the_calls_between_its_items() -> None:
    builder = TraceBuilder()
    main = builder.thread(10, 10, "main")
    builder.event(EventKind.RANGE, main, T0_NS, 10 * MS, "outer")
    builder.event(EventKind.RANGE, main, T0_NS + 5 * MS, 10 * MS, "items", work_ns=MS)
    builder.event(EventKind.RANGE, main, T0_NS + 12 * MS, 5 * MS, "after")

    lengths = {one.name: one.end_ns - one.start_ns for one in _decode(builder.build()).slices}

    assert lengths == {"outer": 10 * MS, "items": 10 * MS, "after": 5 * MS}


def test_a_crossing_range_is_cut_and_counted_in_the_trace() -> None:
    builder = TraceBuilder()
    main = builder.thread(10, 10, "main")
    builder.event(EventKind.RANGE, main, T0_NS, 10, "outer")
    builder.event(EventKind.RANGE, main, T0_NS + 5, 10, "crossing")

    decoded = _decode(builder.build())

    facts = {one.name: one.int_value for one in decoded.packets[-1].chrome_events.metadata}
    assert facts == {"slmtrace.slices": 2, "slmtrace.slices_cut": 1}


def test_a_launch_points_to_the_first_work_of_its_own_process() -> None:
    builder = TraceBuilder()
    stream = builder.tracks.other(TrackKind.GPU_STREAM, 0, 7)
    for tid, at in ((10, 0), (20, 100)):  # the same correlation id in two processes
        builder.event(EventKind.CUDA_API, builder.thread(tid, tid), T0_NS + at, 5, "cuLaunchKernel", detail=3)
        builder.event(EventKind.GPU_KERNEL, stream, T0_NS + at + 20, 5, "first", detail=3)
        builder.event(EventKind.GPU_KERNEL, stream, T0_NS + at + 30, 5, "second", detail=3)
    builder.event(EventKind.GPU_KERNEL, stream, T0_NS + 50, 5, "orphan", detail=99)
    trace = builder.build()

    flows = link_events(trace)

    names = [trace.strings[name] for name in trace.events.name]
    origin = dict(zip(flows.out.tolist(), trace.events.start_ns.tolist(), strict=True))
    linked = [
        (origin[flow] - T0_NS, names[row], int(trace.events.start_ns[row]) - T0_NS)
        for row, flow in enumerate(flows.into.tolist())
        if flow
    ]
    assert sorted(linked) == [(0, "first", 20), (100, "first", 120)]


def test_a_request_is_followed_from_process_to_process() -> None:
    builder = TraceBuilder()
    front, engine = builder.thread(10, 10), builder.thread(20, 20)
    for track, at, name in ((front, 0, "tokenize"), (front, 5, "submit"), (engine, 10, "prefill"), (front, 20, "send")):
        builder.event(EventKind.RANGE, track, T0_NS + at, 4, name, request="r1")
    builder.event(EventKind.RANGE, engine, T0_NS + 30, 4, "other", request="r2")

    decoded = _decode(builder.build())

    out = {flow: event["name"] for event in decoded.events for flow in event["flow_out"]}
    into = {flow: event["name"] for event in decoded.events for flow in event["flow_in"]}
    assert sorted((out[flow], into[flow]) for flow in out) == [("prefill", "send"), ("submit", "prefill")]


def test_the_critical_path_hops_from_thread_to_thread() -> None:
    trace, report = sample_run()

    decoded = decode(render_perfetto(trace, report))

    visits = [one for one in decoded.slices if one.track.endswith("on the critical path")]
    path = [one for one in decoded.slices if one.track == "slmtrace > critical path"]
    length = sum(window.total_ns for window in report.windows)
    assert sum(one.end_ns - one.start_ns for one in visits) == length
    assert sum(one.end_ns - one.start_ns for one in path) == length


def test_a_segment_without_length_is_not_shown() -> None:
    trace, report = sample_run()
    window = report.windows[0]
    assert window.segments is not None
    empty = make_segments(window.end_ns, [(0, Stage.WEIGHTS, Cause.RECLAIM, 0, NO_EVENT)])
    both = {name: np.append(getattr(window.segments, name), getattr(empty, name)) for name in Segments.__slots__}

    decoded = decode(render_perfetto(trace, replace(report, windows=[replace(window, segments=Segments(**both))])))

    path = [one for one in decoded.slices if one.track == "slmtrace > critical path"]
    assert sum(one.end_ns - one.start_ns for one in path) == window.total_ns


def test_a_switch_back_to_back_is_written_once() -> None:
    builder = TraceBuilder()
    one, two = builder.thread(10, 10), builder.thread(20, 20)
    builder.run(one, T0_NS, T0_NS + 5, out=Out.PREEMPTED)
    builder.run(two, T0_NS + 5, T0_NS + 9, out=Out.IOWAIT)

    switches = _switches(builder.build())

    at = T0_NS + 77 * MS  # the report's clocks say so
    assert switches == [(at, 0, 0, 10), (at + 5, 10, 0x100, 20), (at + 9, 20, 2, 0)]


def test_stretches_that_overlap_on_a_cpu_are_cut_and_counted() -> None:
    builder = TraceBuilder()
    builder.run(builder.thread(10, 10), T0_NS, T0_NS + 50)
    builder.run(builder.thread(20, 20), T0_NS + 20, T0_NS + 60)

    decoded = _decode(builder.build())

    facts = {one.name: one.int_value for one in decoded.packets[-1].chrome_events.metadata}
    assert facts["slmtrace.slices_cut"] == 1
    assert len(_switches(builder.build())) == 3


def test_an_empty_trace_is_still_a_trace() -> None:
    decoded = _decode(TraceBuilder().build())

    assert decoded.slices == []
    assert decoded.packets[2].chrome_events.metadata[0].name == "slmtrace.breakdown"


def test_names_from_the_target_cannot_break_the_encoding() -> None:
    builder = TraceBuilder()
    main = builder.thread(10, 10, "th\x00read\ud800", "pro\ncess")
    builder.event(EventKind.RANGE, main, T0_NS, 5, "a\ud800\x1b" + "x" * 9999)

    (one,) = _decode(builder.build()).slices

    assert one.name.startswith("a\\ud800\\x1bxxx")
    assert len(one.name) == 256


def test_the_breakdown_is_read_back_from_the_trace_alone(tmp_path: Path) -> None:
    trace, report = sample_run()
    path = tmp_path / "trace.pftrace"
    write_perfetto(trace, report, path)

    assert read_embedded_breakdown(path) == json.loads(render_json(report))


def _packet(metadata_name: bytes, value: bytes) -> bytes:
    metadata = wire.blob(1, metadata_name) + wire.blob(2, value)
    return wire.blob(1, wire.blob(5, wire.blob(2, metadata)))


NAME = b"slmtrace.breakdown"


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"\x0a",
        b"\x0a\xff",
        b"\x0a" + b"\xff" * 20,
        b"\x0a" + wire.encode_varint(MAX_BREAKDOWN_BYTES + 1),
        b"\x0a\x05\x2a\x7f",
        b"{}",
        b"PK\x03\x04",
        b"\x0a\x02\x2b\x2b",
        b"\x0a\x00" * 1000,
        _packet(NAME, b""),
        _packet(NAME, b"{"),
        _packet(NAME, b"[" * 100_000),
        _packet(NAME, b"\xff\xfe{}"),
        _packet(NAME, b'{"schema": NaN}'),
        _packet(NAME, b'{"schema": ' + b"9" * 10_000 + b"}"),
        _packet(NAME, b'{"schema": "slmtrace.breakdown/9"}'),
        _packet(NAME, b"[]"),
        _packet(b"something.else", b"{}"),
        wire.blob(1, wire.blob(5, wire.blob(2, b"\x0a\x7f"))),
    ],
)
def test_a_hostile_trace_gives_an_error_with_a_hint(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "hostile.pftrace"
    path.write_bytes(content)

    with pytest.raises(CaptureError) as caught:
        read_embedded_breakdown(path)

    assert caught.value.hint
    assert len(str(caught.value)) < 600


def test_a_trace_cut_at_any_byte_of_its_front_gives_an_error(tmp_path: Path) -> None:
    content = render_perfetto(TraceBuilder().build(), make_report([]))
    path = tmp_path / "cut.pftrace"
    end = content.index(b'"windows":[]}') + len(b'"windows":[]}')

    for length in range(0, end, 7):
        path.write_bytes(content[:length])
        with pytest.raises(CaptureError):
            read_embedded_breakdown(path)


def test_a_missing_trace_is_named(tmp_path: Path) -> None:
    with pytest.raises(CaptureError, match=r"gone\.pftrace"):
        read_embedded_breakdown(tmp_path / "gone.pftrace")


def test_a_fault_takes_less_than_fifty_bytes() -> None:
    builder = TraceBuilder()
    main = builder.thread(10, 10)
    n = 1 << 17
    start = T0_NS + np.arange(n, dtype=np.int64) * 10
    builder.events(make_events(n, kind=EventKind.FAULT, track=main, start_ns=start, end_ns=start + 7))

    content = render_perfetto(builder.build(), make_report([]))

    assert len(content) / n < 50
