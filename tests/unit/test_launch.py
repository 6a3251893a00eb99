"""The gate: the target starts when told, as if nobody had started it for it, and its end is told in full."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from slmtrace.errors import LaunchError
from slmtrace.launch import Exited, Gate, reap, resolve_program, wait_for_exit


def run(code: str, environ: dict[str, str] | None = None) -> Exited:
    gate = Gate()
    gate.open(sys.executable, ["python", "-c", code], {"PATH": os.environ["PATH"], **(environ or {})})
    assert wait_for_exit(gate.pid, 30)
    return reap(gate.pid)


def test_the_target_waits_for_the_gate_and_runs_under_the_pid_that_was_known_before(tmp_path: Path) -> None:
    told = tmp_path / "told"
    gate = Gate()
    time.sleep(0.1)
    assert not told.exists()

    start_ns = gate.open(
        sys.executable,
        [
            "python",
            "-c",
            f"import os, time; open({str(told)!r}, 'w').write(f'{{os.getpid()}} {{time.monotonic_ns()}}')",
        ],
        dict(os.environ),
    )
    wait_for_exit(gate.pid, 30)
    exited = reap(gate.pid)

    pid, ran_ns = (int(word) for word in told.read_text().split())
    assert exited.exit_code == 0
    assert pid == gate.pid
    assert start_ns < ran_ns < time.monotonic_ns()


def test_the_exit_code_is_the_targets_own() -> None:
    assert run("raise SystemExit(37)").exit_code == 37


def test_a_target_killed_by_a_signal_exits_like_in_a_shell() -> None:
    exited = run("import os; os.kill(os.getpid(), 9)")

    assert (exited.exit_code, exited.signal) == (128 + signal.SIGKILL, signal.SIGKILL)


def test_the_target_gets_exactly_the_environment_and_arguments_that_it_was_given() -> None:
    code = "import os, sys; sys.exit(0 if os.environb[b'ODD'] == b'\\xff\\n' and sys.argv[1:] == [] else 1)"

    assert run(code, {"ODD": "\udcff\n"}).exit_code == 0


def test_the_target_inherits_the_files_that_it_would_without_us(tmp_path: Path) -> None:
    def command(out: str) -> list[str]:
        return ["sh", "-c", f"ls /proc/$$/fd > {tmp_path}/{out}"]

    subprocess.run(command("plain"), executable="/bin/sh", close_fds=False, check=True)
    gate = Gate()
    gate.open("/bin/sh", command("gated"), dict(os.environ))
    wait_for_exit(gate.pid, 30)
    reap(gate.pid)

    assert (tmp_path / "gated").read_text() == (tmp_path / "plain").read_text()


def test_the_target_gets_back_the_signals_that_python_ignores(tmp_path: Path) -> None:
    def masks(status: str) -> dict[str, int]:
        return {key: int(value, 16) for key, value in re.findall(r"(Sig(?:Blk|Ign)):\s+(\w+)", status)}

    gate = Gate()
    gate.open("/bin/sh", ["sh", "-c", f"exec cat /proc/self/status > {tmp_path}/status"], dict(os.environ))
    wait_for_exit(gate.pid, 30)
    reap(gate.pid)

    ours, targets = masks(Path("/proc/self/status").read_text()), masks((tmp_path / "status").read_text())
    ignored_by_python = 1 << signal.SIGPIPE - 1 | 1 << signal.SIGXFSZ - 1
    assert targets == {"SigBlk": ours["SigBlk"], "SigIgn": ours["SigIgn"] & ~ignored_by_python}


def test_an_abandoned_gate_leaves_no_child() -> None:
    gate = Gate()
    gate.abandon()
    gate.abandon()

    with pytest.raises(ProcessLookupError):
        os.kill(gate.pid, 0)


def test_a_child_whose_recorder_is_gone_ends_without_running_anything() -> None:
    recorder = os.fork()
    if recorder == 0:
        gate = Gate()
        Path(f"/tmp/slmtrace-gate-{os.getpid()}").write_text(str(gate.pid))
        os.kill(os.getpid(), signal.SIGKILL)
    os.waitpid(recorder, 0)
    note = Path(f"/tmp/slmtrace-gate-{recorder}")
    child = int(note.read_text())
    note.unlink()

    deadline = time.monotonic() + 10
    while Path(f"/proc/{child}").exists() and " Z " not in Path(f"/proc/{child}/stat").read_text():
        assert time.monotonic() < deadline
        time.sleep(0.01)


def test_a_file_that_is_no_program_is_told_with_its_name(tmp_path: Path) -> None:
    script = tmp_path / "script"
    script.write_bytes(b"\x00\x01\x02\x03")
    script.chmod(0o755)

    with pytest.raises(LaunchError, match="exec format error") as caught:
        Gate().open(str(script), [str(script)], {})

    assert caught.value.exit_code == 125


@pytest.mark.parametrize(
    ("name", "said"),
    [("surely-no-such-program", "command not found"), ("./missing", "command not found"), ("/tmp", "is a directory")],
)
def test_what_cannot_be_run_is_refused_before_anything_is_made(name: str, said: str) -> None:
    with pytest.raises(LaunchError, match=said) as caught:
        resolve_program(name, os.environ)

    assert caught.value.hint


def test_a_file_without_the_execute_bit_is_refused_with_its_remedy(tmp_path: Path) -> None:
    script = tmp_path / "program.py"
    script.write_text("print()")

    with pytest.raises(LaunchError, match="permission denied") as caught:
        Gate().open(resolve_program(str(script), os.environ), [str(script)], {})

    assert "chmod +x" in caught.value.hint


def test_a_program_is_looked_up_in_the_targets_own_path(tmp_path: Path) -> None:
    program = tmp_path / "mine"
    program.write_text("#!/bin/sh\n")
    program.chmod(0o755)

    assert resolve_program("mine", {"PATH": str(tmp_path)}) == str(program)


def test_waiting_leaves_the_zombie_for_its_accounts() -> None:
    gate = Gate()
    gate.open("/bin/true", ["true"], {})

    assert wait_for_exit(gate.pid, 30)
    assert " Z " in Path(f"/proc/{gate.pid}/stat").read_text()
    assert reap(gate.pid).usage["ru_minflt"] > 0


def test_waiting_gives_up_in_time() -> None:
    gate = Gate()
    begun = time.monotonic()

    assert not wait_for_exit(gate.pid, 0.05)
    assert 0.04 < time.monotonic() - begun < 5
    gate.abandon()
