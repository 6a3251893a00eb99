"""The instrument in real interpreters: nothing the target can see may change, and nothing may be lost."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import textwrap
from pathlib import Path

import pytest

from slmtrace.instrument import environment
from slmtrace.instrument.garbage import NAME as GARBAGE
from slmtrace.model.events import EventKind
from tests.support.ranges import Row, read_raw, run_python

OTHER_PYTHONS = sorted(
    {path.resolve() for path in Path.home().glob(".pyenv/versions/*/bin/python")}
    | {Path(path) for path in ("/usr/bin/python3",) if Path(path).exists()}
)

WRAP = """
from _slmtrace.instrument.hooks.base import Hook
from _slmtrace.instrument.wrap import wrap
def record(label, function=lambda: None, **options):
    return wrap(function, Hook("script", "f", label=label, **options))()
"""


def script(tmp_path: Path, text: str, name: str = "script.py") -> str:
    path = tmp_path / name
    path.write_text(textwrap.dedent(text))
    return str(path)


def ranges(raw: Path) -> list[Row]:
    """Return the ranges, less the interpreter's garbage collections, which come when they come."""
    return [row for row in read_raw(raw) if row.kind is EventKind.RANGE and row.name != GARBAGE.lstrip("|")]


def labels(raw: Path) -> list[str]:
    return [row.name for row in ranges(raw)]


def test_imports_are_timed_and_nested(tmp_path: Path) -> None:
    script(tmp_path, "import time; time.sleep(0.03); import inner_module", "outer_module.py")
    script(tmp_path, "import time; time.sleep(0.02)", "inner_module.py")
    main = script(tmp_path, "import outer_module")

    assert run_python([main], tmp_path / "raw").returncode == 0

    rows = {row.name: row for row in read_raw(tmp_path / "raw") if row.kind is EventKind.IMPORT}
    outer, inner = rows["outer_module"], rows["inner_module"]
    assert outer.start_ns < inner.start_ns < inner.end_ns <= outer.end_ns
    assert inner.end_ns - inner.start_ns >= 20_000_000
    assert outer.process == "script.py"


def test_compiling_a_module_is_told_by_its_own_import_and_once(tmp_path: Path) -> None:
    (tmp_path / "inner_module.py").write_text("".join(f"a{n} = [{n}, {{{n}: 'x'}}]\n" for n in range(3000)))
    script(tmp_path, "import inner_module", "outer_module.py")
    main = script(tmp_path, "import outer_module")

    rows = []
    for raw in (tmp_path / "first", tmp_path / "second"):
        assert run_python([main], raw, environ={"PYTHONDONTWRITEBYTECODE": ""}).returncode == 0
        rows.append({row.name: row for row in read_raw(raw) if row.kind is EventKind.IMPORT})

    inner, outer = rows[0]["inner_module"], rows[0]["outer_module"]
    assert inner.detail > (inner.end_ns - inner.start_ns) / 2
    assert outer.detail < inner.detail / 2
    assert rows[1]["inner_module"].detail == 0


@pytest.mark.parametrize(
    "program",
    [
        "import a_module_that_is_missing",
        "import broken_module",
        "import misspelt_module",
        "raise ValueError('mine')",
        "import sys; print(sys.path[1:]); print('sitecustomize' in sys.modules)",
        "import json; print(json.__spec__.origin, type(json.__loader__))",
        "import sys; sys.exit(7)",
    ],
)
def test_output_tracebacks_and_exit_codes_are_those_of_the_target(tmp_path: Path, program: str) -> None:
    script(tmp_path, "def f():\n    1 / 0\nf()", "broken_module.py")
    script(tmp_path, "def f(:", "misspelt_module.py")
    main = script(tmp_path, program)

    plain = run_python([main], None)
    recorded = run_python([main], tmp_path / "raw")

    assert (recorded.returncode, recorded.stderr) == (plain.returncode, plain.stderr)
    # Without us, the module sitecustomize exists only where the machine has one.
    assert recorded.stdout.replace("True", "False") == plain.stdout.replace("True", "False")
    assert len(list((tmp_path / "raw").iterdir())) == 1


@pytest.mark.parametrize("option", ["-S", "-E", "-I"])
def test_an_interpreter_that_ignores_the_environment_runs_unrecorded(tmp_path: Path, option: str) -> None:
    completed = run_python([option, "-c", "print('fine')"], tmp_path / "raw")

    assert (completed.returncode, completed.stdout, completed.stderr) == (0, "fine\n", "")
    assert list((tmp_path / "raw").iterdir()) == []


def test_a_shadowed_sitecustomize_still_runs_and_keeps_its_name(tmp_path: Path) -> None:
    (tmp_path / "site").mkdir()
    script(tmp_path / "site", "print('theirs'); value = 42", "sitecustomize.py")

    completed = run_python(
        ["-c", "import sitecustomize; print(sitecustomize.value, sitecustomize.__file__)"],
        tmp_path / "raw",
        environ={"PYTHONPATH": str(tmp_path / "site")},
    )

    assert completed.stdout == f"theirs\n42 {tmp_path}/site/sitecustomize.py\n"
    assert len(list((tmp_path / "raw").iterdir())) == 1


