"""The small cases of the Autobahn test suite through an ASGI application: answers come before the close frame of the server.

All frames of a case may come in one read, so the application gets its messages together with the end.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack, closing

import pytest

from tests.conformance.autobahn import sites
from tests.support.asgi import HANDSHAKE, serve_asgi
from tests.support.server import LiveServer
from tests.support.websocket import Client
from tests.support.websocket_cases import SMALL_CASES, Case, play


@pytest.fixture(scope="module")
def server() -> Iterator[LiveServer]:
    with serve_asgi(sites.asgi) as server:
        yield server


#: Without those of section 6, which are a matter of the frames alone.
CASES = [case for case in SMALL_CASES if not case.number.startswith("6.")]


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.number)
def test_case(server: LiveServer, case: Case) -> None:
    with ExitStack() as stack:
        connection = stack.enter_context(server.connect())
        connection.send(HANDSHAKE % (b"/", b""))
        assert connection.read_head().status == 101
        client = stack.enter_context(closing(Client(connection.sock)))
        play(client, case)
