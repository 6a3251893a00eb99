"""A capture as one file for a bug report, without anything private."""

from .archive import make_bundle, write_bundle
from .verify import find_secrets

__all__ = ["find_secrets", "make_bundle", "write_bundle"]
