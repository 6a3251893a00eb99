"""One redacted name for each name of a recording: itself if it is on the allow-list, else its kind and a number.

Numbers go by order of appearance, so they say nothing of what they stand for, and equal names stay equal.
"""

from __future__ import annotations

import hashlib
import hmac
import re
import secrets
from collections import defaultdict
from pathlib import PurePosixPath

from . import words

LEFT_OUT = "…"
# Above this length nothing is a name that a list knows.
_LONGEST = 200
_DLOPEN = " (dlopen)"  # attribute/breakdown.py tells a package's own code and its libraries apart so
_FRAME = re.compile(r"(?P<function>[\w.<>]+) \((?P<file>[\w./+-]+)(?P<line>:\d{1,7})?\)")
_FUNCTION = re.compile(r"[A-Za-z_][\w.]*|<(module|lambda|listcomp|genexpr|dictcomp|setcomp)>")


class Names:
    """Redact the names of one recording. `dropped` collects what was replaced, for the check of the result."""

    def __init__(self, *, hash_paths: bool = False) -> None:
        self._number_by_name: dict[str, dict[str, int]] = defaultdict(dict)
        # Without the key, nobody can try whether a path that they guess has this hash.
        self._path_key = secrets.token_bytes(32) if hash_paths else b""
        self._dropped: set[str] = set()

    @property
    def dropped(self) -> set[str]:
        """Return what was replaced; not what is a public module's name, which may rightly stand in another place."""
        return {name for name in self._dropped if not words.is_public_module(name)}

    def path(self, path: str) -> str:
        """Return a file's public name; else its number and its suffix, where the suffix is a known one."""
        if not path:
            return ""
        suffix = PurePosixPath(path).suffix
        suffix = suffix if suffix in words.FILE_SUFFIXES else ""
        if self._path_key:
            self._dropped.add(path)
            return f"path-{hmac.new(self._path_key, path.encode(), hashlib.sha256).hexdigest()[:12]}{suffix}"
        public = _public_path(path)
        if public is None:
            return self._numbered("file ", path) + suffix
        if public != path:
            self._dropped.add(path)
        return public

    def module(self, name: str) -> str:
        """Return the name of a public module; of another, a number."""
        return name if words.is_public_module(name) else self._numbered("module ", name)

    def package(self, name: str) -> str:
        """Return what an import's time went into: a module, or its dlopen."""
        base, separator, _ = name.partition(_DLOPEN)
        return self.module(base) + separator if name == base + separator else self.module(name)

    def range(self, label: str) -> str:
        """Return a range's label, if the instrument itself gave it."""
        return label if label in words.range_labels() else self._numbered("range ", label)

    def system_call(self, name: str) -> str:
        """Return the name of a system call."""
        is_known = name in words.system_calls() or re.fullmatch(r"syscall \d{1,5}", name)
        return name if is_known else self._numbered("call ", name)

    def cuda_call(self, name: str) -> str:
        """Return the name of a function of CUDA's API, or of what CUPTI calls its overhead."""
        return name if words.CUDA_CALL.fullmatch(name) else self._by_words(name, "call ")

    def kernel(self, name: str) -> str:
        """Return a kernel's name, its words that are on no list left out."""
        return self._by_words(name, "kernel ")

    def counter(self, name: str) -> str:
        """Return a counter's name, its words that are on no list left out."""
        return self._by_words(name, "counter ")

    def thread(self, name: str) -> str:
        """Return a thread's or process's name, '' if it is on no list."""
        return self._known(name, bool(words.THREAD_NAME.fullmatch(name)))

    def block_device(self, name: str) -> str:
        """Return a block device's name or number."""
        return self._known(name, bool(words.BLOCK_DEVICE.fullmatch(name)))

    def stream(self, name: str) -> str:
        """Return a GPU stream's name, which is a number."""
        return self._known(name, bool(words.STREAM.fullmatch(name)))

    def request(self, name: str) -> str:
        """Return a request's id: ours as it is, others by number."""
        return name if words.REQUEST.fullmatch(name) else self._numbered("request ", name)

    def ours(self, name: str) -> str:
        """Return a name that only slmtrace gives."""
        return self._known(name, name in words.OUR_NAMES)

    def function(self, name: str) -> str:
        """Return what a cause's time was spent in: a system call, an allocator or CUDA function, or a stack frame."""
        if name in words.OUR_NAMES or name in words.system_calls() or words.CUDA_CALL.fullmatch(name):
            return name
        return self.frame(name) if "(" in name else self.kernel(name)

    def stack(self, stack: str) -> str:
        """Return a stack of frames."""
        return ";".join(self.frame(frame) for frame in stack.split(";"))

    def frame(self, frame: str) -> str:
        """Return a stack frame of a public package or of Python's library; of others, a number."""
        match = _FRAME.fullmatch(frame[: _LONGEST + 1])
        if match and _FUNCTION.fullmatch(match["function"]) and words.is_plain(match["function"].strip("<>")):
            public = _public_path(match["file"]) or _library_path(match["file"])
            if public is not None and public not in words.FILE_NAMES:
                if public != match["file"]:
                    self._dropped.add(match["file"])
                return f"{match['function']} ({public}{match['line'] or ''})"
        return self._numbered("frame ", frame)

    def _known(self, name: str, is_known: bool) -> str:
        if not is_known and name:
            self._dropped.add(name)
        return name if is_known else ""

    def _numbered(self, kind: str, name: str) -> str:
        if not name:
            return ""
        self._dropped.add(name)
        numbers = self._number_by_name[kind]
        return f"{kind}{numbers.setdefault(name, len(numbers) + 1)}"

    def _by_words(self, name: str, kind: str) -> str:
        """Keep the listed words between everything that is no letter or digit; without any, number the name."""
        parts = re.split(r"([^A-Za-z0-9]+)", name[:_LONGEST])
        kept = [
            part
            if index % 2 == 0 and (not part or words.is_word(part))
            else _separator(part)
            if index % 2
            else LEFT_OUT
            for index, part in enumerate(parts)
        ]
        text = "".join(kept)
        if text != name:
            self._dropped.add(name)
        return text if any(words.is_word(part) and not part.isdigit() for part in parts) else self._numbered(kind, name)


