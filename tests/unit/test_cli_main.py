"""The command line as a whole: help at once, and one message for every failure."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from slmtrace import __version__
from slmtrace.cli import main as main_module
from slmtrace.cli.main import main
from slmtrace.errors import CaptureError


def test_help_imports_nothing_heavy() -> None:
    code = (
        "import sys\n"
        "from slmtrace.cli.main import main\n"
        "assert main(['--help']) == 0\n"
        "print(sorted({'numpy', 'rich', 'perfetto', 'psutil', 'torch', 'slmtrace.recorder'} & set(sys.modules)))"
    )

    shown = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout

    assert shown.splitlines()[-1] == "[]"
    assert all(
        name in shown
        for name in ("run", "record", "attach", "report", "diff", "view", "import", "bundle", "doctor", "model")
    )


@pytest.mark.parametrize(
    "name", ["run", "record", "attach", "report", "diff", "view", "import", "bundle", "doctor", "model"]
)
def test_every_command_explains_itself(name: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main([name, "--help"]) == 0
    assert f"Usage: slmtrace {name}" in capsys.readouterr().out


def test_the_version_is_the_packages(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--version"]) == 0
    assert capsys.readouterr().out == f"slmtrace, version {__version__}\n"


@pytest.mark.parametrize(
    "arguments",
    [
        ["nonsense"],
        ["run", "--tier", "medium"],
        ["run", "--requests", "0"],
        ["run", "--probes", "perf"],
        ["run", "--require", "perf"],
        ["run", "--model", "no-such-model"],
        ["record", "--until", "tomorrow", "--", "true"],
        ["record"],
        ["report"],
        ["model", "no-such-model", "somewhere"],
    ],
)
def test_a_usage_error_is_one_message_with_a_remedy_and_exit_code_2(
    arguments: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(arguments) == 2

    message, remedy = capsys.readouterr().err.splitlines()
    assert message.startswith("slmtrace: ")
    assert remedy.startswith("  try: ")


@pytest.mark.parametrize(
    "arguments",
    [
        ["check", "--write-baseline", "FILE"],
        ["check", "--baseline", ".", "--keep", "FILE"],
        ["check", "--baseline", ".", "--junit", "FILE/x.xml"],
        ["check", "--baseline", ".", "--summary", "FILE/x.md"],
        ["certify", "-o", "FILE"],
        ["sweep", "prompt-length", "-o", "FILE"],
    ],
)
def test_a_study_that_could_not_write_is_refused_before_it_records(
    arguments: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file = tmp_path / "file"
    file.touch()

    assert main([one.replace("FILE", str(file)) for one in arguments]) == 2

    assert f"{file} is not a directory" in capsys.readouterr().err


def test_an_argument_that_is_missing_is_named_in_one_line(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["sweep"]) == 2

    assert "Missing argument 'KIND'. Choose from: prompt-length, concurrency" in capsys.readouterr().err


def test_a_capture_that_is_not_there_has_exit_code_4(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["report", "/no/such/capture"]) == 4
    assert capsys.readouterr().err.startswith("slmtrace: /no/such/capture: no such capture\n  try: ")


def test_a_defect_of_ours_is_one_line_and_exit_code_1(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def explode(**arguments: object) -> None:
        raise ZeroDivisionError("division by zero")

    monkeypatch.setattr(main_module.cli, "main", explode)
    monkeypatch.delenv("SLMTRACE_DEBUG", raising=False)

    assert main([]) == 1
    assert capsys.readouterr().err.splitlines()[0] == "slmtrace: ZeroDivisionError: division by zero"


def test_debugging_shows_where_a_failure_came_from(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def explode(**arguments: object) -> None:
        raise CaptureError("it is damaged", hint="record again")

    monkeypatch.setattr(main_module.cli, "main", explode)
    monkeypatch.setenv("SLMTRACE_DEBUG", "1")

    assert main([]) == 4
    assert "in explode" in capsys.readouterr().err


def test_an_interrupt_has_the_shells_exit_code(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def interrupt(**arguments: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(main_module.cli, "main", interrupt)

    assert main([]) == 130
    assert capsys.readouterr().err == "slmtrace: interrupted\n"


def test_an_interrupted_command_says_so(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    def interrupt() -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("slmtrace.cli.doctor.examine", interrupt)

    assert main(["doctor"]) == 130
    assert capsys.readouterr().err == "\nslmtrace: interrupted\n"  # click ends the line of the ^C


def test_a_reader_that_goes_away_is_no_failure() -> None:
    process = subprocess.Popen(
        [sys.executable, "-m", "slmtrace", "--help"], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )
    assert process.stdout is not None
    process.stdout.close()
    _, errors = process.communicate()

    assert errors == ""
    assert process.returncode == 141


@pytest.mark.parametrize("form", ["sysctl", "systemd", "k8s"])
def test_a_report_prints_what_can_be_set_about_it_as_a_snippet(form: str, capsys: pytest.CaptureFixture[str]) -> None:
    trace = Path(__file__).parents[2] / "traces" / "hf-two-requests" / "trace.pftrace"

    assert main(["report", str(trace), "--emit", form]) == 0

    assert capsys.readouterr().out == "# nothing to set was found\n"
