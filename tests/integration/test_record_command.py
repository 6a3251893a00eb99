"""`slmtrace record` around real programs: they must not notice, and whatever happens to anybody, the capture stands."""

from __future__ import annotations

import json
import os
import pty
import re
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from slmtrace import recorder
from slmtrace.capture.directory import Capture
from slmtrace.recorder import Recording, record
from slmtrace.recording import ending
from slmtrace.recording.ending import Until
from slmtrace.recording.progress import Progress

PYTHON = sys.executable
LIGHT = ("--probes", "ranges,proc")
# A program that tells the instrument what an engine would.
SERVING = """
import signal, sys, time
from _slmtrace.instrument import marks
signal.signal(signal.SIGTERM, {on_sigterm})
marks.mark("ready")
for number in range(1000):
    marks.mark("request_start", str(number))
    marks.mark("first_token", str(number))
    marks.mark("request_end", str(number))
    print(number, flush=True)
    time.sleep(0.2)
"""


def slmtrace(*arguments: str | Path) -> list[str]:
    return [PYTHON, "-m", "slmtrace", *map(str, arguments)]


def run(output: Path, *command: str | Path, options: tuple[str, ...] = LIGHT, **keywords: Any) -> Any:
    return subprocess.run(
        slmtrace("record", *options, "-o", output, "--", *command),
        capture_output=True,
        text=True,
        check=False,
        **keywords,
    )


def start(output: Path, code: str, *options: str, **keywords: Any) -> subprocess.Popen[str]:
    """Start a recording of Python code that prints its pid first, and wait until it has."""
    return subprocess.Popen(
        slmtrace("record", *(options or LIGHT), "-o", output, "--", PYTHON, "-c", code),
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        **keywords,
    )


def read_pid(process: subprocess.Popen[str]) -> int:
    assert process.stdout is not None
    return int(process.stdout.readline())


def wait_until(is_true: Callable[[], bool], timeout_s: float = 20) -> None:
    deadline = time.monotonic() + timeout_s
    while not is_true():
        assert time.monotonic() < deadline, "it never came"
        time.sleep(0.02)


def manifest(output: Path) -> dict[str, Any]:
    return Capture.open(output).read_manifest()


def is_running(pid: int) -> bool:
    try:
        return " Z " not in Path(f"/proc/{pid}/stat").read_text()
    except FileNotFoundError:
        return False


def test_the_targets_streams_and_exit_code_are_its_own(tmp_path: Path) -> None:
    code = "import sys; print(sys.stdin.read(), end='!'); print('oops', file=sys.stderr); sys.exit(7)"

    done = run(tmp_path / "capture", PYTHON, "-c", code, input="hello")

    assert (done.stdout, done.returncode) == ("hello!", 7)
    assert done.stderr.startswith("oops\n")
    assert f"slmtrace report {tmp_path / 'capture'}" in done.stderr


def test_the_capture_is_complete_and_private(tmp_path: Path) -> None:
    run(tmp_path / "capture", PYTHON, "-c", "raise SystemExit(3)", "--password", "hunter2")

    found = manifest(tmp_path / "capture")
    files = [path for path in (tmp_path / "capture").rglob("*") if path.is_file()]
    assert found["status"] == "complete"
    assert found["target"]["exit_code"] == 3
    assert found["target"]["ended_by"] == "target"
    assert found["target"]["start_ns"] < found["target"]["end_ns"]
    assert {source["name"] for source in found["sources"]} == {"proc", "ranges"}
    assert {line["source"] for line in found["ledger"]} == {"proc", "ranges", "clock"}
    assert {"manifest.json", "trace.pftrace", "breakdown.json", "report.md"} <= {path.name for path in files}
    assert all(path.stat().st_mode & 0o077 == 0 for path in files)
    assert not [path for path in files if b"hunter2" in path.read_bytes()]


def test_the_kernels_accounts_of_the_target_are_kept(tmp_path: Path) -> None:
    run(tmp_path / "capture", PYTHON, "-c", "bytes(50 << 20)")

    found = manifest(tmp_path / "capture")
    assert found["accounts"]["stat"]["minor_faults"] == found["target"]["usage"]["ru_minflt"]
    assert found["accounts"]["io"]["rchar"] > 0
    assert found["accounts"]["schedstat"]["on_cpu_ns"] > 0


