"""Search a finished bundle for what must not be in it: a second, independent look at the bytes that leave the node."""

from __future__ import annotations

import getpass
import io
import json
import os
import re
import socket
import zipfile
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass

from .words import OUR_NAMES, range_labels

# Shorter names stand in other words; they are left to the allow-lists.
_SHORTEST = 8
# As the services document their tokens; JSON web tokens: RFC 7519, private keys: RFC 7468.
_SECRETS = {
    "a GitHub token": rb"gh[pousr]_[A-Za-z0-9]{20,}|github_pat_[A-Za-z0-9_]{20,}",
    "a Hugging Face token": rb"\bhf_[A-Za-z0-9]{20,}",
    "an API key": rb"\bsk-[A-Za-z0-9_-]{16,}",
    "an AWS key": rb"\b(AKIA|ASIA)[A-Z0-9]{16}\b",
    "a Slack token": rb"\bxox[abprs]-[A-Za-z0-9-]{10,}",
    "a Google key": rb"\bAIza[A-Za-z0-9_-]{30,}",
    "a JSON web token": rb"\beyJ[A-Za-z0-9_-]{10,}\.eyJ[A-Za-z0-9_-]{10,}",
    "a private key": rb"-----BEGIN [A-Z ]{0,20}PRIVATE KEY",
    "an e-mail address": rb"[A-Za-z0-9._%+-]{2,}@[A-Za-z0-9-]{2,}\.[A-Za-z]{2,}",
    "a home directory": rb"/(home|Users)/[A-Za-z0-9._-]{2,}",
}
_PRIVATE_VARIABLE = re.compile(r"TOKEN|KEY|SECRET|PASSW|CREDENTIAL|AUTH|COOKIE")


@dataclass(frozen=True, slots=True)
class Leak:
    """Something found in a bundle that must not leave the node. The finding itself does not repeat it in full."""

    file: str
    what: str
    start: str

    def __str__(self) -> str:
        return f"{self.file}: {self.what}, '{self.start}…'"


def find_secrets(bundle: bytes, dropped: Iterable[str]) -> list[Leak]:
    """Search every file of a bundle, decompressed, for names that were dropped, secrets of this node, and tokens."""
    needles = dict(_needles(dropped, os.environ))
    leaks: list[Leak] = []
    with zipfile.ZipFile(io.BytesIO(bundle)) as archive:
        for name in archive.namelist():
            content = archive.read(name)
            # JSON escapes what is not ASCII: look at its texts, too.
            content += b"\n" + "\n".join(_texts_of_json(name, content)).encode("utf-8", "replace")
            leaks += [
                Leak(name, what, found[0][:6].decode("utf-8", "replace"))
                for what, pattern in _SECRETS.items()
                if (found := re.search(pattern, content))
            ]
            leaks += [Leak(name, what, text[:4]) for text, what in needles.items() if _contains(content, text)]
    return leaks


def _needles(dropped: Iterable[str], environ: Mapping[str, str]) -> Iterator[tuple[str, str]]:
    public = OUR_NAMES | range_labels()
    for name in sorted(dropped):
        if len(name) >= _SHORTEST and name not in public:
            yield name, "a name that was left out"
    for variable, value in environ.items():
        if len(value) >= _SHORTEST and _PRIVATE_VARIABLE.search(variable.upper()):
            yield value, f"the value of {variable}"
    for what, value in (("the host's name", socket.gethostname()), ("the user's name", _user_name())):
        if len(value) >= _SHORTEST:
            yield value, what


def _contains(content: bytes, text: str) -> bool:
    """Say whether a name stands somewhere as a whole: a public path or module may well have a part of that name."""
    encoded = text.encode("utf-8", "replace")
    return (
        encoded in content
        and re.search(rb"(?<![A-Za-z0-9_./])" + re.escape(encoded) + rb"(?![A-Za-z0-9_./])", content) is not None
    )


def _texts_of_json(name: str, content: bytes) -> Iterator[str]:
    if not name.endswith(".json"):
        return
    stack = [json.loads(content)]
    while stack:
        value = stack.pop()
        if isinstance(value, str):
            yield value
        elif isinstance(value, dict):
            stack += [*value, *value.values()]
        elif isinstance(value, list):
            stack += value


def _user_name() -> str:
    try:
        return getpass.getuser()
    except (KeyError, OSError):  # a user without an entry in passwd
        return ""