def test_a_shadowed_sitecustomize_that_fails_fails_as_it_would_alone(tmp_path: Path) -> None:
    (tmp_path / "site").mkdir()
    script(tmp_path / "site", "import a_module_that_is_missing", "sitecustomize.py")
    environ = {"PYTHONPATH": str(tmp_path / "site")}

    plain = run_python(["-c", "print('on')"], None, environ=environ)
    recorded = run_python(["-c", "print('on')"], tmp_path / "raw", environ=environ)

    assert (recorded.returncode, recorded.stdout) == (plain.returncode, "on\n")
    assert "a_module_that_is_missing" in plain.stderr
    assert recorded.stderr.splitlines()[-1] == plain.stderr.splitlines()[-1]


def test_a_raw_directory_that_is_missing_changes_nothing(tmp_path: Path) -> None:
    environ = environment.injected(dict(os.environ), str(tmp_path / "missing"))

    completed = run_python(["-c", "import json; print('fine')"], None, environ=environ)

    assert (completed.returncode, completed.stdout, completed.stderr) == (0, "fine\n", "")


def test_what_was_recorded_before_sigkill_is_there(tmp_path: Path) -> None:
    main = script(
        tmp_path,
        WRAP + "import os, signal\nrecord('before')\n"
        "record('during', lambda: os.kill(os.getpid(), signal.SIGKILL), begin=True)",
    )

    assert run_python([main], tmp_path / "raw").returncode == -signal.SIGKILL

    assert labels(tmp_path / "raw") == ["before", "during"]


@pytest.mark.parametrize("method", ["fork", "spawn", "forkserver"])
def test_children_of_multiprocessing_write_their_own_logs(tmp_path: Path, method: str) -> None:
    main = script(
        tmp_path,
        WRAP
        + f"""
import multiprocessing, os
def child(queue):
    record("child")
    queue.put(os.getpid())
if __name__ == "__main__":
    context = multiprocessing.get_context("{method}")
    queue = context.Queue()
    processes = [context.Process(target=child, args=(queue,)) for _ in range(2)]
    for process in processes: process.start()
    record("parent")
    print(sorted(queue.get() for _ in processes))
    for process in processes: process.join()
    print([process.exitcode for process in processes])
""",
    )

    completed = run_python([main], tmp_path / "raw")

    assert completed.stderr == ""
    assert completed.stdout.splitlines()[1] == "[0, 0]"
    rows = ranges(tmp_path / "raw")
    assert sorted(row.pid for row in rows if row.name == "child") == eval(completed.stdout.splitlines()[0])
    assert len({row.pid for row in rows}) == 3


def test_a_target_that_daemonises_and_closes_every_descriptor_is_recorded_on(tmp_path: Path) -> None:
    main = script(
        tmp_path,
        WRAP
        + """
import os
record("before")
if os.fork():
    os.wait()
    os._exit(0)
os.setsid()
os.chdir("/")
os.closerange(0, 256)
files = [os.open("/dev/null", os.O_RDWR) for _ in range(8)]
for _ in range(20000):
    record("after")
for file in files:
    os.close(file)
os._exit(0)
""",
    )

    assert run_python([main], tmp_path / "raw").returncode == 0

    assert labels(tmp_path / "raw").count("after") == 20_000


def test_a_file_size_limit_loses_records_and_spares_the_target(tmp_path: Path) -> None:
    main = script(
        tmp_path,
        WRAP
        + """
import resource
resource.setrlimit(resource.RLIMIT_FSIZE, (800_000, 800_000))
for _ in range(20000):
    record("call")
print("survived")
""",
    )

    completed = run_python([main], tmp_path / "raw")

    assert (completed.returncode, completed.stdout, completed.stderr) == (0, "survived\n", "")
    assert 16_000 < labels(tmp_path / "raw").count("call") < 20_000


def test_threads_are_told_apart(tmp_path: Path) -> None:
    main = script(
        tmp_path,
        WRAP
        + """
import threading
def work():
    for _ in range(500):
        record(str(threading.get_native_id()))
threads = [threading.Thread(target=work) for _ in range(8)]
for thread in threads: thread.start()
for thread in threads: thread.join()
""",
    )

    assert run_python([main], tmp_path / "raw").returncode == 0

    rows = ranges(tmp_path / "raw")
    assert len(rows) == 4000
    assert all(row.name == str(row.tid) for row in rows)


@pytest.mark.parametrize("python", OTHER_PYTHONS, ids=lambda path: path.parent.parent.name)
def test_every_python_of_this_machine_runs_as_it_would_alone(tmp_path: Path, python: Path) -> None:
    probe = "import sys; print(sys.version_info[:2] >= (3, 9))"
    is_recorded = subprocess.run([python, "-c", probe], capture_output=True, text=True, check=True).stdout == "True\n"
    program = "import json\nprint(json.dumps([1]))" + (WRAP + "record('works')" if is_recorded else "")

    completed = run_python(["-c", program], tmp_path / "raw", python=str(python), environ={"SLMTRACE_DEBUG": "1"})

    assert (completed.returncode, completed.stdout, completed.stderr) == (0, "[1]\n", "")
    assert labels(tmp_path / "raw") == (["works"] if is_recorded else [])


def test_little_is_imported_when_an_interpreter_starts(tmp_path: Path) -> None:
    program = "import sys; print(*sys.modules)"

    plain = run_python(["-c", program], None).stdout.split()
    recorded = run_python(["-c", program], tmp_path / "raw").stdout.split()

    ours = {name for name in recorded if name.startswith("_slmtrace")}
    allowed = {"__future__", "_struct", "errno", "gc", "itertools", "mmap", "sitecustomize", "struct", "_thread"}
    assert set(recorded) - set(plain) - ours <= allowed
    assert "_slmtrace.instrument.wrap" not in ours
    assert sys.version_info >= (3, 10)