def test_a_target_killed_by_a_signal_exits_as_in_a_shell(tmp_path: Path) -> None:
    done = run(tmp_path / "capture", "sh", "-c", "kill -SEGV $$")

    assert done.returncode == 128 + signal.SIGSEGV
    assert manifest(tmp_path / "capture")["target"]["signal"] == signal.SIGSEGV


@pytest.mark.bpf
@pytest.mark.root
def test_a_process_of_the_target_that_was_killed_is_named(tmp_path: Path) -> None:
    code = (
        "import os, subprocess; child = subprocess.Popen(['sleep', '60']); child.kill(); raise SystemExit(child.wait())"
    )

    done = run(tmp_path / "capture", PYTHON, "-c", code, options=("--probes", "ebpf,ranges", "--require", "ebpf"))

    assert re.search(r"never got ready: sleep \(\d+\) was killed by SIGKILL", done.stderr)


def test_a_program_without_python_is_recorded_too(tmp_path: Path) -> None:
    done = run(tmp_path / "capture", "/bin/echo", "hi")

    assert (done.stdout, done.returncode) == ("hi\n", 0)
    assert {s["name"]: s["status"] for s in manifest(tmp_path / "capture")["sources"]}["ranges"] == "partial"
    assert "no Python" in done.stderr


def test_a_command_that_is_not_there_leaves_nothing_behind(tmp_path: Path) -> None:
    done = run(tmp_path / "new" / "capture", "surely-no-such-program")

    assert done.returncode == 125
    assert done.stderr.splitlines()[0] == "slmtrace: surely-no-such-program: command not found"
    assert not (tmp_path / "new" / "capture").exists()


def test_a_file_that_the_kernel_refuses_leaves_nothing_behind(tmp_path: Path) -> None:
    program = tmp_path / "program"
    program.write_bytes(b"\x7fELFnot really")
    program.chmod(0o755)

    done = run(tmp_path / "capture", program)

    assert done.returncode == 125
    assert "exec format error" in done.stderr
    assert not (tmp_path / "capture").exists()


def test_an_output_that_holds_something_is_a_usage_error(tmp_path: Path) -> None:
    done = run(tmp_path, "true")
    assert (done.returncode, done.stdout) == (0, "")

    done = run(tmp_path, "true")

    assert done.returncode == 2
    assert "is not empty" in done.stderr


def test_a_required_probe_that_is_missing_stops_before_the_target_runs(tmp_path: Path) -> None:
    witness = tmp_path / "ran"
    environ = {**os.environ, "PATH": "/nowhere"}

    done = run(
        tmp_path / "capture",
        "/bin/sh",
        "-c",
        f": > {witness}",
        options=("--probes", "ranges", "--malloc", "slow", "--require", "malloc"),
        env={**environ, "XDG_CACHE_HOME": str(tmp_path / "cache")},
    )

    assert done.returncode == 3
    assert "the required probe malloc is unavailable" in done.stderr
    assert not witness.exists()
    assert not (tmp_path / "capture").exists()


def test_sigterm_reaches_the_target_and_the_capture_is_finished(tmp_path: Path) -> None:
    code = (
        "import os, signal, sys, time\n"
        "signal.signal(signal.SIGTERM, lambda *_: sys.exit(9))\n"
        "print(os.getpid(), flush=True)\n"
        "time.sleep(60)"
    )
    process = start(tmp_path / "capture", code)
    read_pid(process)

    process.terminate()
    process.communicate(timeout=60)

    assert process.returncode == 9
    assert manifest(tmp_path / "capture")["status"] == "aborted"
    assert manifest(tmp_path / "capture")["target"]["ended_by"] == "SIGTERM"
    assert (tmp_path / "capture" / "breakdown.json").is_file()


