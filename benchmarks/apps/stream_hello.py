"""The same hello, answered on the stream itself: greendaphne's protocol code without a channel layer.

``python -m benchmarks.apps.stream_hello ENDPOINT`` listens on an endpoint string; plain endpoints take HTTP/2 with prior knowledge.
"""

from __future__ import annotations

import sys

import gevent

from benchmarks.apps.asgi_hello import HEADERS, HELLO
from greendaphne.config import Limits, Timeouts
from greendaphne.core.message import Request, Stream
from greendaphne.http2 import Http2Limits
from greendaphne.net.acceptor import Acceptor
from greendaphne.net.endpoints import parse
from greendaphne.serving.connections import Connections
from greendaphne.serving.exchange import Exchange
from greendaphne.websocket import WebSocket


class Hello:
    """An application for the exchange."""

    def http(self, request: Request, stream: Stream) -> None:
        """Answer."""
        stream.start(200, HEADERS)
        stream.finish(HELLO)

    def websocket(self, request: Request, websocket: WebSocket) -> None:
        """Not measured here."""
        raise NotImplementedError


def main() -> None:
    """Serve for ever."""
    limits, timeouts = Limits(), Timeouts()

    def make_websocket(stream: Stream) -> WebSocket:
        return WebSocket(stream, limits, timeouts)

    connections = Connections(Exchange(Hello(), make_websocket), limits, timeouts, Http2Limits(), http2_cleartext=True)
    endpoint = parse(sys.argv[1])
    acceptor = Acceptor(endpoint.bind(), connections.handler(endpoint), connections.pool, False)
    acceptor.start()
    while True:
        gevent.sleep(3600)


if __name__ == "__main__":
    main()
