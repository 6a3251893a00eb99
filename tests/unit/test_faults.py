"""Faults undo themselves, whatever becomes of the program that injected them. No fault here needs root."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from slmtrace.model.taxonomy import Cause
from slmtrace.verdict.rules import RULES
from tools.faults.base import Fault, Impossible, Setting
from tools.faults.catalogue import FAULTS
from tools.faults.undo import Undo

ROOT = Path(__file__).parents[2]
# Changes a file, starts a process and makes a directory, says so, and waits to be killed.
VICTIM = """
import subprocess, sys, time
from pathlib import Path
from tools.faults.undo import Undo
setting, made = Path(sys.argv[1]), Path(sys.argv[2])
with Undo() as undo:
    undo.write_back(setting)
    setting.write_text("changed")
    undo.remove_directory(made)
    made.mkdir()
    child = subprocess.Popen(["sleep", "600"])
    undo.kill(child.pid)
    print(child.pid, flush=True)
    time.sleep(600)
"""


def eventually(is_true: Callable[[], bool]) -> bool:
    until_s = time.monotonic() + 20
    while time.monotonic() < until_s and not is_true():
        time.sleep(0.02)
    return is_true()


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGTERM, signal.SIGINT])
def test_a_killed_program_leaves_nothing_changed(tmp_path: Path, number: signal.Signals) -> None:
    setting, made = tmp_path / "setting", tmp_path / "made"
    setting.write_text("always [madvise] never\n")
    victim = subprocess.Popen(
        [sys.executable, "-c", VICTIM, str(setting), str(made)],
        cwd=ROOT,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
    )
    assert victim.stdout is not None
    child = int(victim.stdout.readline())
    assert setting.read_text() == "changed"

    victim.send_signal(number)
    victim.communicate()

    assert eventually(lambda: setting.read_text() == "madvise" and not made.exists())
    assert eventually(lambda: not Path(f"/proc/{child}").exists())


def test_steps_are_undone_last_first_and_one_that_fails_keeps_back_no_other(tmp_path: Path) -> None:
    file = tmp_path / "file"
    file.write_text("now")

    with Undo() as undo:
        undo.write(file, "first told")
        undo.write(tmp_path / "no" / "such" / "directory", "text")
        undo.write(file, "last told")

    assert file.read_text() == "first told"


def test_a_process_that_has_the_pid_of_another_is_not_killed(monkeypatch: pytest.MonkeyPatch) -> None:
    with subprocess.Popen(["sleep", "600"]) as bystander:
        with Undo() as undo:
            monkeypatch.setattr("tools.faults.undo._start_of", lambda pid: "1")
            undo.kill(bystander.pid)
        is_alive = bystander.poll() is None
        bystander.kill()

    assert is_alive


def test_what_a_fault_put_into_the_environment_reaches_the_command_and_its_files_are_gone_after_it() -> None:
    code = "import os, sys; print(os.environ['PYTHONPYCACHEPREFIX'], os.path.isdir(os.environ['PYTHONPYCACHEPREFIX']))"
    command = [sys.executable, "-m", "tools.faults", "no_compiled_python", "--", sys.executable, "-c", code]

    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True)

    path, was_there = done.stdout.split()
    assert was_there == "True" and not Path(path).exists()
    assert "fault: hid all .pyc files" in done.stderr


def test_the_exit_code_is_that_of_the_command() -> None:
    command = [sys.executable, "-m", "tools.faults", "long_path", "--", "sh", "-c", "exit 7"]

    assert subprocess.run(command, cwd=ROOT, capture_output=True, check=False).returncode == 7


def test_a_fault_that_cannot_be_injected_says_so_in_one_line() -> None:
    command = [sys.executable, "-m", "tools.faults", "cold_weights", "--", "true"]

    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)

    assert (done.returncode, done.stderr) == (
        1,
        "fault: cold_weights cannot be injected here: needs --model DIR with *.safetensors in it\n",
    )


def test_a_fault_that_turns_out_impossible_is_undone_too(tmp_path: Path) -> None:
    file = tmp_path / "file"
    file.write_text("before")

    def inject(setting: Setting) -> None:
        setting.undo.write_back(file)
        file.write_text("changed")
        raise Impossible("half way")

    with pytest.raises(Impossible), Fault("half", "", inject, (), ()).injected():
        pass

    assert file.read_text() == "before"


def test_a_cure_is_done_after_the_fault_and_undone_with_it(tmp_path: Path) -> None:
    file = tmp_path / "file"
    file.write_text("before")

    def inject(setting: Setting) -> None:
        setting.undo.write_back(file)
        file.write_text("broken")

    def cure(setting: Setting) -> None:
        file.write_text("cured")

    with Fault("x", "", inject, (), (), cure=cure).injected(is_cured=True):
        during = file.read_text()

    assert (during, file.read_text()) == ("cured", "before")


def test_a_fault_without_a_cure_says_so() -> None:
    with (
        pytest.raises(Impossible, match="no cure"),
        Fault("x", "", lambda setting: None, (), ()).injected(is_cured=True),
    ):
        pass


def test_every_fault_expects_causes_and_findings_that_exist() -> None:
    causes = {cause.label for cause in Cause}
    findings = {rule.id for rule in RULES}

    for fault in FAULTS.values():
        assert set(fault.expects) <= causes, fault.name
        assert set(fault.findings) <= findings, fault.name


@pytest.mark.root
@pytest.mark.skipif(os.geteuid() != 0, reason="needs root")
def test_a_cgroup_is_gone_after_a_command_in_it_was_killed_with_its_injector() -> None:
    command = [
        sys.executable,
        "-m",
        "tools.faults",
        "cpu_quota",
        "--",
        "sh",
        "-c",
        "cat /proc/self/cgroup; exec sleep 600",
    ]
    injector = subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    assert injector.stdout is not None and injector.stderr is not None
    if "cannot be injected" in (said := injector.stderr.readline()):
        pytest.skip(said)
    line = next(line for line in injector.stdout if "slmtrace-fault" in line)
    group = Path(line.strip().rpartition(":")[2]).name
    places = [Path("/sys/fs/cgroup") / group, Path("/sys/fs/cgroup/cpu") / group]
    assert any(place.exists() for place in places)
    children = Path(f"/proc/{injector.pid}/task/{injector.pid}/children").read_text().split()

    injector.kill()
    injector.wait()

    assert eventually(lambda: not any(place.exists() for place in places))
    for child in map(int, children):
        if "sleep" in Path(f"/proc/{child}/comm").read_text() if Path(f"/proc/{child}/comm").exists() else "":
            os.kill(child, signal.SIGKILL)
