#!/usr/bin/env python3
"""Check the vLLM hook table against releases of vLLM, by their source alone: nothing is installed or run.

    tools/vllm_hooks_check.py PATH-OR-URL...

Each argument is an unpacked release (the directory that holds vllm/), a wheel or sdist on disk, or the URL of a wheel,
of which only the Python files of the table are read (HTTP range requests). Exit code 1: a stage is left with no hook.
"""

from __future__ import annotations

import argparse
import ast
import io
import sys
import tarfile
import urllib.request
import zipfile
from collections import defaultdict
from collections.abc import Callable, Iterable
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from slmtrace.instrument.hooks import Hook, Target, load_table

# The text of a file of the release, None if there is no such file.
Read = Callable[[str], "str | None"]


class RemoteFile(io.RawIOBase):
    """A file on a server, read by ranges."""

    def __init__(self, url: str) -> None:
        self._url = url
        request = urllib.request.Request(url, method="HEAD")
        with urllib.request.urlopen(request) as answer:
            self._size = int(answer.headers["Content-Length"])
        self._position = 0

    def seekable(self) -> bool:
        """Say that any place can be read."""
        return True

    def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:
        """Go to a place."""
        base = {io.SEEK_SET: 0, io.SEEK_CUR: self._position, io.SEEK_END: self._size}[whence]
        self._position = base + offset
        return self._position

    def tell(self) -> int:
        """Return the place."""
        return self._position

    def readable(self) -> bool:
        """Say that it can be read."""
        return True

    def readinto(self, buffer: bytearray | memoryview) -> int:  # type: ignore[override]
        """Read from the place on, as much as fits."""
        end = min(self._position + len(buffer), self._size)
        if end <= self._position:
            return 0
        headers = {"Range": f"bytes={self._position}-{end - 1}"}
        with urllib.request.urlopen(urllib.request.Request(self._url, headers=headers)) as answer:
            if answer.status != 206:
                raise OSError(f"{self._url}: the server does not answer ranges")
            data = answer.read()
        buffer[: len(data)] = data
        self._position += len(data)
        return len(data)


def open_release(place: str) -> Read:
    """Return a reader of a release's files by their path from the directory that holds vllm/."""
    if place.startswith(("http://", "https://")):
        return _zip_reader(zipfile.ZipFile(io.BufferedReader(RemoteFile(place), 1 << 18)))
    path = Path(place)
    if path.is_dir():
        return lambda name: (path / name).read_text() if (path / name).is_file() else None
    if path.suffix == ".whl":
        return _zip_reader(zipfile.ZipFile(path))
    with tarfile.open(path) as archive:
        texts = {
            member.name.partition("/")[2]: file.read().decode()
            for member in archive
            if member.name.endswith(".py") and (file := archive.extractfile(member)) is not None
        }
    return texts.get


def _zip_reader(archive: zipfile.ZipFile) -> Read:
    names = set(archive.namelist())
    return lambda name: archive.read(name).decode() if name in names else None


class Symbols:
    """Which symbols a release has, parsing each module once."""

    def __init__(self, read: Read) -> None:
        self._read = read
        self._trees: dict[str, ast.Module | None] = {}

    def has(self, target: Target) -> bool:
        """Say whether a function, method or global of this name is defined, here or in a base class here."""
        tree = self._tree(target.module)
        return tree is not None and _defines(tree, tree.body, target.attribute.split("."))

    def _tree(self, module: str) -> ast.Module | None:
        if module not in self._trees:
            path = module.replace(".", "/")
            text = self._read(f"{path}.py") or self._read(f"{path}/__init__.py")
            self._trees[module] = ast.parse(text) if text is not None else None
        return self._trees[module]


def _defines(tree: ast.Module, body: Iterable[ast.stmt], names: list[str]) -> bool:
    for node in body:
        if isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef)) and [node.name] == names:
            return True
        if isinstance(node, (ast.Assign, ast.AnnAssign)) and len(names) == 1 and names[0] in _assigned(node):
            return True
        if isinstance(node, (ast.Import, ast.ImportFrom)) and names in [
            [alias.asname or alias.name] for alias in node.names
        ]:
            return True
        if isinstance(node, ast.ClassDef) and node.name == names[0] and len(names) > 1:
            bases = [base.id for base in node.bases if isinstance(base, ast.Name)]
            return _defines(tree, node.body, names[1:]) or any(
                _defines(tree, tree.body, [base, *names[1:]]) for base in bases if base != node.name
            )
        if isinstance(node, (ast.If, ast.Try)) and _defines(tree, node.body, names):
            return True
    return False


def _assigned(node: ast.Assign | ast.AnnAssign) -> set[str]:
    targets = node.targets if isinstance(node, ast.Assign) else [node.target]
    return {target.id for target in targets if isinstance(target, ast.Name)}


def check(place: str, table: list[Hook]) -> bool:
    """Print which rows of the table a release has; say whether every stage has one."""
    symbols = Symbols(open_release(place))
    present: dict[str, int] = defaultdict(int)
    missing = []
    for hook in table:
        found = next((target for target in hook.targets if symbols.has(target)), None)
        for stage in {hook.stage, hook.later_stage or ""} - {""}:
            present[stage] += found is not None
        if found is None:
            missing.append(hook)
    bare = sorted(stage for stage, n in present.items() if not n)
    print(f"{place.rpartition('/')[2]}: {len(table) - len(missing)} of {len(table)} hooks, {len(present)} stages")
    for hook in missing:
        print(f"    missing  {hook.stage or '-':<15} {hook.targets[0]}{'  (optional)' if hook.optional else ''}")
    for stage in bare:
        print(f"    STAGE WITHOUT HOOK  {stage}")
    return not bare


def main() -> int:
    """Check every release."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("places", nargs="+", metavar="PATH-OR-URL")
    places = parser.parse_args().places
    # Other packages' symbols are not vLLM's to have.
    table = [hook for hook in load_table("vllm") if hook.module.startswith("vllm.")]
    is_complete = [check(place, table) for place in places]
    return 0 if all(is_complete) else 1


if __name__ == "__main__":
    sys.exit(main())