def test_an_interrupt_without_a_terminal_is_passed_on_and_a_second_one_kills(tmp_path: Path) -> None:
    code = (
        "import os, signal, time\n"
        "signal.signal(signal.SIGINT, lambda *_: print('once', flush=True))\n"
        "print(os.getpid(), flush=True)\n"
        "while True: time.sleep(60)"
    )
    process = start(tmp_path / "capture", code, start_new_session=True)
    pid = read_pid(process)
    assert process.stdout is not None

    process.send_signal(signal.SIGINT)
    assert process.stdout.readline() == "once\n"
    process.send_signal(signal.SIGINT)
    process.communicate(timeout=60)

    assert process.returncode == 128 + signal.SIGKILL
    assert not is_running(pid)
    assert manifest(tmp_path / "capture")["target"]["ended_by"] == "SIGINT"


def test_ctrl_c_on_a_terminal_reaches_the_target_once_and_the_capture_is_explained(tmp_path: Path) -> None:
    code = (
        "import os, signal, sys, time\n"
        "n = [0]\n"
        "def count(*_): n[0] += 1\n"
        "signal.signal(signal.SIGINT, count)\n"
        f"open({str(tmp_path / 'pid')!r}, 'w').write(str(os.getpid()))\n"
        "while not n[0]: time.sleep(0.05)\n"
        "time.sleep(0.5)\n"
        "sys.exit(40 + n[0])"
    )
    pid, terminal = pty.fork()
    if pid == 0:
        command = slmtrace("record", *LIGHT, "-o", tmp_path / "capture", "--", PYTHON, "-c", code)
        os.execv(command[0], command)
    wait_until((tmp_path / "pid").exists)
    time.sleep(0.3)

    os.write(terminal, b"\x03")
    shown = _read_all(terminal)
    code_returned = os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])

    assert code_returned == 41
    assert "slmtrace report" in shown
    assert "... " in shown  # the progress line
    assert "Traceback" not in shown


def _read_all(terminal: int) -> str:
    shown = b""
    while True:
        try:
            chunk = os.read(terminal, 65536)
        except OSError:  # Linux: the last process has closed its side
            chunk = b""
        if not chunk:
            return shown.decode()
        shown += chunk


def test_a_target_outlives_a_recorder_that_is_killed_and_the_capture_reads(tmp_path: Path) -> None:
    code = (
        "import os, time\nprint(os.getpid(), flush=True)\ntime.sleep(2)\nimport xml.dom.minidom\n"
        f"open({str(tmp_path / 'done')!r}, 'w').close()"
    )
    process = start(tmp_path / "capture", code)
    pid = read_pid(process)
    time.sleep(0.5)

    process.kill()
    process.wait()
    assert is_running(pid)
    wait_until((tmp_path / "done").exists)
    shown = subprocess.run(slmtrace("report", tmp_path / "capture"), capture_output=True, text=True, check=False)

    assert shown.returncode == 0, shown.stderr
    assert manifest(tmp_path / "capture")["status"] == "recording"
    assert "load" in shown.stdout
    assert "killed" in shown.stdout


def test_a_target_outlives_its_capture_and_keeps_its_exit_code(tmp_path: Path) -> None:
    code = f"import shutil, sys; shutil.rmtree({str(tmp_path / 'out')!r}); print('still here'); sys.exit(7)"

    done = run(tmp_path / "out", PYTHON, "-c", code)

    assert (done.returncode, done.stdout) == (7, "still here\n")
    assert "Traceback" not in done.stderr
    assert "could not be explained" in done.stderr


def test_a_daemon_that_the_target_leaves_behind_is_not_waited_for(tmp_path: Path) -> None:
    code = (
        "import os, subprocess, sys\n"
        "daemon = subprocess.Popen(['sleep', '60'], start_new_session=True, stdout=subprocess.DEVNULL,"
        " stderr=subprocess.DEVNULL)\n"
        "print(daemon.pid)"
    )

    done = run(tmp_path / "capture", PYTHON, "-c", code, timeout=40)

    daemon = int(done.stdout)
    assert is_running(daemon)
    os.kill(daemon, signal.SIGKILL)
    assert done.returncode == 0


