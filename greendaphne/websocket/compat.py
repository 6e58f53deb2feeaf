"""The place of gevent-websocket's class, which applications test for with ``isinstance``, and its names for the request."""

from __future__ import annotations

from geventwebsocket.websocket import WebSocket as _GeventWebSocket  # type: ignore[import-untyped]

from ..core.message import Request, Stream, header_values


class CompatibleWebSocket(_GeventWebSocket):  # type: ignore[misc]
    """A WebSocket on a stream under the names of gevent-websocket's, of whose code it uses nothing.

    :param stream: the request and the way to answer it; after the handshake, the tunnel.
    """

    __slots__ = ("subprotocol",)

    def __init__(self, stream: Stream) -> None:
        # The superclass's constructor would only make the parts that this class does without.
        self.stream: Stream = stream  # type: ignore[misc]
        self.environ = None  # type: ignore[misc]
        self.closed: bool = False  # type: ignore[misc]
        #: The subprotocol in use, ``None`` for none; set when it is accepted.
        self.subprotocol: str | None = None

    def __del__(self) -> None:
        """Do nothing; the superclass would write to the stream from wherever the garbage collector runs."""

    @property
    def request(self) -> Request:
        """The request of the opening handshake."""
        return self.stream.request

    @property
    def origin(self) -> str | None:
        """The ``Origin`` field."""
        values = header_values(self.request.headers, b"origin")
        return values[0].decode("latin-1") if values else None

    @property
    def protocol(self) -> str | None:
        """The subprotocol in use."""
        return self.subprotocol

    @property
    def version(self) -> str:
        """The version of the WebSocket protocol."""
        return "13"

    @property
    def path(self) -> str:
        """The request's raw path."""
        return self.request.path.decode("latin-1")
