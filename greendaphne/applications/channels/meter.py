"""Counts what goes to a channel layer and what comes from it, for metrics.

A server without metrics has no meter, and its messages pay nothing for one: :meth:`LayerMeter.attach` puts the counting in the place of the
methods that the bridge calls.
"""

from __future__ import annotations

from collections.abc import Iterable
from time import perf_counter
from typing import Any, Final

from ...monitoring.families import LATENCY_BUCKETS, Family, Histogram, counter, counters, histogram
from .layer_client import LayerClient, LayerDown
from .router import ReplyRouter

#: Counted from the start, at 0: a counter that appears with its first event shows no increase.
CHANNELS: Final = ("http.request", "http.disconnect", "websocket.connect", "websocket.receive", "websocket.disconnect")


class LayerMeter:
    """The counters of one channel layer."""

    def __init__(self) -> None:
        #: Messages by channel: sent, refused because the channel was full, failed.
        self.sent = dict.fromkeys(CHANNELS, 0)
        self.full = dict.fromkeys(CHANNELS, 0)
        self.failed = dict.fromkeys(CHANNELS, 0)
        #: Replies that came from the layer.
        self.received = 0
        self.send_seconds = Histogram(LATENCY_BUCKETS)

    def attach(self, layer_client: LayerClient, router: ReplyRouter) -> None:
        """Count what ``layer_client`` sends and ``router`` receives."""
        plain_send, plain_post, plain_post_all = layer_client.send, layer_client.post, layer_client.post_all

        def send(channel: str, message: dict[str, Any]) -> None:
            started = perf_counter()
            try:
                plain_send(channel, message)
            except layer_client.channel_full:
                _count(self.full, channel)
                raise
            except (layer_client.message_too_large, LayerDown):
                _count(self.failed, channel)
                raise
            self.send_seconds.observe(perf_counter() - started)
            _count(self.sent, channel)

        def post(channel: str, message: dict[str, Any]) -> bool:
            taken = plain_post(channel, message)
            _count(self.sent if taken else self.full, channel)
            return taken

        def post_all(channel: str, messages: list[dict[str, Any]]) -> int:
            taken = plain_post_all(channel, messages)
            _count(self.sent, channel, taken)
            if taken < len(messages):
                _count(self.full, channel, len(messages) - taken)
            return taken

        def on_batch(number: int) -> None:
            self.received += number

        def send_along(channel: str, message: dict[str, Any], failed: object) -> bool:
            # The time of each is measured, so each is waited for.
            return False

        layer_client.send = send  # type: ignore[method-assign]
        layer_client.send_along = send_along  # type: ignore[method-assign]
        layer_client.post = post  # type: ignore[method-assign]
        layer_client.post_all = post_all  # type: ignore[method-assign]
        router.on_batch = on_batch

    def families(self) -> Iterable[Family]:
        """Everything, as it is now."""
        yield counters("greendaphne_layer_messages_sent", "Messages that the channel layer took.", ("channel",), _by_one(self.sent))
        yield counters("greendaphne_layer_full", "Messages that found their channel full.", ("channel",), _by_one(self.full))
        yield counters("greendaphne_layer_send_failures", "Messages that could not be sent.", ("channel",), _by_one(self.failed))
        yield counter("greendaphne_layer_messages_received", "Replies that came from the channel layer.", self.received)
        yield histogram("greendaphne_layer_send_duration_seconds", "Time that the channel layer took for a message.", self.send_seconds)


def _count(numbers: dict[str, int], channel: str, number: int = 1) -> None:
    """Count messages by their channel."""
    try:
        numbers[channel] += number
    except KeyError:
        # Not one of the usual; without the part that is another for each request there are few of them.
        kind = channel.partition("?")[0].partition("!")[0]
        numbers[kind] = numbers.get(kind, 0) + number


def _by_one(values: dict[str, int]) -> dict[tuple[str], int]:
    """The numbers by tuples of one label."""
    return {(name,): value for name, value in values.items()}
