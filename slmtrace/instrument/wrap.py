"""Wrap functions of the target so that each call becomes a record. Arguments, results and exceptions pass untouched."""

from __future__ import annotations

import functools
import resource
import sys
import time
from time import monotonic_ns

from . import constants as c
from . import marks, nvtx
from .recorder import complain, recorder

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, Callable, Generator
    from typing import Any

    from .hooks.base import Hook

    Call = tuple[tuple[Any, ...], dict[str, Any]]
    Usage = tuple[int, int, int]  # on-CPU ns, minor faults, major faults

# Flags of a code object (inspect.CO_*; inspect itself is too dear to import at interpreter start).
_CO_GENERATOR = 0x20
_CO_COROUTINE = 0x80
_CO_ASYNC_GENERATOR = 0x200

# What a call that raised has for a result.
FAILED = object()


def patch(holder: Any, name: str, hook: Hook) -> None:
    """Replace an attribute of a module or class by its wrapped self; what is wrapped already stays.

    Raises:
        AttributeError: there is no such attribute.
    """
    found = vars(holder).get(name)
    raw = getattr(holder, name) if found is None else found
    function = raw.__func__ if isinstance(raw, (staticmethod, classmethod)) else raw
    if is_wrapped(function):
        return
    wrapped = wrap(function, hook)
    setattr(holder, name, type(raw)(wrapped) if function is not raw else wrapped)


def is_wrapped(function: Any) -> bool:
    """Say whether this very function is one of ours, not a decorator that copied our attributes."""
    ours = getattr(function, "__slmtrace__", None)
    return ours is not None and ours is getattr(function, "__wrapped__", None)


def wrap(function: Callable[..., Any], hook: Hook) -> Callable[..., Any]:
    """Return a function that does the same and records each call as `hook` says."""
    flags = getattr(getattr(function, "__code__", None), "co_flags", 0)
    if hook.sliced and flags & (_CO_COROUTINE | _CO_ASYNC_GENERATOR):
        from . import slices

        wrapper = slices.wrap_sliced(function, hook, bool(flags & _CO_COROUTINE))
    elif flags & _CO_COROUTINE:
        wrapper = _wrap_coroutine(function, hook)
    elif flags & _CO_ASYNC_GENERATOR:
        wrapper = _wrap_async_generator(function, hook)
    elif flags & _CO_GENERATOR:
        wrapper = _wrap_generator(function, hook)
    else:
        wrapper = _wrap_call(function, hook)
    wrapper = functools.wraps(function)(wrapper)
    wrapper.__slmtrace__ = function  # type: ignore[attr-defined]
    return wrapper


def _wrap_call(function: Callable[..., Any], hook: Hook) -> Callable[..., Any]:
    is_gated, is_range, has_accounting = hook.gated, not hook.silent, hook.accounting
    opens = hook.begin or hook.enter is not None
    is_compiling = sys.modules["torch"].compiler.is_compiling if hook.compiled else None
    admit = hook.admit

    def wrapper(*args: Any, **kwargs: Any) -> Any:
        # Dynamo knows this answer while it traces, so that compiled code has the original in it and no graph break.
        if is_compiling is not None and is_compiling():
            return function(*args, **kwargs)
        if is_gated and marks.is_past_first_token():
            return function(*args, **kwargs)
        if admit is not None and not is_admitted(hook, (args, kwargs)):
            return function(*args, **kwargs)
        is_pushed = is_range and nvtx.may_listen and nvtx.push(hook.name)
        usage = thread_usage() if has_accounting else None
        start_ns = monotonic_ns()
        if opens:
            open_call(hook, (args, kwargs), start_ns)
        result = FAILED
        try:
            result = function(*args, **kwargs)
            return result
        except BaseException as error:
            leave_out_this_frame(error)
            raise
        finally:
            _close(hook, (args, kwargs), result, start_ns, usage)
            if is_pushed:
                nvtx.pop()

    return wrapper


def leave_out_this_frame(error: BaseException) -> None:
    """Take the frame of a wrapper, which has just caught `error`, out of the traceback that the target may print.

    Python 3.10 raises again with the traceback that it caught, and keeps the frame.
    """
    traceback = error.__traceback__
    if traceback is not None:
        error.__traceback__ = traceback.tb_next


def is_admitted(hook: Hook, call: Call) -> bool:
    """Ask the hook whether this call is recorded; one that cannot say is."""
    try:
        return hook.admit is None or hook.admit(call)
    except Exception as error:
        report(hook, error)
        return True


def open_call(hook: Hook, call: Call, start_ns: int) -> None:
    """Do what comes before a call."""
    if hook.enter is not None:
        try:
            hook.enter(call, start_ns)
        except Exception as error:
            report(hook, error)
    if hook.begin:
        recorder.write(c.BEGIN, recorder.intern(hook.name), start_ns, 0, _request_id())


