"""The same hello, answered on the stream itself: greendaphne's protocol code without a channel layer.

``python -m benchmarks.apps.stream_hello ENDPOINT`` listens on an endpoint string; plain endpoints take HTTP/2 with prior knowledge.
"""

from __future__ import annotations

import sys

import gevent

from benchmarks.apps.asgi_hello import HEADERS, HELLO
from greendaphne.applications.base import Application
from greendaphne.config import Limits, Timeouts
from greendaphne.core.message import Request, Stream
from greendaphne.http2 import Http2Limits
from greendaphne.net.acceptor import Acceptor
from greendaphne.net.endpoints import parse
from greendaphne.serving.connections import Connections
from greendaphne.serving.exchange import Exchange
from greendaphne.serving.policy import RequestPolicy
from greendaphne.serving.session import Sessions
from greendaphne.websocket import WebSocket


class Hello(Application):
    """An application that answers with a constant."""

    def http(self, request: Request, stream: Stream) -> None:
        """Answer."""
        stream.start(200, HEADERS)
        stream.finish(HELLO)


def main() -> None:
    """Serve for ever."""
    limits, timeouts = Limits(), Timeouts()

    def make_websocket(stream: Stream) -> WebSocket:
        return WebSocket(stream, limits, timeouts)

    connections = Connections(
        Exchange(Hello(), Sessions(make_websocket, timeouts), RequestPolicy()), limits, timeouts, Http2Limits(), http2_cleartext=True
    )
    endpoint = parse(sys.argv[1])
    acceptor = Acceptor(endpoint.bind(), connections.handler(endpoint), connections.pool, False)
    acceptor.start()
    while True:
        gevent.sleep(3600)


if __name__ == "__main__":
    main()
