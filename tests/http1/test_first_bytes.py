"""HTTP/1: the first bytes of a connection."""

from __future__ import annotations

import socket
from contextlib import closing

import pytest

from greendaphne.core.message import HTTPError
from greendaphne.http1.body import Input
from greendaphne.net.transport import Transport
from tests.support.server import Client


def test_a_lone_line_feed_is_refused_before_anything_follows(client: Client) -> None:
    client.send(b"\n")
    assert client.read_response().status == 400
    assert client.read_to_eof() == b""


def test_a_line_feed_among_the_first_bytes_of_an_input_is_found() -> None:
    """They come from the look at the first segment, and nothing was searched or used before."""
    with closing(socket.socket()) as sock, pytest.raises(HTTPError):
        Input(Transport(sock, 1.0), b"\n").find_line(0, 10)
