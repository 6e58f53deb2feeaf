"""Sending to the channel layer, with its failures told apart: full, too large, out of reach.

A layer may fail with any exception at all.  Whatever is not one of its own two counts as being out of reach; the watch is told, so that
an outage is logged when it begins and when it ends, not once for every client.
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from functools import partial
from typing import Any, Final

import gevent
from gevent.lock import BoundedSemaphore
from gevent.monkey import is_module_patched

from ...layers.capabilities import beside
from .watch import LayerWatch

logger = logging.getLogger("daphne.server")

#: Messages on their way at a time through a layer that opens a connection for each of them.
CONCURRENT_SENDS: Final = 16
#: Seconds for which others wait behind them before the layer counts as being out of reach.
TURN_LIMIT: Final = 5.0
#: Seconds that such a send may take: a little more than the shortest time limit that asgi_redis takes for its own, which is the better one.
SEND_LIMIT: Final = 6.0


class LayerDown(Exception):
    """The channel layer could not be reached.

    :param maybe_stored: whether the message may have been stored all the same, so that it must not be sent again.
    """

    def __init__(self, maybe_stored: bool) -> None:
        super().__init__()
        self.maybe_stored = maybe_stored


class _Stuck(Exception):
    """A layer that takes too long."""

    def __init__(self, text: str, *, maybe_stored: bool) -> None:
        super().__init__(text)
        self.maybe_stored = maybe_stored


class LayerClient:
    """Sends through one channel layer.

    :param layer: the channel layer; ``ChannelFull`` and ``MessageTooLarge`` are taken from it.
    :param watch: told of failures and successes.
    """

    def __init__(self, layer: Any, watch: LayerWatch) -> None:
        # A message that was made for the purpose belongs to nothing else, and need not be copied.
        self._send: Any = beside(layer, "send_owned", "send") or layer.send
        self._along: Any = beside(layer, "send_along", "send")
        self._new_channel = layer.new_channel
        self._post: Any = getattr(layer, "send_later", None) or beside(layer, "offer", "send")
        self._offer: Any = beside(layer, "offer", "send")
        self._watch = watch
        self.channel_full: type[Exception] = layer.ChannelFull
        self.message_too_large: type[Exception] = layer.MessageTooLarge
        #: Whether :meth:`post` works.
        self.can_post = self._post is not None
        #: Whether :meth:`offer` works.
        self.can_offer = self._offer is not None
        self._post_all: Any = beside(layer, "offer_all", "send")
        #: Whether :meth:`post_all` works.
        self.can_post_all = self._post_all is not None
        #: Taken by every send of a layer that would wait in as many connections as there are senders.
        self._turns = BoundedSemaphore(CONCURRENT_SENDS) if _opens_connections(layer) else None

    def send(self, channel: str, message: dict[str, Any]) -> None:
        """Send one message.

        :raises: the layer's ``ChannelFull`` and ``MessageTooLarge``, otherwise :class:`LayerDown`.
        """
        try:
            if self._turns is None:
                self._send(channel, message)
            else:
                _in_turn(self._turns, self._send, channel, message)
        except (self.channel_full, self.message_too_large):
            raise
        except Exception as error:
            raise self._down(error) from error
        if self._watch.down:
            self._watch.succeeded()

    def offer(self, channel: str, message: dict[str, Any]) -> bool:
        """Like :meth:`send`, but false where that raises ``ChannelFull``; for a layer with :attr:`can_offer`."""
        try:
            taken: bool = self._offer(channel, message)
        except self.message_too_large:
            raise
        except Exception as error:
            raise self._down(error) from error
        if self._watch.down:
            self._watch.succeeded()
        return taken

    def send_along(self, channel: str, message: dict[str, Any], failed: Callable[[Exception], object]) -> bool:
        """Send one message without waiting for the layer, where other messages are on their way that it can travel with; false where
        :meth:`send` is to send it.

        :param failed: called later, in another greenlet, with what :meth:`send` would raise.
        :raises: as :meth:`send`.
        """
        if self._along is None or self._watch.down:
            return False
        try:
            taken: bool = self._along(channel, message, partial(self._failed, failed))
        except (self.channel_full, self.message_too_large):
            raise
        except Exception as error:
            raise self._down(error) from error
        return taken

    def _down(self, error: Exception) -> LayerDown:
        """What a send raises after ``error`` of the layer, of which the watch is told."""
        self._watch.failed("send", error)
        return LayerDown(getattr(error, "maybe_stored", True))

    def _failed(self, failed: Callable[[Exception], object], error: Exception | None) -> None:
        if error is None:
            failed(self.channel_full())
        else:
            failed(self._down(error))

    def post(self, channel: str, message: dict[str, Any]) -> bool:
        """Have one message sent without waiting for the layer, once and whatever becomes of it; false where that is known already."""
        try:
            return self._post(channel, message) is not False
        except Exception as error:  # noqa: BLE001 - no caller needs it
            logger.debug("A message on %s is given up: %s", channel, error)
            return False

    def post_all(self, channel: str, messages: list[dict[str, Any]]) -> int:
        """As :meth:`post` for messages without content; returns how many the layer took."""
        try:
            number: int = self._post_all(channel, messages)
        except Exception as error:  # noqa: BLE001 - no caller needs it
            logger.debug("%d messages on %s are given up: %s", len(messages), channel, error)
            return 0
        return number

    def new_channel(self, pattern: str) -> str:
        """Make a single-reader channel.

        :raises LayerDown: where the layer is out of reach.
        """
        try:
            make = self._new_channel
            name: str = make(pattern) if self._turns is None else _in_turn(self._turns, make, pattern)
        except Exception as error:
            self._watch.failed("send", error)
            raise LayerDown(maybe_stored=False) from error
        return name


def _in_turn(turns: BoundedSemaphore, function: Callable[..., Any], *arguments: Any) -> Any:
    """Call ``function`` in a greenlet that may be left behind: such a layer may wait for ever, and must not be cut off in an exchange."""
    if not turns.acquire(timeout=TURN_LIMIT):
        raise _Stuck(f"more than {CONCURRENT_SENDS} sends wait for more than {TURN_LIMIT:g} seconds", maybe_stored=False)

    def call() -> tuple[Any, Exception | None]:
        try:
            return function(*arguments), None
        except Exception as error:  # noqa: BLE001 - raised again in the caller
            return None, error
        finally:
            turns.release()

    called = gevent.spawn(call)
    called.join(SEND_LIMIT)
    if not called.ready():
        raise _Stuck(f"no answer within {SEND_LIMIT:g} seconds", maybe_stored=True)
    assert called.value is not None
    result, error = called.value
    if error is not None:
        raise error
    return result


def _opens_connections(layer: Any) -> bool:
    """Whether each send that waits is likely to hold a connection: a layer of others that gevent's patches made cooperative."""
    return not hasattr(layer, "receive_batch") and type(layer).__module__ != "asgiref.inmemory" and is_module_patched("socket")
