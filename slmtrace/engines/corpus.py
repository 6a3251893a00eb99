"""English text that every Python installation has: its own language reference. Tokenizers and prompts come from it."""

from __future__ import annotations


def corpus_lines() -> list[str]:
    """Return the lines of Python's language reference, in a fixed order."""
    from pydoc_data.topics import topics

    return [line.strip() for name in sorted(topics) for line in topics[name].splitlines() if line.strip()]


def corpus_words() -> list[str]:
    """Return its plain words, in the order of the text."""
    return [word for line in corpus_lines() for word in line.split() if word.isascii() and word.isalpha()]
