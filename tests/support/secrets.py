"""Secrets to plant, of the kinds that people have, and a look for them in a bundle."""

from __future__ import annotations

import io
import json
import random
import string
import zipfile
from collections.abc import Iterator
from typing import Any

from perfetto.protos.perfetto.trace import perfetto_trace_pb2 as pb

_LETTERS = string.ascii_letters + string.digits


def make_secrets(n: int, seed: int = 6) -> list[str]:
    """Return `n` different secrets: tokens, keys, e-mail addresses, passwords, names of people and projects."""
    chance = random.Random(seed)

    def letters(count: int, alphabet: str = _LETTERS) -> str:
        return "".join(chance.choices(alphabet, k=count))

    def word(count: int) -> str:
        return letters(count, string.ascii_lowercase)

    kinds = (
        lambda: "sk-proj-" + letters(24),
        lambda: "hf_" + letters(30),
        lambda: "ghp_" + letters(36),
        lambda: "AKIA" + letters(16, string.ascii_uppercase + string.digits),
        lambda: f"{word(8)}.{word(6)}@{word(7)}.example.com",
        lambda: "eyJ" + letters(20) + ".eyJ" + letters(20) + "." + letters(20),
        lambda: word(9) + "-" + word(9),
        lambda: "project_" + word(10),
        lambda: "Hunter2!" + letters(8),
        lambda: "-----BEGIN RSA PRIVATE KEY-----" + letters(32),
        lambda: "pässwörd-" + letters(8),
        lambda: letters(4, string.digits) + "-" + letters(4, string.digits) + "-" + letters(8, string.digits),
    )
    return [kinds[number % len(kinds)]() for number in range(n)]


def find_planted(bundle: bytes, secrets: list[str]) -> list[tuple[str, str]]:
    """Return (file, secret) wherever a secret stands: in decompressed bytes, texts of JSON, strings of protobuf."""
    found = []
    with zipfile.ZipFile(io.BytesIO(bundle)) as archive:
        for name in archive.namelist():
            content = archive.read(name)
            texts = {content.decode("utf-8", "replace"), *_texts(name, content)}
            found += [(name, secret) for secret in secrets if any(secret in text for text in texts)]
    return found


def _texts(name: str, content: bytes) -> Iterator[str]:
    if name.endswith(".json"):
        yield json.dumps(json.loads(content), ensure_ascii=False)
    elif name.endswith(".pftrace"):
        for packet in pb.Trace.FromString(content).packet:
            yield from strings_of(packet)


def strings_of(message: Any) -> Iterator[str]:
    """Yield every string and bytes field of a message and of those in it."""
    for field, value in message.ListFields():
        for one in value if field.is_repeated else (value,):
            if field.message_type is not None:
                yield from strings_of(one)
            elif isinstance(one, str):
                yield one
            elif isinstance(one, bytes):
                yield one.decode("utf-8", "replace")
