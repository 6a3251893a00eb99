"""The errors that users see: what happened, and what to do about it."""

from __future__ import annotations


class SlmtraceError(Exception):
    """A failure with a remedy. The command line prints both on stderr and exits with `exit_code`."""

    exit_code = 1

    def __init__(self, message: str, *, hint: str = "") -> None:
        super().__init__(message)
        self.hint = hint


class UsageError(SlmtraceError):
    """The user asked for something that cannot be."""

    exit_code = 2


class ProbeUnavailable(SlmtraceError):
    """A probe named by --require cannot run here."""

    exit_code = 3


class CaptureError(SlmtraceError):
    """A capture, or a trace with an embedded breakdown, cannot be read."""

    exit_code = 4


class CheckFailed(SlmtraceError):
    """A regression gate or a certificate said no."""

    exit_code = 5


class LaunchError(SlmtraceError):
    """The target could not be started."""

    exit_code = 125
