"""Counts messages that a channel layer lost, and warns of them at most once a minute for each kind of channel.

A message is *bad* if its receiver cannot use it, and *dropped* if a channel had no room for it and its sender is not told, as in a group.
Lines name the channel and the number, never a message's content.  Counting is safe in every thread; it is done for lost messages only, so
good messages cost nothing.
"""

from __future__ import annotations

import logging
import re
import sys
import threading
import time
from typing import Any, Final
from weakref import WeakKeyDictionary

logger = logging.getLogger("greendaphne.layers")

#: Seconds between two lines about one kind of channel.
INTERVAL: Final = 60.0
#: Kinds of channels that are counted separately; all others are counted as ``other``.
KINDS: Final = 64

#: The kind of all reply channels.
REPLY: Final = "reply"
OTHER: Final = "other"

_kind_name = re.compile(r"[A-Za-z0-9\-_.]{1,99}").fullmatch
_shown_name = re.compile(r"[A-Za-z0-9\-_.!?]{1,99}").fullmatch


def kind_of(channel: object) -> str:
    """The kind that ``channel`` is counted under: ``reply`` for process-specific names, other names up to their ``?``.

    Anything that is no channel name is ``other``.
    """
    if not isinstance(channel, str):
        return OTHER
    name, mark, _ = channel.partition("!")
    if mark:
        return REPLY if _kind_name(name) else OTHER
    name = name.partition("?")[0]
    return name if _kind_name(name) else OTHER


def shown(channel: object) -> str:
    """``channel`` for a log line: its name, or a text for an invalid name."""
    return channel if isinstance(channel, str) and _shown_name(channel) else "a channel without a valid name"


class _Kind:
    """What one kind of channel has lost since its last line, and when that line was written (monotonic seconds)."""

    __slots__ = ("channel", "number", "pending", "reason", "text", "told_at")

    def __init__(self) -> None:
        self.number = 0
        self.told_at = float("-inf")
        self.channel = self.reason = self.text = ""
        # Whether a timer will log the messages counted since.
        self.pending = False


class Tally:
    """The lost messages of one channel layer.

    :param interval: seconds between two lines about one kind of channel.
    """

    def __init__(self, interval: float = INTERVAL) -> None:
        self._interval = interval
        #: Bad and dropped messages by kind of channel, since the start.
        self.bad: dict[str, int] = {}
        self.dropped: dict[str, int] = {}
        self._lines: dict[tuple[bool, str], _Kind] = {}
        # Recursive and native, because a signal handler may count while its thread counts, and native threads count too.
        self._lock = _native_lock()

    def bad_message(self, channel: object, reason: str, number: int = 1, text: str = "") -> None:
        """Count ``number`` messages on ``channel`` that cannot be used.

        :param reason: why, in fixed words: it is logged.
        :param text: the line to log where it is about this message alone.
        """
        self._count(self.bad, channel, reason, number, text)

    def dropped_message(self, channel: object, reason: str, number: int = 1) -> None:
        """Count ``number`` messages for which ``channel`` had no room."""
        self._count(self.dropped, channel, reason, number)

    def _count(self, numbers: dict[str, int], channel: object, reason: str, number: int, text: str = "") -> None:
        kind = kind_of(channel)
        now = time.monotonic()
        later = False
        with self._lock:
            if kind not in numbers and len(numbers) >= KINDS:
                kind = OTHER
            numbers[kind] = numbers.get(kind, 0) + number
            key = numbers is self.bad, kind
            line = self._lines.get(key)
            if line is None:
                line = self._lines[key] = _Kind()
            line.number += number
            line.channel, line.reason, line.text = shown(channel), reason, text
            if now - line.told_at < self._interval:
                later = not line.pending
                told = None
            else:
                told = self._take(line, now)
        if told is not None:
            self._tell(key[0], told)
        elif later:
            self._tell_later(key, line)

    def _take(self, line: _Kind, now: float) -> tuple[int, str, str, str]:
        told = line.number, line.channel, line.reason, line.text
        line.number = 0
        line.told_at = now
        return told

    def _tell(self, bad: bool, told: tuple[int, str, str, str]) -> None:
        number, channel, reason, text = told
        if number == 1 and text:
            logger.error("%s", text)
            return
        messages = "1 message" if number == 1 else f"{number} messages"
        if bad:
            logger.error("Dropped %s that cannot be used, the last on %s: %s", messages, channel, reason)
        else:
            logger.warning("Dropped %s for want of room, the last on %s: %s", messages, channel, reason)

    def _tell_later(self, key: tuple[bool, str], line: _Kind) -> None:
        """Log the rest of a burst after the interval; a thread without a hub logs it with its next lost message."""
        local = sys.modules.get("gevent._hub_local")
        hub = None if local is None else local.get_hub_if_exists()
        if hub is None or hub.loop is None:
            return
        import gevent

        def tell() -> None:
            # The interval is over, or this thread has a new hub.
            now = time.monotonic()
            with self._lock:
                line.pending = False
                told = self._take(line, now) if line.number else None
            if told is not None:
                self._tell(key[0], told)

        def start() -> None:
            timer.close()
            gevent.spawn(tell)

        line.pending = True
        # A timer that keeps no hub from ending.
        timer = hub.loop.timer(max(line.told_at + self._interval - time.monotonic(), 0.001), ref=False)
        timer.start(start)


_others: WeakKeyDictionary[Any, Tally] = WeakKeyDictionary()


def tally_of(layer: Any) -> Tally:
    """The tally of ``layer``: its own if it has one, as this package's layers do, otherwise one that is kept for it."""
    layer = getattr(layer, "channel_layer", layer)
    tally = getattr(layer, "tally", None)
    if isinstance(tally, Tally):
        return tally
    try:
        return _others.setdefault(layer, Tally())
    except TypeError:
        # It cannot be referred to weakly, or has no hash.
        return Tally()


def _native_lock() -> Any:
    """A lock between threads, also where gevent has patched the module; gevent need not be installed."""
    monkey = sys.modules.get("gevent.monkey")
    return threading.RLock() if monkey is None else monkey.get_original("_thread", "RLock")()
