"""Tells which interface an imported object has: a channel layer, WSGI, ASGI 3 or ASGI 2.

The rules look at the object, never at its framework, and are tried in the order of :func:`detect`.  An object that fits none of them, or
that may be two things, is an error: ``--interface`` says it then.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable
from functools import partial
from typing import Any, Final

from ..config import ConfigurationError
from ..core.interfaces import ASGI2, ASGI3, CHANNELS, INTERFACES, WSGI

#: Wrappers looked through; a circle of them ends here.
_DEPTH: Final = 32
_BY_COUNT: Final = {1: ASGI2, 2: WSGI, 3: ASGI3}
_POSITIONAL: Final = (inspect.Parameter.POSITIONAL_ONLY, inspect.Parameter.POSITIONAL_OR_KEYWORD)


def detect(target: Any, name: str = "") -> str:
    """Return the interface of ``target``, one of :data:`INTERFACES`.

    :param name: what error messages call it.
    :raises ConfigurationError: where the object does not tell.
    """
    name = name or repr(target)
    if is_channel_layer(target):
        return CHANNELS
    if inspect.isclass(target) and hasattr(target, "send") and hasattr(target, "new_channel"):
        raise ConfigurationError(f"{name} is a class, not a channel layer made with it.")
    if not callable(target):
        if hasattr(target, "send"):
            return CHANNELS
        kind = type(target).__name__
        raise ConfigurationError(f"{name} is not an application: it is of type {kind}, neither callable nor a channel layer with send().")
    # Marks of asgiref's guarantee_single_callable and its relatives.
    if getattr(target, "_asgi_single_callable", False):
        return ASGI3
    if getattr(target, "_asgi_double_callable", False):
        return ASGI2
    if inspect.isclass(target):
        count = _required(target)
        # An instance of the class is the application's answer to one request (PEP 3333's AppClass, ASGI 2).
        if count in (1, 2):
            return _BY_COUNT[count]
        if count == 3 and hasattr(target, "__await__"):
            # Starlette's HTTPEndpoint, whose instance is what an ASGI 3 application returns.
            return ASGI3
        raise _doubtful(name)
    if _is_coroutine(target):
        return ASGI3
    count = _required(target)
    if count == 0:
        raise ConfigurationError(f"{name} takes no arguments: say --factory if it makes the application.")
    if count not in _BY_COUNT:
        raise _doubtful(name)
    return _BY_COUNT[count]


def is_channel_layer(target: Any) -> bool:
    """Whether ``target`` is a channel layer of ASGI 0.x; a class of them is none."""
    if inspect.isclass(target) or not hasattr(target, "send") or not hasattr(target, "new_channel"):
        return False
    return hasattr(target, "receive") or hasattr(target, "receive_many")


def _doubtful(name: str) -> ConfigurationError:
    return ConfigurationError(f"{name} does not tell what interface it has: say --interface={'|'.join(INTERFACES)}.")


def _is_coroutine(target: Any) -> bool:
    """Whether calling it gives a coroutine, seen through ``partial``, decorators and methods."""
    for _ in range(_DEPTH):
        if inspect.iscoroutinefunction(target):
            return True
        if isinstance(target, partial):
            target = target.func
        elif inspect.ismethod(target):
            target = target.__func__
        elif hasattr(target, "__wrapped__") and not inspect.isclass(target.__wrapped__):
            target = target.__wrapped__
        elif not inspect.isfunction(target) and not inspect.isbuiltin(target):
            call = getattr(type(target), "__call__", None)  # noqa: B004 - the method itself is wanted
            if not inspect.isfunction(call) and not hasattr(call, "__wrapped__"):
                return False
            target = call
        else:
            return False
    return False


def _required(target: Callable[..., Any]) -> int:
    """The number of positional arguments that a call needs; -1 where that is not known or not definite."""
    try:
        parameters = list(inspect.signature(target).parameters.values())
    except (TypeError, ValueError):
        return -1
    if any(parameter.kind is inspect.Parameter.VAR_POSITIONAL for parameter in parameters):
        return -1
    if any(each.kind is inspect.Parameter.KEYWORD_ONLY and each.default is inspect.Parameter.empty for each in parameters):
        return -1
    return sum(each.kind in _POSITIONAL and each.default is inspect.Parameter.empty for each in parameters)
