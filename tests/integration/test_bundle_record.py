"""A real recording of a program full of secrets, bundled."""

from __future__ import annotations

import os
import subprocess
import sys
import zipfile
from pathlib import Path

from slmtrace.analysis import analyze
from slmtrace.capture.directory import Capture
from tests.support.secrets import find_planted, make_secrets

_TEXTS = ("doc", "comment", "prompt", "nvtx", "thread", "title", "process", "missing", "exception")
_PROGRAM = '''
import ctypes, multiprocessing, pathlib, sys, threading, time
import nvtx
# Packages and a file of the user's own with the names of public ones, and private names inside.
import datasets.{module}, torch.nn.{module}

class {cls}:
    """{doc}"""

def {function}():  # {comment}
    prompt = "{prompt}"
    with nvtx.annotate("{nvtx}"):
        for path in sys.argv[1:]:
            pathlib.Path(path).read_bytes()
        end = time.monotonic() + 0.3
        while time.monotonic() < end:
            prompt.upper()

thread = threading.Thread(target={function}, name="{thread}")
thread.start()
thread.join()
import {module}
prctl = ctypes.CDLL(None).prctl
prctl(15, b"{title}"[:15], 0, 0, 0)
child = multiprocessing.get_context("fork").Process(target={function}, name="{process}")
child.start()
child.join()
try:
    open("/{missing}")
except OSError as error:
    print(error, file=sys.stderr)
raise SystemExit(0 if "{exception}" else RuntimeError("{exception}"))
'''


def test_nothing_that_a_program_kept_secret_is_in_the_bundle(tmp_path: Path) -> None:
    secrets = make_secrets(300)
    plain = [secret.split("@")[0].replace(".", "_").replace("-", "_") for secret in secrets if "project_" in secret]
    directory = tmp_path / secrets[0] / secrets[1]
    directory.mkdir(parents=True)
    paths = [directory / f"{secret.replace('/', '_')}.safetensors" for secret in secrets[2:150]]
    for path in paths:
        path.write_bytes(b"weights" * 1000)
    fields = {name: plain[number] for number, name in enumerate(("cls", "function", "module"))}
    texts = {name: secrets[150 + number] for number, name in enumerate(_TEXTS)}
    (directory / f"{fields['module']}.py").write_text(f"name = {secrets[160]!r}\n")
    for package in ("datasets", "torch", "torch/nn"):
        (directory / package).mkdir()
        (directory / package / "__init__.py").touch()
        busy = f"import time\n\ndef {plain[6]}():\n    time.sleep(0.1)\n\n{plain[6]}()\n"
        (directory / package / f"{fields['module']}.py").write_text(busy)
    program = directory / f"{plain[4]}.py"
    program.write_text(_PROGRAM.format(**fields, **texts))
    variables = {f"VLLM_{name.upper()}": secret for name, secret in zip(plain[5:], secrets[170:], strict=False)}
    arguments = [*map(str, paths)]

    run = [sys.executable, "-m", "slmtrace", "record", "-o", str(tmp_path / "capture"), "--", sys.executable]
    done = subprocess.run(
        [*run, str(program), *arguments],
        env={**os.environ, **variables, "HF_TOKEN": secrets[-1], "MALLOC_" + plain[3].upper(): "1"},
        capture_output=True,
        text=True,
        check=False,
        timeout=300,
    )
    assert done.returncode == 0, done.stderr
    bundled = subprocess.run(
        [
            sys.executable,
            "-m",
            "slmtrace",
            "bundle",
            str(tmp_path / "capture"),
            "-o",
            str(tmp_path / "b.zip"),
            "--verify",
        ],
        capture_output=True,
        text=True,
        check=False,
        timeout=300,
    )
    assert bundled.returncode == 0, bundled.stderr

    everything = [*secrets, *plain, *(name.upper() for name in plain)]
    assert find_planted((tmp_path / "b.zip").read_bytes(), everything) == []
    # The recording itself did see them: otherwise this test would prove nothing.
    trace, report = analyze(Capture.open(tmp_path / "capture"))
    seen = {trace.strings[number] for number in range(len(trace.strings))}
    assert any(fields["module"] in text for text in seen)
    with zipfile.ZipFile(tmp_path / "b.zip") as archive:
        (tmp_path / "trace.pftrace").write_bytes(archive.read("trace.pftrace"))
    again = subprocess.run(
        [sys.executable, "-m", "slmtrace", "diff", str(tmp_path / "capture"), str(tmp_path / "trace.pftrace")],
        capture_output=True,
        text=True,
        check=True,
        timeout=300,
    )
    assert f"{report.windows[0].label}: A and B take the same time" in again.stdout