def _separator(text: str) -> str:
    return "".join(char if char in "_ <>(),:.[]*&-" else "_" for char in text[:4])


def _public_path(path: str) -> str | None:
    """Return the part of a path that everybody's machine has; None if it has none, or a part is not plain."""
    parts = PurePosixPath(path).parts
    name = parts[-1] if parts else ""
    if name in words.FILE_NAMES or words.MODEL_SHARD.fullmatch(name) or words.SYSTEM_LIBRARY.fullmatch(name):
        return name
    for holder in ("site-packages", "dist-packages"):
        if holder in parts:
            inside = parts[len(parts) - parts[::-1].index(holder) :]
            return _inside_package(inside)
    for index, part in enumerate(parts):
        # A module of Python's own library; its top level decides, as for imports.
        if re.fullmatch(r"python3\.\d\d?", part) and index and parts[index - 1] == "lib":
            inside = tuple(one for one in parts[index + 1 :] if one not in ("lib-dynload", "__pycache__"))
            return _inside_package(inside)
    return None


def _library_path(path: str) -> str | None:
    """Return a path that already begins inside a package, as stack samples shorten them."""
    return None if path.startswith("/") else _inside_package(PurePosixPath(path).parts)


def _inside_package(parts: tuple[str, ...]) -> str | None:
    top = parts[0].partition(".")[0] if parts else ""
    path = "/".join(part for part in parts if part != "__pycache__")
    return path if words.is_public_module(top) and words.is_plain(path) else None
