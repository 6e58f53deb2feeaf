"""One kind of coroutine function for all kinds of ASGI applications."""

from __future__ import annotations

import inspect
from collections.abc import Awaitable, Callable, Coroutine, MutableMapping
from typing import Any

Scope = MutableMapping[str, Any]
Message = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[dict[str, Any]]]
Send = Callable[[Message], Awaitable[None]]
#: An ASGI 3 application whose call gives a coroutine.
App = Callable[[Scope, Receive, Send], Coroutine[Any, Any, None]]


def coroutine_function(target: Any, *, double: bool) -> App:
    """``target`` as a function whose call gives a coroutine and does nothing else.

    :param double: whether it is an ASGI 2 application, called with the scope and then with ``receive`` and ``send``.
    """
    if double:
        return _single(target)
    if inspect.iscoroutinefunction(target) or inspect.iscoroutinefunction(getattr(target, "__call__", None)):  # noqa: B004
        found: App = target
        return found

    async def call(scope: Scope, receive: Receive, send: Send) -> None:
        # It may do something before it returns an awaitable, and that belongs into the task.
        await target(scope, receive, send)

    return call


def _single(target: Any) -> App:
    try:
        from asgiref.compatibility import double_to_single_callable
    except ImportError:
        # asgiref 1, or none.
        async def call(scope: Scope, receive: Receive, send: Send) -> None:
            await target(scope)(receive, send)

        return call
    made: App = double_to_single_callable(target)
    return made
