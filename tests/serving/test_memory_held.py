"""What failed requests and refused ones hold while their answer waits for the client."""

from __future__ import annotations

import weakref
from typing import NamedTuple

import h2.events
import pytest
from h2.errors import ErrorCodes

from greendaphne.applications.base import Application
from greendaphne.config import Config, Http2
from greendaphne.core.message import HTTPError, Request, ResponseError, Stream
from greendaphne.server import Server
from greendaphne.threaded import ServerThread
from tests.support.http2 import Peer
from tests.support.monitoring import wait_until
from tests.support.server import serve

CLEARTEXT = Config(endpoints=("tcp:0:interface=127.0.0.1",), http2=Http2(cleartext=True))


class Large:
    """Stands for what a frame of a failed request refers to."""


class Failing(Application):
    """Raises the next of some exceptions, from a frame that refers to something large."""

    interface = "failing"

    def __init__(self, errors: list[Exception]) -> None:
        self.errors = errors
        self.held: list[weakref.ref[Large]] = []

    def http(self, request: Request, stream: Stream) -> None:
        large = Large()
        self.held.append(weakref.ref(large))
        try:
            raise KeyError(large)
        except KeyError as error:
            raise self.errors.pop() from error


class At(NamedTuple):
    address: tuple[str, int]


def test_error_pages_that_wait_hold_nothing_of_what_failed(caplog: pytest.LogCaptureFixture) -> None:
    # pytest keeps log records, which refer to the exceptions.
    caplog.set_level("CRITICAL", logger="daphne.http_protocol")
    errors = [HTTPError(503, "No."), ResponseError("It is bad."), ValueError("It failed.")]
    application = Failing(list(errors))
    del errors
    server = Server(application=application, config=CLEARTEXT)
    with ServerThread(server), Peer(At(("127.0.0.1", server.port)), initial_window_size=0) as peer:
        for status in (b"500", b"500", b"503"):
            response = peer.wait(h2.events.ResponseReceived, peer.request())
            assert dict(response.headers)[b":status"] == status
        # The bodies wait for window.
        wait_until(lambda: [held() for held in application.held] == [None, None, None])


def test_requests_beyond_the_memory_are_refused_and_may_be_repeated() -> None:
    with serve(config=CLEARTEXT, endpoints=["tcp:0:interface=127.0.0.1"]) as server, Peer(server) as peer:
        memory = server.server._parts.overload.memory
        first = peer.request()
        message = server.app.receive("http.request")[1]
        memory.resize(memory.held)
        # What an ordinary connection needs is granted all the same.
        others = [peer.request() for _ in range(4)]
        assert peer.wait(h2.events.StreamReset, others[-1]).error_code == ErrorCodes.REFUSED_STREAM
        memory.resize(memory.held + 1_000_000)
        server.app.reply(message, status=200, content=b"first")
        assert peer.response(first)[2] == b"first"
        for stream_id in others[:-1]:
            server.app.answer(b"other")
            assert peer.response(stream_id)[2] == b"other"
        again = peer.request()
        server.app.answer(b"again")
        assert peer.response(again)[2] == b"again"
    assert memory.held == 0
