"""The abilities of a channel layer beyond the ASGI specification, determined once and stored in one value.

=====================  ==========================================================================================================
Ability                What a layer has for it
=====================  ==========================================================================================================
batches                a method ``receive_batch(channels, limit, timeout)``
a wait that ends       ``receive_batch`` takes ``wake``, a :class:`~greendaphne.layers.wake.Wake`
acknowledgement        a true attribute ``reliable``, and the methods ``acknowledge()`` and ``release()``
native blocking        an attribute ``blocks_natively``, true or false
sending unchecked      ``send_owned(channel, message)``, for a message that only the sender knows; else as ``send``
an offer               ``offer(channel, message)``, ``send_owned`` that never waits and is false where ``send`` would raise
sending along          ``send_along(channel, message, failed)``, see :meth:`greendaphne.layers.redis.core.CoreLayer.send_along`
offers together        ``offer_all(channel, messages)``, as many offers of messages without content; returns how many were taken
a lasting receiver     ``receiver(channels)``, see :class:`greendaphne.layers.receiver.Receiver`
a direct way           ``attach(name, taker)`` and ``detach(name)``, see :meth:`greendaphne.layers.memory.MemoryChannelLayer.attach`
counted memory         ``count_in(allowance)``, see :meth:`greendaphne.layers.memory.MemoryChannelLayer.count_in`
=====================  ==========================================================================================================

For a layer of Channels the wrapper that Channels puts around it is removed first.
"""

from __future__ import annotations

import inspect
from dataclasses import dataclass
from enum import Enum
from functools import lru_cache
from typing import Any

from gevent.monkey import is_module_patched


class Ending(Enum):
    """How a wait for messages can be ended without losing one."""

    #: By a :class:`~greendaphne.layers.wake.Wake`: the wait returns the messages that the layer has handed over.
    WAKE = "wake"
    #: The layer does not wait: its reader sleeps between two polls, and ends there.
    POLL = "poll"
    #: Only after the layer's own time limit.  An exception that is thrown into the wait may lose a message.
    LIMIT = "limit"


@dataclass(frozen=True)
class Capabilities:
    """The abilities of one layer."""

    #: Whether ``receive_batch`` returns several messages at a time and waits at most for its ``timeout``.
    batches: bool
    #: How a wait ends.
    ending: Ending
    #: Whether a wait blocks the whole hub, so that it needs a native thread.
    blocks_natively: bool
    #: Whether a message counts as taken only once it is acknowledged.
    acknowledges: bool


def capabilities(layer: Any) -> Capabilities:
    """The abilities of ``layer``, any ASGI channel layer."""
    receive_batch = getattr(layer, "receive_batch", None)
    polls = module_of(layer) == "asgiref.inmemory"
    if receive_batch is not None and _takes_wake(getattr(receive_batch, "__func__", receive_batch)):
        ending = Ending.WAKE
    elif polls:
        ending = Ending.POLL
    else:
        ending = Ending.LIMIT
    return Capabilities(
        batches=receive_batch is not None,
        ending=ending,
        blocks_natively=not polls and receive_batch is None and blocks_natively(layer),
        acknowledges=bool(getattr(layer, "reliable", False)),
    )


def blocks_natively(layer: Any) -> bool:
    """Whether a waiting call of ``layer`` would block the whole hub."""
    declared = getattr(layer, "blocks_natively", None)
    if declared is not None:
        return bool(declared)
    return module_of(layer).partition(".")[0] == "asgi_ipc" or not is_module_patched("socket")


def beside(layer: Any, name: str, standard: str) -> Any:
    """The method ``name`` of ``layer`` that does more than ``standard``, a method of the specification; ``None`` if there is none.

    Only if the same class defines both, because a class that overrides only ``standard`` means all messages.
    """
    if standard in getattr(layer, "__dict__", ()):
        return None
    for kind in type(layer).__mro__:
        if standard in vars(kind):
            return getattr(layer, name) if name in vars(kind) else None
    return None


@lru_cache(maxsize=64)
def _takes_wake(function: Any) -> bool:
    return "wake" in inspect.signature(function).parameters


def module_of(layer: Any) -> str:
    """The module of the class of ``layer``, or of the layer that Channels wrapped."""
    return type(getattr(layer, "channel_layer", layer)).__module__
