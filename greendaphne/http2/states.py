"""The states of RFC 9113 section 5.1: of one stream, and of those that are closed.

A server's streams begin open or half-closed, with the client's header section, and none is reserved, because this server does not push.  So
two bits are a state, and each transition clears one bit or both::

    open (RECEIVE and SEND) ──client's END_STREAM──> half-closed, remote (SEND) ──server's END_STREAM, or RST_STREAM──> closed (0)
                            ──server's END_STREAM──> half-closed, local (RECEIVE) ──client's END_STREAM, or RST_STREAM──> closed (0)
"""

from __future__ import annotations

from enum import IntEnum, IntFlag
from typing import Final


class Open(IntFlag):
    """The directions in which a stream is open, as the server sees it; a closed stream has none."""

    #: The client has not ended the stream.
    RECEIVE = 1
    #: The server has not ended the stream.
    SEND = 2


class Closed(IntEnum):
    """How a stream was closed, which decides what late frames on it mean."""

    #: It was never opened, or too long ago.
    UNKNOWN = 0
    #: Both sides ended it.
    ENDED = 1
    #: The server reset it: frames of the client's may be under way.
    BY_SERVER = 2
    #: The client reset it.
    BY_CLIENT = 3


# The same as plain integers, which are faster.
RECEIVE: Final = Open.RECEIVE.value
SEND: Final = Open.SEND.value

#: Closed streams are remembered among this number of the latest stream identifiers of a client; a power of two.
REMEMBERED: Final = 512
_MASK: Final = REMEMBERED - 1


class StreamState:
    """What the engine knows of a stream that is not closed.

    :param receive_window: bytes that the client may send on it.
    :param send_window: bytes that the server may send on it; negative after the client has reduced its windows.
    """

    __slots__ = ("open", "receive_window", "send_window", "stream_id")

    def __init__(self, stream_id: int, receive_window: int, send_window: int, *, end_stream: bool) -> None:
        self.stream_id = stream_id
        #: A combination of :data:`RECEIVE` and :data:`SEND`.
        self.open = SEND if end_stream else RECEIVE | SEND
        self.receive_window = receive_window
        self.send_window = send_window


class ClosedStreams:
    """How the latest streams of one client were closed: one byte for each of the last :data:`REMEMBERED` identifiers."""

    __slots__ = ("_how", "latest")

    def __init__(self) -> None:
        # By half the identifier, which is odd; made with the first stream.
        self._how = bytearray()
        #: The highest identifier of a stream that was opened.
        self.latest = 0

    def open(self, stream_id: int) -> None:
        """A stream with a higher identifier than all others was opened; those in between never will be."""
        how = self._how
        if not how:
            how = self._how = bytearray(REMEMBERED)
        if stream_id - self.latest <= 2:
            how[stream_id >> 1 & _MASK] = 0
        else:
            for skipped in range(max(self.latest + 2, stream_id - 2 * _MASK), stream_id + 2, 2):
                how[skipped >> 1 & _MASK] = 0
        self.latest = stream_id

    def close(self, stream_id: int, how: Closed) -> None:
        """A stream was closed."""
        if self.latest - stream_id < 2 * REMEMBERED:
            self._how[stream_id >> 1 & _MASK] = how

    def get(self, stream_id: int) -> Closed:
        """How a stream was closed; ``stream_id`` is odd and not higher than :attr:`latest`."""
        if self.latest - stream_id < 2 * REMEMBERED:
            return Closed(self._how[stream_id >> 1 & _MASK])
        return Closed.UNKNOWN
