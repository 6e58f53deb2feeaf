"""One Redis server of the ring: whether it can be reached, when to try again, whether its data may be gone.

All threads and hubs of the process share a shard; it opens links and hands out none.  There is no prober: the caller that needs the server
tries it when the next attempt is due, everybody else fails at once, and blocking receivers (which every server and worker has) wait
for the next attempt.  State changes are logged once and reported to :class:`State`'s listeners.
"""

from __future__ import annotations

import logging
import os
import time
from collections.abc import Callable
from typing import Protocol
from weakref import WeakSet

from .. import LayerUnavailable
from .connection import Identity, Link, LinkError, Target
from .hubs import native_lock
from .pace import Pace
from .resp import ErrorReply
from .wire import marker_key

logger = logging.getLogger("greendaphne.layers.redis")

#: Seconds until the first and between the later attempts to reach a server that is down; doubled each time.
BACKOFF_FIRST = 0.05
BACKOFF_LAST = 0.5

#: First words of error replies after which the connection is of no use: no data, not the master any more, not authenticated.
FATAL_CODES = frozenset({"LOADING", "READONLY", "MASTERDOWN", "UNBLOCKED", "NOAUTH", "WRONGPASS", "NOREPLICAS", "CLUSTERDOWN"})

#: First words of error replies to commands that were not begun, so that nothing was stored.
REFUSAL_CODES = FATAL_CODES | {"OOM", "MISCONF", "BUSY", "NOPERM"}

#: ``listener(event, data_lost)`` with the events of :class:`State`.
Listener = Callable[[str, bool], None]


class State:
    """The state of a layer: how many shards are out of reach, how often data was lost, who wants to know.

    Events: ``"lost"`` when the first shard goes out of reach; ``"restored"`` when all are reachable again.  ``data_lost`` comes with
    ``"restored"`` and says that messages and groups may be gone: the server was restarted, replaced or emptied.  A loss without an
    outage is reported by a ``"restored"`` alone.
    """

    def __init__(self) -> None:
        self._lock = native_lock()
        self._down = 0
        self._data_lost = False
        self._losses = 0
        #: How long commands may wait for others where many are on their way.
        self.pace = Pace()
        self._listeners: list[Listener] = []

    @property
    def available(self) -> bool:
        """Whether no shard is known to be out of reach."""
        return self._down == 0

    @property
    def losses(self) -> int:
        """How many times data may have been lost since the layer was made."""
        return self._losses

    @property
    def watched(self) -> bool:
        """Whether anybody wants to know."""
        return bool(self._listeners)

    def add_listener(self, listener: Listener) -> None:
        """Call ``listener`` at each event, in the thread or greenlet that notices it; it must neither wait nor raise."""
        self._listeners.append(listener)

    def remove_listener(self, listener: Listener) -> None:
        """Take back :meth:`add_listener`."""
        self._listeners.remove(listener)

    def shard_down(self) -> None:
        with self._lock:
            self._down += 1
            first = self._down == 1
        if first:
            self._notify("lost", False)

    def shard_up(self, was_down: bool, data_lost: bool) -> None:
        with self._lock:
            self._down -= was_down
            self._losses += data_lost
            self._data_lost |= data_lost
            if self._down or not (was_down or data_lost):
                return
            data_lost, self._data_lost = self._data_lost, False
        self._notify("restored", data_lost)

    def _notify(self, event: str, data_lost: bool) -> None:
        for listener in list(self._listeners):
            try:
                listener(event, data_lost)
            except Exception:
                logger.exception("A listener to the channel layer's state failed")


class Address(Protocol):
    """Finds the server of a shard, anew for each connection."""

    #: For logs.
    name: str

    def find(self, cooperative: bool) -> Target:
        """Return where to connect; raises :class:`LinkError`."""


class FixedAddress:
    """A server whose address is known."""

    def __init__(self, target: Target) -> None:
        self.name = target.name
        self._target = target

    def find(self, cooperative: bool) -> Target:
        return self._target


