"""Record coroutines: the whole as an ASYNC stretch, and each part between two suspensions as a RANGE on its thread.

Many requests take turns on the thread of an event loop. The ranges say whose turn it was, and nest like calls do.
"""

from __future__ import annotations

from time import monotonic_ns

from .wrap import FAILED, close_async, is_admitted, leave_out_this_frame, open_call, report, request_of, write_range

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, Callable, Generator
    from typing import Any

    from .hooks.base import Hook
    from .wrap import Call


def wrap_sliced(function: Callable[..., Any], hook: Hook, is_coroutine: bool) -> Callable[..., Any]:
    """Return a coroutine function, or an async generator function, that does the same and is recorded."""
    return _wrap_coroutine(function, hook) if is_coroutine else _wrap_generator(function, hook)


class _Call:
    """One call of a sliced function, and the name of its next slice."""

    __slots__ = ("arguments", "hook", "name")

    def __init__(self, hook: Hook, arguments: Call) -> None:
        self.hook = hook
        self.arguments = arguments
        self.name = hook.name

    def write(self, start_ns: int) -> None:
        """Write the slice that ends now."""
        if not self.hook.silent and is_admitted(self.hook, self.arguments):
            request = request_of(self.hook, self.arguments, None)
            write_range(self.name, start_ns, monotonic_ns(), request=request)


class _Sliced:
    """An awaitable that awaits another one and notes when that runs."""

    __slots__ = ("awaitable", "call")

    def __init__(self, call: _Call, awaitable: Any) -> None:
        self.call = call
        self.awaitable = awaitable

    def __await__(self) -> Generator[Any, Any, Any]:
        call, awaitable = self.call, self.awaitable
        resume, argument = awaitable.send, None
        while True:
            start_ns = monotonic_ns()
            try:
                waited_for = resume(argument)
            except StopIteration as stop:
                return stop.value
            except BaseException as error:
                leave_out_this_frame(error)
                raise
            finally:
                call.write(start_ns)
            call.name = call.hook.later_name
            try:
                resume, argument = awaitable.send, (yield waited_for)
            except GeneratorExit:
                awaitable.close()
                raise
            except BaseException as error:
                resume, argument = awaitable.throw, error


def _wrap_coroutine(function: Callable[..., Any], hook: Hook) -> Callable[..., Any]:
    async def wrapper(*args: Any, **kwargs: Any) -> Any:
        start_ns = monotonic_ns()
        open_call(hook, (args, kwargs), start_ns)
        result = FAILED
        try:
            result = await _Sliced(_Call(hook, (args, kwargs)), function(*args, **kwargs))
            return result
        except BaseException as error:
            leave_out_this_frame(error)
            raise
        finally:
            close_async(hook, (args, kwargs), result, start_ns, 0, 0)

    return wrapper


def _wrap_generator(function: Callable[..., Any], hook: Hook) -> Callable[..., Any]:
    async def wrapper(*args: Any, **kwargs: Any) -> AsyncGenerator[Any, Any]:
        start_ns = monotonic_ns()
        open_call(hook, (args, kwargs), start_ns)
        items = 0
        call = _Call(hook, (args, kwargs))
        generator = function(*args, **kwargs)
        resume, argument = generator.asend, None
        try:
            while True:
                try:
                    value = await _Sliced(call, resume(argument))
                except StopAsyncIteration:
                    return
                items += 1
                _tell_item(hook, call.arguments, value)
                try:
                    resume, argument = generator.asend, (yield value)
                except GeneratorExit:
                    await generator.aclose()
                    raise
                except BaseException as error:
                    resume, argument = generator.athrow, error
        finally:
            close_async(hook, (args, kwargs), None, start_ns, items, 0)

    return wrapper


def _tell_item(hook: Hook, call: Call, value: Any) -> None:
    if hook.item is not None:
        try:
            hook.item(call, value, monotonic_ns())
        except Exception as error:
            report(hook, error)
