"""Requests that two parties could read differently, each with its one answer.

A row says what is sent, the statuses that come back, how many ``http.request`` messages reach the application, and whether the
connection is closed behind the last answer.
"""

from __future__ import annotations

import socket
from collections.abc import Iterator

import pytest

from tests.support.server import Client, RunningServer, serve

HOST = b"Host: example.com\r\n"
SMUGGLED = b"GET /smuggled HTTP/1.1\r\nHost: example.com\r\n\r\n"


def post(*fields: bytes, body: bytes = b"", version: bytes = b"1.1") -> bytes:
    return b"POST / HTTP/" + version + b"\r\n" + HOST + b"".join(field + b"\r\n" for field in fields) + b"\r\n" + body


def get(*fields: bytes, line: bytes = b"GET / HTTP/1.1") -> bytes:
    return line + b"\r\n" + HOST + b"".join(field + b"\r\n" for field in fields) + b"\r\n"


CHUNKED = b"Transfer-Encoding: chunked"

# Name, bytes, statuses, requests delivered, closed.
ROWS: list[tuple[str, bytes, list[int], int, bool]] = [
    # Both framings at once.
    ("cl-te", post(b"Content-Length: 5", CHUNKED, body=b"0\r\n\r\n" + SMUGGLED), [400], 0, True),
    ("te-cl", post(CHUNKED, b"Content-Length: 5", body=b"0\r\n\r\n" + SMUGGLED), [400], 0, True),
    ("te-cl any case", post(b"tRANSFER-eNCODING: Chunked", b"content-length: 0", body=SMUGGLED), [400], 0, True),
    ("te with a blank before the colon", post(b"Transfer-Encoding : chunked", body=b"0\r\n\r\n"), [400], 0, True),
    # Content-Length.
    ("cl twice, equal", post(b"Content-Length: 5", b"Content-Length: 5", body=b"hello"), [400], 0, True),
    ("cl twice, different", post(b"Content-Length: 5", b"Content-Length: 6", body=b"hello"), [400], 0, True),
    ("cl list", post(b"Content-Length: 5, 5", body=b"hello"), [400], 0, True),
    *[
        (f"cl {value!r}", post(b"Content-Length: " + value, body=b"hello"), [400], 0, True)
        for value in (b"+5", b"-5", b"0x5", b"5_0", b"5 x", b"", b"\xd9\xa5", b"5\x0b", b"5;", b"1e1", b"99999999999999999999", b"9" * 1000)
    ],
    # Transfer-Encoding.
    *[
        (f"te {value!r}", post(b"Transfer-Encoding: " + value, body=b"0\r\n\r\n" + SMUGGLED), [status], 0, True)
        for value, status in (
            (b"chunked, chunked", 400),
            (b",chunked", 501),
            (b"identity", 501),
            (b"gzip", 501),
            (b"xchunked", 501),
            (b"gzip, chunked", 501),
            (b"chunked, identity", 400),
            (b"\x0bchunked", 400),
            (b"chunked\xa0", 400),
            (b"", 400),
            (b"chunked;q=1", 400),
        )
    ],
    # RFC 9112 section 5: blanks after a value are no part of it.
    *[
        (f"te with blanks after it {value!r}", post(b"Transfer-Encoding:" + value, body=b"0\r\n\r\n"), [200], 1, False)
        for value in (b" chunked\t", b"chunked ", b"\tchunked \t ", b" Chunked\t\t")
    ],
    ("cl with a tab after it", post(b"Content-Length: 5\t", body=b"hello") + get(b"X: a\t"), [200, 200], 2, False),
    ("a tab after it and another coding", post(b"Transfer-Encoding: gzip\t", body=b"0\r\n\r\n" + SMUGGLED), [501], 0, True),
    ("a line of blanks after a tab", get(b"X: a\t\r\n \t"), [400], 0, True),
    ("a line of blanks in the place of the empty line", get(b"X: a\t\r\n\t") + SMUGGLED, [400], 0, True),
    ("te twice", post(CHUNKED, CHUNKED, body=b"0\r\n\r\n" + SMUGGLED), [400], 0, True),
    ("te on 1.0", post(CHUNKED, body=b"0\r\n\r\n" + SMUGGLED, version=b"1.0"), [400], 0, True),
    # Chunk sizes.
    *[
        (f"chunk size {size!r}", post(CHUNKED, body=size + b"\r\nhello\r\n0\r\n\r\n"), [400], 0, True)
        for size in (
            b"0x5",
            b"+5",
            b"-5",
            b"5_0",
            b" 5",
            b"",
            b"00000000000000005",
            b"5 ",
            b"5\t",
            b"g",
            b"5;\x01",
            b'5;a="',
            b"5;a b",
            b"\xb5",
        )
    ],
    ("chunk size with a bare LF", post(CHUNKED, body=b"5\nhello\r\n0\r\n\r\n"), [400], 0, True),
    ("chunk extension with a bare CR", post(CHUNKED, body=b"5;a\rb\r\nhello\r\n0\r\n\r\n"), [400], 0, True),
    ("chunk extension of a megabyte", post(CHUNKED, body=b"5;" + b"a" * 2**20 + b"\r\nhello\r\n0\r\n\r\n"), [400], 0, True),
    # Chunk ends.
    ("chunk without CRLF", post(CHUNKED, body=b"5\r\nhelloXX0\r\n\r\n"), [400], 0, True),
    ("chunk ended by LF", post(CHUNKED, body=b"5\r\nhello\n0\r\n\r\n"), [400], 0, True),
    ("chunk ended by CR X", post(CHUNKED, body=b"5\r\nhello\rX0\r\n\r\n"), [400], 0, True),
    ("chunk longer than its size", post(CHUNKED, body=b"4\r\nhello\r\n0\r\n\r\n"), [400], 0, True),
    # Trailers.
    ("trailers", post(CHUNKED, body=b"5\r\nhello\r\n0\r\nX-A: b\r\nX-C: d\r\n\r\n"), [200], 1, False),
    ("chunk extensions", post(CHUNKED, body=b'5;a;b=c ; d="e f\\""\r\nhello\r\n0;x=y\r\n\r\n'), [200], 1, False),
    ("request in the trailer", post(CHUNKED, body=b"0\r\nX: y\r\nGET /smuggled HTTP/1.1\r\nHost: a\r\n\r\n"), [400], 0, True),
    ("trailer with a bare LF", post(CHUNKED, body=b"0\r\nX: y\nZ: a\r\n\r\n"), [400], 0, True),
    ("trailer folded", post(CHUNKED, body=b"0\r\nX: y\r\n z\r\n\r\n"), [400], 0, True),
    ("too many trailers", post(CHUNKED, body=b"0\r\n" + b"X: y\r\n" * 201 + b"\r\n"), [431], 0, True),
    ("trailers, just allowed", post(CHUNKED, body=b"0\r\n" + b"X: y\r\n" * 200 + b"\r\n"), [200], 1, False),
    ("trailer too long", post(CHUNKED, body=b"0\r\nX: " + b"y" * 20000 + b"\r\n\r\n"), [431], 0, True),
    # Line ends.
    ("bare LF everywhere", b"GET / HTTP/1.1\nHost: a\n\n", [400], 0, True),
    ("bare LF in the fields", b"GET / HTTP/1.1\r\nHost: a\nX: y\r\n\r\n", [400], 0, True),
    ("LF in the request line", b"GET /\nX HTTP/1.1\r\nHost: a\r\n\r\n", [400], 0, True),
    ("bare CR in a value", get(b"X: a\rb"), [400], 0, True),
    ("bare CR as line end", b"GET / HTTP/1.1\rHost: a\r\r\r\n\r\n", [400], 0, True),
    ("folded field", get(b"X: a\r\n b"), [400], 0, True),
    ("empty lines before the request", b"\r\n\r\n" + get(), [200], 1, False),
    ("CR before the request", b"\r" + get(), [400], 0, True),
    ("endless empty lines", b"\r\n" * 40000, [400], 0, True),
    # Names.
    *[
        (f"field line {line!r}", get(line), [400], 0, True)
        for line in (
            b"X : a",
            b"X\t: a",
            b"no colon",
            b": no name",
            b"X\x85: a",
            b"X\xa0: a",
            b"X\x00: a",
            b"X(: a",
            b"X): a",
            b"X/: a",
            b'"X": a',
        )
    ],
    ("blank before the first field", b"GET / HTTP/1.1\r\n Host: a\r\n\r\n", [400], 0, True),
    # Values.
    *[(f"value with {c:#04x}", get(b"X: a" + bytes([c]) + b"b"), [400], 0, True) for c in (*range(9), *range(10, 32), 127)],
    ("value with a tab", get(b"X: a\tb"), [200], 1, False),
    ("value with high bytes", get(b"X: \x85\xa0\xff"), [200], 1, False),
    # The request line.
    *[
        (f"request line {line!r}", get(line=line), [status], 0, True)
        for line, status in (
            (b"B@D / HTTP/1.1", 400),
            (b"GET  / HTTP/1.1", 400),
            (b"GET /  HTTP/1.1", 400),
            (b"GET\t/ HTTP/1.1", 400),
            (b" GET / HTTP/1.1", 400),
            (b"GET / HTTP/1.1 ", 400),
            (b"GET / x HTTP/1.1", 400),
            (b"GET /", 400),
            (b"GET x HTTP/1.1", 400),
            (b"GET ?x HTTP/1.1", 400),
            (b"GET * HTTP/1.1", 400),
            (b"GET /\x00 HTTP/1.1", 400),
            (b"GET /\x7f HTTP/1.1", 400),
            (b"GET / HTTP/1.10", 400),
            (b"GET / HTTP/11", 400),
            (b"GET / HTTP/1.2", 505),
            (b"GET / HTTP/2.0", 505),
            (b"GET / HTTP/0.9", 505),
            (b"GET / HTTPS/1.1", 400),
            (b"GET / http/1.1", 400),
            (b"GET / ICE/1.1", 400),
            (b"GET ftp://example.com/ HTTP/1.1", 400),
            (b"GET http:///x HTTP/1.1", 400),
            (b"GET http://user@example.com/ HTTP/1.1", 400),
            # RFC 9110 section 4.2.1: a host that is empty.
            (b"GET http://:80/ HTTP/1.1", 400),
            (b"GET http://a:99999/ HTTP/1.1", 400),
            (b"GET http://a,b/ HTTP/1.1", 400),
            # RFC 9112 section 3.2: no form of the target has a fragment.
            (b"GET /a#b HTTP/1.1", 400),
            (b"GET /# HTTP/1.1", 400),
            (b"GET /?a#b HTTP/1.1", 400),
            (b"GET http://x/a#b HTTP/1.1", 400),
            (b"GET http://x#b HTTP/1.1", 400),
            (b"CONNECT example.com:443 HTTP/1.1", 501),
            (b"CONNECT / HTTP/1.1", 501),
            (b"connect http://example.com/ HTTP/1.1", 501),
            (b"PRI * HTTP/2.0", 505),
        )
    ],
    ("absolute-form", get(line=b"GET http://other.example:81/a?b HTTP/1.1"), [200], 1, False),
    ("asterisk-form", get(line=b"OPTIONS * HTTP/1.1"), [200], 1, False),
    ("unusual method", get(line=b"FROB!/ / HTTP/1.1"), [400], 0, True),
    ("unusual token method", get(line=b"FROB!-x / HTTP/1.1"), [200], 1, False),
    ("non-ASCII path", get(line=b"GET /\xc3\xa9 HTTP/1.1"), [400], 0, False),
    ("non-ASCII path with a body", get(b"Content-Length: 5", line=b"POST /\xc3\xa9 HTTP/1.1") + b"hello", [400], 0, True),
    # Host.
    ("no Host", b"GET / HTTP/1.1\r\n\r\n", [400], 0, True),
    ("two Hosts", get(b"Host: other"), [400], 0, True),
    *[
        (f"Host {value!r}", b"GET / HTTP/1.1\r\nHost: " + value + b"\r\n\r\n", [400], 0, True)
        for value in (b"a b", b"a/b", b"a@b", b"a,b", b"a:b", b"[::1", b"[:::]", b"a:123456", b"a:99999", b":80", b"a%00b", b"\xff", b"a#b")
    ],
    *[
        (f"Host {value!r}", b"GET / HTTP/1.1\r\nHost: " + value + b"\r\n\r\n", [200], 1, False)
        for value in (b"a", b"a:80", b"[::1]:80", b"", b"a_b.c-d")
    ],
    ("no Host on 1.0", b"GET / HTTP/1.0\r\n\r\n", [200], 1, True),
    # Sizes.
    ("long request line", get(line=b"GET /" + b"a" * 9000 + b" HTTP/1.1"), [414], 0, True),
    ("endless request line", b"GET /" + b"a" * 9000, [414], 0, True),
    ("long field", get(b"X: " + b"a" * 17000), [431], 0, True),
    ("many fields", get(*[b"X: y"] * 200), [431], 0, True),
    ("many fields, just allowed", get(*[b"X: y"] * 199), [200], 1, False),
    ("long head", get(*[b"X: " + b"y" * 10000] * 7), [431], 0, True),
    ("endless head", b"GET / HTTP/1.1\r\n" + b"X: yyyyyyyyyy\r\n" * 6000, [431], 0, True),
    # Expectations.
    ("unknown expectation", get(b"Expect: 200-ok"), [417], 0, True),
    ("two expectations", post(b"Expect: 100-continue, 200-ok", b"Content-Length: 5", body=b"hello"), [417], 0, True),
    ("Expect without a body", get(b"Expect: 100-continue"), [200], 1, False),
    # RFC 9110 section 5.6.1: empty elements of a list are ignored.
    *[
        (f"Expect {value!r}", post(b"Expect: " + value, b"Content-Length: 5", body=b"hello"), [200], 1, False)
        for value in (b"100-Continue,", b" ,100-continue", b"100-continue, 100-continue", b"", b",")
    ],
    # Not HTTP at all.
    ("TLS on a plain port", b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03", [400], 0, True),
    ("HTTP/2 preface", b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", [505], 0, True),
    # Pipelining.
    ("two requests", get() + get(), [200, 200], 2, False),
    ("a good and a bad one", get() + get(line=b"GET  / HTTP/1.1"), [200, 400], 1, True),
    ("a bad and a good one", get(line=b"GET  / HTTP/1.1") + get(), [400], 0, True),
    ("close, then another", get(b"Connection: close") + get(), [200], 1, True),
    ("close in a list", get(b"Connection: foo , Close") + get(), [200], 1, True),
    (
        "upgrade to something else with a body",
        post(b"Connection: Upgrade", b"Upgrade: h2c", b"Content-Length: 5", body=b"hello") + get(),
        [200, 200],
        2,
        False,
    ),
    ("body, then another", post(b"Content-Length: 5", body=b"hello") + get(), [200, 200], 2, False),
]


@pytest.fixture(scope="module")
def server() -> Iterator[RunningServer]:
    """One server for all rows: what one connection did must not matter to the next."""
    with serve() as running:
        yield running


@pytest.mark.parametrize(("sent", "statuses", "delivered", "closed"), [row[1:] for row in ROWS], ids=[row[0] for row in ROWS])
def test_attack(client: Client, server: RunningServer, sent: bytes, statuses: list[int], delivered: int, closed: bool) -> None:
    client.send(sent)
    requests = []
    for status in statuses:
        if status == 200:
            requests.append(server.app.answer(b"ok"))
        response = client.read_response()
        assert response.status == status
        if response.version == "HTTP/1.1":
            assert (response.header("Connection") == "close") == (closed and status == statuses[-1])
    if closed:
        assert client.at_eof()
    else:
        # The connection is still in step: what is sent now is answered, and nothing else was waiting.
        client.send(b"GET /last HTTP/1.1\r\nHost: a\r\n\r\n")
        assert server.app.answer()["path"] == "/last"
        assert client.read_response().status == 200
    assert len(requests) == delivered
    assert server.app.drain("http.request") == []
    assert all(request["path"] != "/smuggled" for request in requests)


SHORT_ROWS = [row for row in ROWS if len(row[1]) < 3000]


@pytest.mark.parametrize(("sent", "statuses", "delivered", "closed"), [row[1:] for row in SHORT_ROWS], ids=[row[0] for row in SHORT_ROWS])
def test_attack_octet_by_octet(
    client: Client, server: RunningServer, sent: bytes, statuses: list[int], delivered: int, closed: bool
) -> None:
    """Segments do not matter."""
    client.sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    try:
        for octet in sent:
            client.send(bytes((octet,)))
    except OSError:
        assert closed
    requests = []
    for status in statuses:
        if status == 200:
            requests.append(server.app.answer(b"ok"))
        response = client.read_response()
        if b"Expect:" in sent and response.status == 100:
            # The server read the head before the first octet of the body arrived: it must ask for the body.
            response = client.read_response()
        assert response.status == status
    if not closed:
        client.send(b"GET /last HTTP/1.1\r\nHost: a\r\n\r\n")
        assert server.app.answer()["path"] == "/last"
        assert client.read_response().status == 200
    assert len(requests) == delivered
    assert server.app.drain("http.request") == []


@pytest.mark.parametrize("body", [b"5\r\nhel", b"5\r\nhello", b"5\r\nhello\r\n", b"5\r\nhello\r\n0\r\n", b"5\r\nhello\r\n0\r\nX: y\r\n"])
def test_truncated_body_is_not_delivered(server: RunningServer, body: bytes) -> None:
    with server.connect() as client:
        client.send(post(CHUNKED, body=body))
        client.half_close()
        assert client.at_eof()
    assert server.app.drain("http.request") == []


def test_a_method_that_is_head_to_one_side_only_is_the_last(client: Client, server: RunningServer) -> None:
    """A proxy to which ``head`` is not HEAD waits for content and would take the next response for it."""
    client.send(get(line=b"head / HTTP/1.1") + SMUGGLED)
    assert server.app.answer(b"ok")["method"] == "HEAD"
    assert client.read_response("HEAD").header("Connection") == "close"
    assert client.at_eof()
    assert server.app.drain("http.request") == []


def test_truncated_head_is_not_delivered(server: RunningServer) -> None:
    with server.connect() as client:
        client.send(b"GET / HTTP/1.1\r\nHost: a\r\n")
        client.half_close()
        assert client.at_eof()
    assert server.app.drain("http.request") == []
