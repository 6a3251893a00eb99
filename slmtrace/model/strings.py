"""Interned strings: one table a trace, row 0 the empty string."""

from __future__ import annotations


class Strings:
    """Give each distinct string a small integer."""

    def __init__(self) -> None:
        self._texts: list[str] = [""]
        self._ids: dict[str, int] = {"": 0}

    def intern(self, text: str) -> int:
        """Return the id of `text`, adding it if it is new."""
        found = self._ids.get(text)
        if found is None:
            found = self._ids[text] = len(self._texts)
            self._texts.append(text)
        return found

    def __getitem__(self, string_id: int) -> str:
        return self._texts[string_id]

    def __len__(self) -> int:
        return len(self._texts)
