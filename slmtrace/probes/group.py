"""All probes of one recording, handled together: a probe that fails becomes a line in the books, never an exception."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from typing import Any

from ..capture.directory import Capture
from ..errors import ProbeUnavailable, SlmtraceError
from .base import Availability, Probe, ProbeResult, RecordOptions
from .registry import in_order, make_probe


class ProbeGroup:
    """Probes by name, started in the registry's order and stopped in reverse."""

    def __init__(self, names: Iterable[str], required: Iterable[str] = (), if_present: Iterable[str] = ()) -> None:
        """Check every probe; one of `if_present` that cannot run is left out without a word.

        Raises:
            ProbeUnavailable: a required probe cannot run here.
        """
        self.results: dict[str, ProbeResult] = {}
        self._required = frozenset(required)
        self._running: dict[str, Probe] = {}
        self._ready: dict[str, Probe] = {}
        unmissed = set(if_present) - self._required
        wanted = in_order({*names, *self._required, *unmissed})
        # A check mostly waits for a program that it starts to try things.
        with ThreadPoolExecutor(max(1, len(wanted))) as pool:
            checked = dict(zip(wanted, pool.map(check_probe, wanted), strict=True))
        for name, (probe, availability) in checked.items():
            if probe is None or not availability.is_available:
                if name in unmissed:
                    continue
                self._refuse(name, availability.reason, availability.remedy)
            else:
                self._ready[name] = probe

    @property
    def running(self) -> tuple[str, ...]:
        """Return the names of the probes that are recording."""
        return tuple(self._running)

    def start(self, capture: Capture, options: RecordOptions) -> None:
        """Start every probe that can run.

        Raises:
            ProbeUnavailable: a required probe could not start.
        """
        for name, probe in self._ready.items():
            try:
                probe.start(capture, options)
            except SlmtraceError as error:
                self._refuse(name, str(error), error.hint)
            except Exception as error:  # one probe's defect must not cost the recording
                self._refuse(name, _describe(error), "")
            else:
                self._running[name] = probe

    def environ(self, environ: dict[str, str]) -> dict[str, str]:
        """Return the target's environment: what it would be, changed by each probe in turn."""
        changed = dict(environ)
        for name, probe in list(self._running.items()):
            changed.update(self._guard(name, partial(probe.environ, dict(changed)), {}))
        return changed

    def enroll(self, pid: int) -> None:
        """Tell every probe whom to watch."""
        for name, probe in list(self._running.items()):
            self._guard(name, partial(probe.enroll, pid), None)

    def poll(self) -> None:
        """Let every probe do its periodic work."""
        for name, probe in list(self._running.items()):
            self._guard(name, probe.poll, None)

    def stop(self) -> dict[str, ProbeResult]:
        """Stop what runs, and return how each probe fared; may be called again."""
        while self._running:
            name, probe = self._running.popitem()
            try:
                result = probe.stop()
            except Exception as error:  # the other probes must stop too
                result = ProbeResult("partial", f"stopped badly: {_describe(error)}")
            self.results.setdefault(name, result)
        return {name: self.results[name] for name in in_order(self.results)}

    def _guard(self, name: str, call: Callable[[], Any], otherwise: Any) -> Any:
        """Call a probe; if it raises, stop it, keep what it has recorded and go on without it."""
        try:
            return call()
        except Exception as error:  # see above
            reason = _describe(error)
        probe = self._running.pop(name)
        try:
            result = probe.stop()
        except Exception:
            result = ProbeResult("partial")
        self.results[name] = ProbeResult(
            "partial", reason, result.seen, result.written, result.lost, result.overhead, result.facts
        )
        return otherwise

    def _refuse(self, name: str, reason: str, remedy: str) -> None:
        if name in self._required:
            self.stop()
            raise ProbeUnavailable(f"the required probe {name} is unavailable: {reason}", hint=remedy)
        self.results[name] = ProbeResult("unavailable", reason, facts={"remedy": remedy} if remedy else {})


def check_probe(name: str) -> tuple[Probe | None, Availability]:
    """Make a probe and ask whether it can run; a probe that cannot even be imported says why."""
    try:
        probe = make_probe(name)
        return probe, probe.check()
    except Exception as error:  # a broken optional package must not cost the recording
        return None, Availability("unavailable", _describe(error))


def _describe(error: Exception) -> str:
    return f"{type(error).__name__}: {error}" if not isinstance(error, SlmtraceError) else str(error)
