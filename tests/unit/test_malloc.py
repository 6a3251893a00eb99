from __future__ import annotations

from pathlib import Path

import pytest

from slmtrace.capture.layout import MALLOC_OPS, SlotKind
from slmtrace.decode import malloc
from slmtrace.errors import SlmtraceError
from slmtrace.model.events import EventKind
from slmtrace.model.quality import Issue
from slmtrace.probes.base import RecordOptions
from slmtrace.probes.malloc import MallocProbe, build_shim, find_allocator
from tests.support.logs import make_context, new_capture, new_log, only_log


def test_slow_calls_become_events_on_the_thread_that_made_them(tmp_path: Path) -> None:
    capture = new_capture(tmp_path)
    log = new_log(capture, "malloc", "malloc.70.1", pid=70)
    log.append(SlotKind.MALLOC, 1_000, 26_000, a=4096, b=0x7F00, tid=71, name=MALLOC_OPS.index("realloc"))
    log.append(SlotKind.MALLOC, 2_000, 1_000, tid=71)
    log.append(SlotKind.MALLOC, 3_000, 4_000, tid=71, name=len(MALLOC_OPS))
    log.close()
    context = make_context()

    fragment = malloc.decode(only_log(capture), context)

    events = fragment.events
    assert len(events) == 1
    assert events.kind[0] == EventKind.MALLOC
    assert (events.start_ns[0], events.end_ns[0], events.work_ns[0]) == (1_000, 26_000, 25_000)
    assert (events.size_bytes[0], events.detail[0]) == (4096, 0x7F00)
    assert context.strings[int(events.name[0])] == "realloc"
    track = context.tracks[int(events.track[0])]
    assert (track.tid, track.pid) == (71, 70)
    assert fragment.decoded == 3
    assert context.quality.counts == {Issue.NEGATIVE_DURATION: 1, Issue.UNKNOWN_KIND: 1}


@pytest.mark.parametrize(
    ("preload", "allocator"),
    [
        ("", "libc"),
        ("/usr/lib/libjemalloc.so.2", "jemalloc"),
        ("/opt/a.so:/usr/lib/libtcmalloc_minimal.so.4", "tcmalloc"),
        ("/opt/a.so /usr/lib/libmimalloc-secure.so", "mimalloc"),
        ("/opt/jemalloc/other.so", "libc"),
    ],
)
def test_the_allocator_is_named_by_what_is_preloaded(preload: str, allocator: str) -> None:
    assert find_allocator({"LD_PRELOAD": preload}) == allocator


def test_an_allocator_that_a_program_is_linked_with_is_named_too() -> None:
    assert find_allocator({}, ["/lib/libc.so.6", "/lib/libjemalloc.so.2"]) == "jemalloc"


def test_the_shim_comes_before_what_the_user_preloads(tmp_path: Path) -> None:
    probe = MallocProbe()
    probe.start(new_capture(tmp_path), RecordOptions(malloc="slow", threshold_ns=31_000))

    changed = probe.environ({"LD_PRELOAD": "/usr/lib/libjemalloc.so.2"})

    shim, users = changed["LD_PRELOAD"].split()
    assert "shim-" in Path(shim).name
    assert users == "/usr/lib/libjemalloc.so.2"
    assert changed["SLMTRACE_MALLOC_THRESHOLD_NS"] == "31000"
    assert probe.stop().facts["allocator"] == "jemalloc"


@pytest.mark.parametrize("mode", ["off", "default", "full"])
def test_nothing_is_preloaded_unless_slow_calls_were_asked_for(tmp_path: Path, mode: str) -> None:
    probe = MallocProbe()
    probe.start(new_capture(tmp_path), RecordOptions(malloc=mode))

    assert probe.environ({"LD_PRELOAD": "/usr/lib/libtcmalloc.so"}) == {}
    result = probe.stop()
    assert (result.status, result.facts["allocator"], result.written) == ("ok", "tcmalloc", 0)
    assert bool(result.reason)


def test_a_command_that_replaced_the_preloaded_shim_is_told_of(tmp_path: Path) -> None:
    probe = MallocProbe()
    probe.start(new_capture(tmp_path), RecordOptions(malloc="slow"))

    result = probe.stop()

    assert result.status == "partial"
    assert "LD_PRELOAD" in result.reason


def test_without_a_compiler_slow_mode_says_what_to_install(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    probe = MallocProbe()

    availability = probe.check()
    with pytest.raises(SlmtraceError, match="no C compiler") as caught:
        probe.start(new_capture(tmp_path), RecordOptions(malloc="slow"))

    assert "apt-get install" in caught.value.hint
    assert (availability.status, availability.remedy) == ("partial", caught.value.hint)
    probe.start(new_capture(tmp_path.joinpath("other")), RecordOptions())


def test_a_cache_that_ld_preload_cannot_name_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "with space"))

    with pytest.raises(SlmtraceError, match="cannot name"):
        build_shim()