@pytest.mark.parametrize(("until", "n_answered"), [("first-token", 1), ("3-requests", 3)])
def test_until_ends_a_target_that_would_go_on(until: str, n_answered: int, tmp_path: Path) -> None:
    code = SERVING.format(on_sigterm="signal.SIG_DFL")

    done = run(tmp_path / "capture", PYTHON, "-c", code, options=(*LIGHT, "--until", until))

    found = manifest(tmp_path / "capture")
    assert done.returncode == 0
    assert n_answered <= len(done.stdout.splitlines()) <= n_answered + 5
    assert (found["status"], found["target"]["ended_by"], found["target"]["signal"]) == ("complete", "until", 15)
    breakdown = json.loads((tmp_path / "capture" / "breakdown.json").read_text())
    assert [window["name"] for window in breakdown["windows"]][: n_answered + 1] == ["load", *["ttft"] * n_answered]


def test_a_target_that_exits_by_itself_when_asked_to_end_keeps_its_exit_code(tmp_path: Path) -> None:
    code = SERVING.format(on_sigterm="lambda *_: sys.exit(5)")

    assert run(tmp_path / "capture", PYTHON, "-c", code, options=(*LIGHT, "--until", "first-token")).returncode == 5


def test_a_target_that_ends_before_until_is_told_of_and_its_capture_kept(tmp_path: Path) -> None:
    done = run(tmp_path / "capture", PYTHON, "-c", "raise SystemExit(3)", options=(*LIGHT, "--until", "2-requests"))

    assert done.returncode == 3
    assert (
        "slmtrace: the target ended with exit code 3 before --until was reached: it had answered 0 of 2 requests"
        in done.stderr
    )
    assert (tmp_path / "capture" / "breakdown.json").is_file()


def test_until_without_what_tells_of_requests_is_a_usage_error(tmp_path: Path) -> None:
    options = ("--probes", "proc", "--until", "first-token")

    done = run(tmp_path / "capture", PYTHON, "-c", "pass", options=options)

    assert done.returncode == 2
    assert "--until first-token is told by the probe ranges" in done.stderr
    assert not (tmp_path / "capture").exists()


