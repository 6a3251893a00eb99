"""Check that a JSON value from outside has the shape that its readers rely on. Standard library only.

A shape is a type (an int fits 64 bits, a float may be an int and is finite), `[shape]` for a list, a dict of shapes for
an object whose keys may all be missing, or one of the classes below.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

_MAX_DEPTH = 12
_MAX_SHOWN = 80
_KINDS = {str: "text", int: "an integer of 64 bits", float: "a finite number", bool: "true or false"}


@dataclass(frozen=True, slots=True)
class Each:
    """An object with any keys, and values of one shape."""

    shape: Any


@dataclass(frozen=True, slots=True)
class Optional:
    """A value of a shape, or null."""

    shape: Any


@dataclass(frozen=True, slots=True)
class Whole:
    """An object that lacks none of its keys."""

    shape: dict[str, Any]


class Facts:
    """Any value, nested twelve deep at most."""


def find_misfit(value: object, shape: Any) -> str:
    """Return the first place where a value has another shape, and what belongs there; '' if it fits."""
    return next(_misfits(value, shape, ""), "")


def _misfits(value: object, shape: Any, place: str) -> Iterator[str]:
    if isinstance(shape, Optional):
        if value is not None:
            yield from _misfits(value, shape.shape, place)
    elif isinstance(shape, dict | Each | Whole):
        yield from _misfits_of_object(value, shape, place)
    elif isinstance(shape, list):
        if not isinstance(value, list):
            yield f"{_shown(place)} is no list"
            return
        for index, one in enumerate(value):
            yield from _misfits(one, shape[0], f"{place}.{index}")
    elif shape is Facts:
        if not _is_shallow(value, _MAX_DEPTH):
            yield f"{_shown(place)} is nested too deeply, or has a number beyond 64 bits"
    elif not _is_of(value, shape):
        yield f"{_shown(place)} is not {_KINDS[shape]}"


def _misfits_of_object(value: object, shape: dict[str, Any] | Each | Whole, place: str) -> Iterator[str]:
    if not isinstance(value, dict):
        yield f"{_shown(place)} is no object"
        return
    if isinstance(shape, Whole):
        yield from (f"{_shown(place)} has no {key}" for key in shape.shape if key not in value)
        shape = shape.shape
    for key, one in value.items():
        inner = shape.shape if isinstance(shape, Each) else shape.get(key, Facts)
        yield from _misfits(one, inner, f"{place}.{key}")


def _is_of(value: object, kind: type) -> bool:
    if kind is float:
        return _is_number(value)
    if kind is int:
        return isinstance(value, int) and not isinstance(value, bool) and _is_number(value)
    return isinstance(value, kind)


def _is_number(value: object) -> bool:
    if isinstance(value, bool) or not isinstance(value, int | float):
        return False
    return abs(value) < 1 << 63 if isinstance(value, int) else math.isfinite(value)


def _is_shallow(value: object, depth: int) -> bool:
    if isinstance(value, dict | list):
        inner = value.values() if isinstance(value, dict) else value
        return depth > 0 and all(_is_shallow(one, depth - 1) for one in inner)
    return isinstance(value, bool | str | None) or _is_number(value)


def _shown(place: str) -> str:
    return place.lstrip(".")[:_MAX_SHOWN] or "it"