class Shard:
    """One Redis server; see the module's docstring.  Its methods may be called from any thread and hub."""

    def __init__(self, address: Address, state: State, *, timeout: float, expiry: int, prefix: str, link_life: float = 0) -> None:
        """
        :param expiry: the life of messages in seconds.
        :param timeout: seconds to wait for a reply.
        :param prefix: what the layer's keys begin with.
        :param link_life: seconds after which an idle link is replaced; 0 for never.
        """
        self.name = address.name
        self.timeout = timeout
        self.expiry = expiry
        self.prefix = prefix
        #: The key that shows whether the server still has its data.
        self.marker = marker_key(prefix)
        #: Whether a blocked reader can wait without taking (see ``exchange``); unset once a server refuses.
        self.can_watch = True
        self._address = address
        self._link_life = link_life
        self._state = state
        #: How long commands may wait for others where many are on their way.
        self.pace = state.pace
        self._lock = native_lock()
        self._links: WeakSet[Link] = WeakSet()
        self._down = False
        # How many links were opened.
        self._times_opened = 0
        self._delay = BACKOFF_FIRST
        self._next_attempt = 0.0
        self._run_id = b""
        self._marker_value: bytes | None = None
        #: What a server without a marker is to get; another one each time that it was used.
        self.new_marker = os.urandom(8).hex()
        self._refusal: str | None = None

    def __repr__(self) -> str:
        return f"<Shard {self.name}>"

    # Connections

    def wait_time(self) -> float:
        """Seconds until the server may be tried: 0 while it is up or an attempt is due."""
        return max(0.0, self._next_attempt - time.monotonic()) if self._down else 0.0

    def open(self, cooperative: bool, purpose: str) -> Link:
        """Return a new link.

        :raises LayerUnavailable: when none comes about, at once while the server is down and no attempt is due.
        """
        with self._lock:
            if self._down:
                now = time.monotonic()
                if now < self._next_attempt:
                    raise LayerUnavailable(f"Redis {self.name} is out of reach", maybe_stored=False)
                self._set_back(now)
            opened = self._times_opened
        try:
            target = self._address.find(cooperative)
            link = Link(target, cooperative=cooperative, timeout=self.timeout, marker=self.marker, name=f"greendaphne:{purpose}")
        except (LinkError, ErrorReply) as error:
            if opened != self._times_opened:
                # Another attempt has succeeded since: this one says nothing about the server as it is now.
                raise LayerUnavailable(f"Redis {self.name}: {error}", maybe_stored=False) from None
            failure = self.failed(str(error))
            with self._lock:
                # The attempt may have taken long, and those who waited for it are to fail now, not to wait for another one.
                self._next_attempt = max(self._next_attempt, time.monotonic() + BACKOFF_FIRST)
            raise failure from None
        if link.identity.read_only:
            link.close()
            raise self.failed("it is a read-only replica")
        self._opened(link)
        return link

    def close(self, link: Link) -> None:
        """Close ``link``."""
        with self._lock:
            self._links.discard(link)
            link.close()

    def abandon(self, link: Link) -> None:
        """Close ``link`` whose hub is no more."""
        with self._lock:
            self._links.discard(link)
            link.abandon()

    def is_stale(self, link: Link) -> bool:
        """Whether ``link``, which is idle, should be replaced."""
        return link.is_stale() or 0 < self._link_life < time.monotonic() - link.opened

    def forget(self) -> None:
        """Drop all links without a word to the server; for a forked child, whose parent goes on using them."""
        self._links = WeakSet()
        self._lock = native_lock()

    def _opened(self, link: Link) -> None:
        identity = link.identity
        with self._lock:
            was_down, self._down = self._down, False
            self._times_opened += 1
            self._delay = BACKOFF_FIRST
            data_lost = self._run_id not in (b"", identity.run_id)
            if data_lost:
                self._marker_value = None
                self._interrupt()
                self.can_watch = True
            self._run_id = identity.run_id
            self._links.add(link)
        self._report_up(was_down, data_lost)

    def _report_up(self, was_down: bool, data_lost: bool) -> None:
        if was_down or data_lost:
            how = "is back" if was_down else "was restarted, replaced or emptied"
            logger.warning("Redis %s %s; its data %s", self.name, how, "may be lost" if data_lost else "is still there")
        self._state.shard_up(was_down, data_lost)

    # Failures

    def failed(self, reason: str, *, maybe_stored: bool = False) -> LayerUnavailable:
        """Take note that the server cannot be used, end all links to it, and return the error to raise."""
        with self._lock:
            first, self._down = not self._down, True
            if first:
                self._set_back(time.monotonic())
                self._interrupt()
        if first:
            logger.warning("Redis %s is out of reach: %s", self.name, reason)
            self._state.shard_down()
        return LayerUnavailable(f"Redis {self.name} is out of reach: {reason}", maybe_stored=maybe_stored)

    def broken(self, error: LinkError) -> LayerUnavailable:
        """Take note of a link that broke in use.  A server that hangs is down; otherwise the next connection will tell."""
        if error.timed_out:
            return self.failed(str(error), maybe_stored=True)
        return LayerUnavailable(f"Redis {self.name}: {error}")

    def refused(self, reply: ErrorReply) -> LayerUnavailable:
        """Take note of an error reply, and return the error to raise."""
        if reply.code in FATAL_CODES:
            return self.failed(str(reply))
        if self._refusal != reply.code:
            self._refusal = reply.code
            logger.warning("Redis %s refuses commands: %s", self.name, reply)
        return LayerUnavailable(f"Redis {self.name}: {reply}", maybe_stored=reply.code not in REFUSAL_CODES)

    @property
    def refusing(self) -> bool:
        """Whether the server refused the last command that it was asked to store something with, or to wait."""
        return self._refusal is not None

    def cannot_watch(self, reply: ErrorReply) -> None:
        """Take note that the server does not let readers wait without taking."""
        self.can_watch = False
        logger.info("Redis %s: receiving takes one more round trip: %s", self.name, reply)

    def accepted(self) -> None:
        """Take note that the server stores messages."""
        if self._refusal is not None:
            self._refusal = None
            logger.warning("Redis %s accepts commands again", self.name)

    def _set_back(self, now: float) -> None:
        self._next_attempt = now + self._delay
        self._delay = min(self._delay * 2, BACKOFF_LAST)

    def _interrupt(self) -> None:
        for link in list(self._links):
            link.interrupt()
        self._links.clear()

    # Loss of data

    @property
    def watched(self) -> bool:
        """Whether the marker is to be looked at."""
        return self._state.watched

    def observe(self, identity: Identity, marker: bytes) -> None:
        """Compare the marker that a receiving link saw with the one before; another one means that the data was lost."""
        with self._lock:
            if identity.run_id != self._run_id:
                return
            before, self._marker_value = self._marker_value, marker
            if marker.decode() == self.new_marker:
                self.new_marker = os.urandom(8).hex()
        if before not in (None, marker):
            self._report_up(False, True)