def test_a_target_that_does_not_want_to_end_is_killed_with_its_children(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(ending, "GRACE_S", 0.3)
    code = f"import subprocess; child = subprocess.Popen(['sleep', '60']); open({str(tmp_path / 'pid')!r}, 'w').write("
    code += "str(child.pid))\n" + SERVING.format(on_sigterm="signal.SIG_IGN")
    recording = Recording((PYTHON, "-c", code), ("ranges",), until=Until(n_first_tokens=1))

    outcome = record(recording, tmp_path / "capture", Progress())

    assert outcome.exit_code == 0
    assert manifest(tmp_path / "capture")["target"]["signal"] == signal.SIGKILL
    wait_until(lambda: not is_running(int((tmp_path / "pid").read_text())))


def test_a_defect_of_the_recorder_leaves_no_probe_running_and_the_target_alone(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def explode(pid: int, timeout_s: float) -> bool:
        raise RuntimeError("a defect")

    monkeypatch.setattr(recorder, "wait_for_exit", explode)
    code = f"import time; time.sleep(0.5); open({str(tmp_path / 'done')!r}, 'w').close()"

    with pytest.raises(RuntimeError, match="a defect"):
        record(Recording((PYTHON, "-c", code), ("ranges", "proc")), tmp_path / "capture", Progress())

    wait_until((tmp_path / "done").exists)
    assert manifest(tmp_path / "capture")["status"] == "recording"


def test_an_analysis_that_fails_changes_no_exit_code(tmp_path: Path) -> None:
    code = (
        "import sys\n"
        "import slmtrace.analysis\n"
        "def explode(capture): raise ZeroDivisionError('division by zero')\n"
        "slmtrace.analysis.analyze = explode\n"
        "from slmtrace.cli.main import main\n"
        f"out = {str(tmp_path / 'capture')!r}\n"
        "sys.exit(main(['record', '--probes', 'ranges', '-o', out, '--', 'sh', '-c', 'exit 6']))"
    )

    done = subprocess.run([PYTHON, "-c", code], capture_output=True, text=True, check=False)

    assert done.returncode == 6
    assert "could not be explained: ZeroDivisionError" in done.stderr
    assert "Traceback" not in done.stderr


@pytest.mark.root
def test_files_recorded_through_sudo_belong_to_the_caller(tmp_path: Path) -> None:
    done = run(tmp_path / "made" / "capture", "true", env={**os.environ, "SUDO_UID": "12345", "SUDO_GID": "12345"})

    assert done.returncode == 0
    made = [tmp_path / "made", *(tmp_path / "made").rglob("*")]
    assert {(path.stat().st_uid, path.stat().st_gid) for path in made} == {(12345, 12345)}


@pytest.mark.root
def test_a_user_without_privilege_gets_a_report_that_says_what_it_lacks(tmp_path: Path) -> None:
    tmp_path.chmod(0o755)
    home = tmp_path / "home"
    home.mkdir()
    os.chown(home, 65534, 65534)
    # The checkout may lie where only root reads: this one capability lets the user find it, and nothing else.
    command = ["setpriv", "--reuid", "65534", "--regid", "65534", "--clear-groups"]
    for option in ("--inh-caps=-all,", "--ambient-caps=", "--bounding-set=-all,"):
        command.append(option + "+dac_read_search")
    command += slmtrace("record", "-o", home / "capture", "--", PYTHON, "-c", "print('hello'); raise SystemExit(4)")

    done = subprocess.run(
        command, cwd=home, env={**os.environ, "HOME": str(home)}, capture_output=True, text=True, check=False
    )

    assert (done.stdout, done.returncode) == ("hello\n", 4), done.stderr
    statuses = {source["name"]: source["status"] for source in manifest(home / "capture")["sources"]}
    assert statuses["ebpf"] == "unavailable"
    assert statuses["ranges"] == "ok"
    assert "without ebpf" in done.stderr


@pytest.mark.bpf
def test_a_recorder_that_is_killed_leaves_no_collector_behind(tmp_path: Path) -> None:
    code = "import os, time; print(os.getpid(), flush=True); time.sleep(4)"
    process = start(tmp_path / "capture", code, "--probes", "ebpf,ranges", "--require", "ebpf")
    target = read_pid(process)
    collectors = _children(process.pid) - {target}
    assert collectors

    process.kill()
    process.wait()

    assert is_running(target)
    wait_until(lambda: not any(is_running(pid) for pid in collectors))
    assert is_running(target)


def _children(pid: int) -> set[int]:
    return {int(word) for word in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()}


def test_an_allocator_that_the_command_preloads_by_itself_is_in_the_state(tmp_path: Path) -> None:
    # Whatever is mapped under this name: the allocator need not be installed.
    library = tmp_path / "libjemalloc.so.2"
    library.write_bytes(bytes(4096))
    code = (
        "import mmap, sys, time; file = open(sys.argv[1], 'rb'); "
        "held = mmap.mmap(file.fileno(), 0, prot=mmap.PROT_READ); time.sleep(2)"
    )

    for output, argument in (("with", library), ("without", "/etc/passwd")):
        assert run(tmp_path / output, "sh", "-c", '"$@"; true', "sh", PYTHON, "-c", code, argument).returncode == 0

    state = [Capture(tmp_path / one).read_manifest()["state"]["allocator"] for one in ("with", "without")]
    assert [one["before"]["name"] for one in state] == ["jemalloc", "libc"]


@pytest.mark.bpf
def test_an_interrupted_sleep_is_no_finding_and_the_report_says_what_ended_it(tmp_path: Path) -> None:
    code = "import os, time; print(os.getpid(), flush=True); time.sleep(60)"
    recording = start(tmp_path / "capture", code, "--probes", "ranges,proc,ebpf")
    assert recording.stdout is not None
    recording.stdout.readline()
    time.sleep(1.0)

    recording.send_signal(signal.SIGINT)
    recording.communicate(timeout=60)

    (load,) = json.loads((tmp_path / "capture" / "breakdown.json").read_text())["windows"]
    assert load["note"] == "the target never got ready: ends with the target, which SIGINT ended"
    assert load["phases"]["unattributed"] + load["phases"]["scheduler"] > 500_000_000
    assert load["findings"] == []
