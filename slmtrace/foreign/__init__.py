"""Traces that other tools recorded, read into the same event table."""

from .kineto import read_kineto

__all__ = ["read_kineto"]