def _close(hook: Hook, call: Call, result: Any, start_ns: int, usage: Usage | None) -> None:
    end_ns = monotonic_ns()
    if not hook.silent and end_ns - start_ns >= hook.shortest_ns:
        size_bytes = 0
        if hook.size is not None and result is not FAILED:
            try:
                size_bytes = int(hook.size(call, result))
            except Exception as error:
                report(hook, error)
        write_range(hook.name, start_ns, end_ns, usage, size_bytes, request_of(hook, call, result))
    if hook.leave is not None:
        try:
            hook.leave(call, result, start_ns, end_ns)
        except Exception as error:
            report(hook, error)


def write_range(
    name: str,
    start_ns: int,
    end_ns: int,
    usage: Usage | None = None,
    size_bytes: int = 0,
    request: str = "",
    file: str = "",
) -> None:
    """Write a RANGE of this thread, and what the thread used since `usage` was taken."""
    name_id = recorder.intern(name)
    request_id = recorder.intern(request) if request else _request_id()
    recorder.write(c.RANGE, name_id, start_ns, end_ns, request_id, size_bytes, recorder.intern(file) if file else 0)
    if usage is not None:
        cpu_ns, minor, major = (after - before for after, before in zip(thread_usage(), usage))  # noqa: B905
        recorder.write(c.RUSAGE, name_id, start_ns, end_ns, 0, cpu_ns, minor | major << 32)


def thread_usage() -> Usage:
    """Return this thread's on-CPU time and its minor and major faults so far."""
    usage = resource.getrusage(resource.RUSAGE_THREAD)
    return time.thread_time_ns(), usage.ru_minflt, usage.ru_majflt


def _request_id() -> int:
    request = marks.current().request
    return 0 if request is None else recorder.intern(request.id)


def request_of(hook: Hook, call: Call, result: Any) -> str:
    """Return the request that a call is about, as the hook says; '': it does not."""
    if hook.request is None or result is FAILED:
        return ""
    try:
        return hook.request(call, result)
    except Exception as error:
        report(hook, error)
        return ""


def report(hook: Hook, error: Exception) -> None:
    """Tell once per hook that a part of it failed; the record itself is not affected."""
    if not hook.has_failed:
        hook.has_failed = True
        recorder.note("hook_error", f"{hook.name}: {type(error).__name__}: {error}")
        complain(error)


def _wrap_coroutine(function: Callable[..., Any], hook: Hook) -> Callable[..., Any]:
    async def wrapper(*args: Any, **kwargs: Any) -> Any:
        start_ns = monotonic_ns()
        open_call(hook, (args, kwargs), start_ns)
        result = FAILED
        try:
            result = await function(*args, **kwargs)
            return result
        except BaseException as error:
            leave_out_this_frame(error)
            raise
        finally:
            close_async(hook, (args, kwargs), result, start_ns, 0, 0)

    return wrapper


def close_async(hook: Hook, call: Call, result: Any, start_ns: int, items: int, inside_ns: int) -> None:
    """Write the ASYNC record of a coroutine, and do what comes after it."""
    end_ns = monotonic_ns()
    try:
        if not hook.silent:
            request = hook.request(call, result) if hook.request is not None else ""
            recorder.write(
                c.ASYNC, recorder.intern(hook.name), start_ns, end_ns, recorder.intern(request), items, inside_ns
            )
        if hook.leave is not None:
            hook.leave(call, result, start_ns, end_ns)
    except Exception as error:
        report(hook, error)


def _wrap_generator(function: Callable[..., Any], hook: Hook) -> Callable[..., Any]:
    def wrapper(*args: Any, **kwargs: Any) -> Generator[Any, Any, Any]:
        start_ns = monotonic_ns()
        items = inside_ns = 0
        generator = function(*args, **kwargs)
        resume, argument = generator.send, None
        try:
            while True:
                resumed_ns = monotonic_ns()
                try:
                    value = resume(argument)
                    items += 1
                except StopIteration as stop:
                    return stop.value
                finally:
                    inside_ns += monotonic_ns() - resumed_ns
                try:
                    resume, argument = generator.send, (yield value)
                except GeneratorExit:
                    generator.close()
                    raise
                except BaseException as error:
                    resume, argument = generator.throw, error
        finally:
            name = recorder.intern(hook.name)
            recorder.write(c.GENERATOR, name, start_ns, monotonic_ns(), _request_id(), items, inside_ns)

    return wrapper


def _wrap_async_generator(function: Callable[..., Any], hook: Hook) -> Callable[..., Any]:
    async def wrapper(*args: Any, **kwargs: Any) -> AsyncGenerator[Any, Any]:
        start_ns = monotonic_ns()
        items = inside_ns = 0
        generator = function(*args, **kwargs)
        resume, argument = generator.asend, None
        try:
            while True:
                resumed_ns = monotonic_ns()
                try:
                    value = await resume(argument)
                    items += 1
                except StopAsyncIteration:
                    return
                finally:
                    inside_ns += monotonic_ns() - resumed_ns
                try:
                    resume, argument = generator.asend, (yield value)
                except GeneratorExit:
                    await generator.aclose()
                    raise
                except BaseException as error:
                    resume, argument = generator.athrow, error
        finally:
            close_async(hook, (args, kwargs), FAILED, start_ns, items, inside_ns)

    return wrapper
