"""Text from recorded programs, made harmless: no control characters, no direction tricks, a bounded length."""

from __future__ import annotations

import unicodedata

# Cc: control, Cf: invisible formatting and bidirectional overrides, Cs: surrogates, Zl and Zp: line breaks.
_HARMFUL_CATEGORIES = frozenset({"Cc", "Cf", "Cs", "Co", "Zl", "Zp"})


def plain(text: object, limit: int = 256) -> str:
    """Return `text` with harmful characters shown as escapes, cut to `limit` characters."""
    raw = str(text)
    if raw.isascii() and raw.isprintable():
        shown = raw
    else:
        shown = "".join(_escape(char) for char in raw[: limit + 1])
    return shown if len(shown) <= limit else shown[: limit - 1] + "…"


def shorten_path(path: str, limit: int) -> str:
    """Return the end of a path, the part that tells files apart, within `limit` characters."""
    name = plain(path.rstrip("/").rsplit("/", 1)[-1] or path)
    return name if len(name) <= limit else name[: limit - 1] + "…"


def _escape(char: str) -> str:
    if unicodedata.category(char) not in _HARMFUL_CATEGORIES:
        return char
    code = ord(char)
    return f"\\x{code:02x}" if code < 0x100 else f"\\u{code:04x}" if code < 0x10000 else f"\\U{code:08x}"
