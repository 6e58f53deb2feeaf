"""What a stream, and the inbox of its body, use of the connection that they belong to."""

from __future__ import annotations

from typing import Any, Protocol

from ..config import Timeouts
from ..core.accounts import Account
from .early import EarlyAnswers
from .engine import Engine
from .limits import Http2Limits
from .writer import Writer


class StreamOwner(Protocol):
    """The connection as its streams see it; :class:`~greendaphne.http2.connection.Http2Connection` is one."""

    #: Is told of what is held for the connection.
    account: Account
    #: Whether streams may be left without a greenlet.
    detaches: bool
    #: Streams that were answered before the request's end.
    early_answers: EarlyAnswers
    engine: Engine
    http2_limits: Http2Limits
    #: Bytes that the connection may hold before its streams wait for the client with each piece.
    share: int
    timeouts: Timeouts
    writer: Writer

    @property
    def serving(self) -> int:
        """The number of requests that are being answered."""

    def delivery(self) -> tuple[int, int] | None:
        """As :class:`greendaphne.net.byte_stream.ByteStream` says."""

    def resume(self, stream: Any) -> None:
        """Serve ``stream``, which was left without a greenlet, in one again."""

    def close_stream(self, stream: Any) -> None:
        """The stream is not served any more."""

    def end_answered(self, stream: Any) -> None:
        """The same, where the whole response is with the engine."""

    def grow_window(self, window: int) -> int:
        """How much a stream's receive window of ``window`` bytes may grow, taken from what the connection has for that."""
