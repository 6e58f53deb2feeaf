"""HTTP/1: the first bytes of a connection."""

from __future__ import annotations

from tests.support.server import Client


def test_a_lone_line_feed_is_refused_before_anything_follows(client: Client) -> None:
    client.send(b"\n")
    assert client.read_response().status == 400
    assert client.read_to_eof() == b""
