"""Traces that other tools recorded, read into the same event table."""

from .read import read_foreign

__all__ = ["read_foreign"]
