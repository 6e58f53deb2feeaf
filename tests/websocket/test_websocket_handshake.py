"""The opening handshake: RFC 6455 section 4.2 rule by rule, and the answers as bytes."""

from __future__ import annotations

import socket
from collections.abc import Callable
from concurrent.futures import Future
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from greendaphne.config import Limits, Timeouts
from greendaphne.core.message import HTTPError, ResponseError, Stream
from greendaphne.http1.connection import Http1Connection
from greendaphne.http1.stream import Http1Stream
from greendaphne.net.service import Service
from greendaphne.net.transport import Transport
from greendaphne.websocket import State, WebSocket, WebSocketClosed
from greendaphne.websocket.handshake import accept_value, check
from tests.support.websocket import (
    ACCEPT,
    CLOSE,
    HANDSHAKE,
    INFO,
    KEY,
    PATIENCE,
    TEXT,
    Client,
    Frame,
    SocketStream,
    close_payload,
    frame,
    hub,
    request,
    websocket,
)

Fields = list[tuple[bytes, bytes]]


def without(*names: bytes) -> Fields:
    return [(name, value) for name, value in HANDSHAKE if name not in names]


def replaced(name: bytes, *values: bytes) -> Fields:
    return [*without(name), *((name, value) for value in values)]


def outcome(headers: Fields, **fields: Any) -> HTTPError | None:
    try:
        check(request(headers, **fields))
    except HTTPError as error:
        return error
    return None


def refusal(headers: Fields, **fields: Any) -> HTTPError:
    error = outcome(headers, **fields)
    assert error is not None
    return error


def test_the_rfc_s_example() -> None:
    check(request())
    assert accept_value(KEY) == ACCEPT


@pytest.mark.parametrize(
    ("headers", "detail"),
    [
        (without(b"host"), "HTTP Host header missing in opening handshake request."),
        (replaced(b"host", b"a", b"a"), "HTTP Host header appears more than once in opening handshake request."),
        (without(b"connection"), "HTTP Connection header missing."),
        (replaced(b"connection", b"notupgrade"), "HTTP Connection header does not include upgrade."),
        (replaced(b"connection", b"keep-alive"), "HTTP Connection header does not include upgrade."),
        (replaced(b"connection", b"upgrade upgrade"), "HTTP Connection header does not include upgrade."),
        (replaced(b"upgrade", b"websocket2"), "HTTP Upgrade header is not websocket."),
        (without(b"upgrade"), "HTTP Upgrade header is not websocket."),
        (without(b"sec-websocket-version"), "HTTP Sec-WebSocket-Version header missing."),
        (
            replaced(b"sec-websocket-version", b"13", b"13"),
            "HTTP Sec-WebSocket-Version header appears more than once in opening handshake request.",
        ),
        (without(b"sec-websocket-key"), "HTTP Sec-WebSocket-Key header missing."),
        (replaced(b"sec-websocket-key", KEY, KEY), "HTTP Sec-WebSocket-Key header appears more than once in opening handshake request."),
        (replaced(b"origin", b"http://a", b"http://b"), "HTTP Origin header appears more than once in opening handshake request."),
    ],
)
def test_refused(headers: Fields, detail: str) -> None:
    error = refusal(headers)
    assert error.status == 400
    assert error.detail == detail
    assert error.close


@pytest.mark.parametrize(
    "key",
    [
        b"",
        b"=" * 24,
        b"short",
        KEY[:-1],
        KEY + b"=",
        KEY[:-2],
        b"dGhlIHNhbXBsZSBub25j",  # 15 bytes
        b"dGhlIHNhbXBsZSBub25jZXM=",  # 17 bytes
        b"dGhlIHNhbXBsZSBub25j-_==",  # the URL-safe alphabet
        b"dGhl IHNhbXBsZSBub25jZQ=",
        b"\xff" * 22 + b"==",
    ],
)
def test_key_must_be_sixteen_bytes_in_base64(key: bytes) -> None:
    assert refusal(replaced(b"sec-websocket-key", key)).detail == "HTTP Sec-WebSocket-Key header is not 16 bytes in base64."


@pytest.mark.parametrize("key", [b"dGhlIHNhbXBsZSBub25jZR==", b"AQIDBAUGBwgJCgsMDQ4PEB=="])
def test_key_may_have_bits_that_carry_nothing(key: bytes) -> None:
    """RFC 4648 section 3.5 leaves it to the decoder, and RFC 6455 section 4.2.2 answers with the characters, not the bytes."""
    check(request(replaced(b"sec-websocket-key", key)))


@pytest.mark.parametrize("version", [b"0", b"7", b"8", b"12", b"14", b"99", b"013", b"13,8", b"13 8", b"", b"\xff"])
def test_only_version_13(version: bytes) -> None:
    error = refusal(replaced(b"sec-websocket-version", version))
    assert error.status == 426
    assert (b"sec-websocket-version", b"13") in error.headers
    assert (b"upgrade", b"websocket") in error.headers


@pytest.mark.parametrize("method", ["POST", "HEAD", "CONNECT", "get"])
def test_only_get(method: str) -> None:
    error = refusal(HANDSHAKE, method=method)
    assert error.status == 405
    assert list(error.headers) == [(b"allow", b"GET")]


def test_not_on_http_1_0() -> None:
    assert refusal(HANDSHAKE, http_version="1.0").status == 400


@pytest.mark.parametrize("length", [1, None])
def test_no_body(length: int | None) -> None:
    assert refusal(HANDSHAKE, content_length=length).detail == "A WebSocket handshake has no body."


def test_no_fragment_in_the_target() -> None:
    assert refusal(HANDSHAKE, target=b"/chat#room").detail == "HTTP requested resource contains a fragment identifier."


@pytest.mark.parametrize("value", [b"Upgrade", b"upgrade", b"keep-alive, Upgrade", b"UPGRADE ,x", b",upgrade"])
def test_connection_is_a_list_of_tokens(value: bytes) -> None:
    check(request(replaced(b"connection", value)))


def test_connection_may_be_several_fields() -> None:
    check(request(replaced(b"connection", b"keep-alive", b"Upgrade")))


@pytest.mark.parametrize(
    "origin", [b"null", b"http://example.com", b"https://[::1]:8443", b"chrome-extension://abc", b"file://", b"http://a http://b"]
)
def test_origin(origin: bytes) -> None:
    check(request(replaced(b"origin", origin)))


@pytest.mark.parametrize("origin", [b"", b"example.com", b"http://", b"//a", b"http://a\x85b", b"http://a b", b"1http://a"])
def test_invalid_origin(origin: bytes) -> None:
    assert refusal(replaced(b"origin", origin)).detail == "HTTP Origin header invalid."


@pytest.mark.parametrize(
    "protocols", [[b"chat"], [b"chat, superchat"], [b"chat", b"superchat"], [b"a,b ,c\t, d"], [b""], [b"chat,"], [b"chat,,superchat"]]
)
def test_subprotocols(protocols: list[bytes]) -> None:
    check(request(replaced(b"sec-websocket-protocol", *protocols)))


@pytest.mark.parametrize("protocols", [[b"a b"], [b"a/b"], [b"caf\xe9"], [b"a\x00"], [b"\x80\xff"]])
def test_subprotocols_are_tokens(protocols: list[bytes]) -> None:
    assert refusal(replaced(b"sec-websocket-protocol", *protocols)).detail == "HTTP Sec-WebSocket-Protocol header invalid."


def test_a_long_list_is_refused_before_it_is_parsed() -> None:
    """Each element takes microseconds, and a head has room for tens of thousands."""
    names = [b"p%d" % number for number in range(101)]
    check(request(replaced(b"sec-websocket-protocol", b", ".join(names[:100]))))
    detail = refusal(replaced(b"sec-websocket-protocol", b", ".join(names))).detail
    assert detail == "HTTP Sec-WebSocket-Protocol header has too many protocols."
    check(request(replaced(b"sec-websocket-extensions", b"a" + b";b" * 99)))
    for value in (b"a" + b";b" * 100, b"a" + b",b" * 100):
        assert refusal(replaced(b"sec-websocket-extensions", value)).detail == "HTTP Sec-WebSocket-Extensions header invalid."


@pytest.mark.parametrize("protocols", [[b"chat, chat"], [b"chat", b"chat"]])
def test_subprotocols_are_unique(protocols: list[bytes]) -> None:
    assert refusal(replaced(b"sec-websocket-protocol", *protocols)).detail == (
        "Duplicate protocol specified in HTTP Sec-WebSocket-Protocol header."
    )


@pytest.mark.parametrize("value", [b"", b";", b"a;=b", b'a; b="c', b"a b", b"\xff", b'a; b="c d"'])
def test_malformed_extensions(value: bytes) -> None:
    assert refusal(replaced(b"sec-websocket-extensions", value)).detail == "HTTP Sec-WebSocket-Extensions header invalid."


def http2(headers: Fields, **fields: Any) -> Any:
    return request(headers, **{"method": "CONNECT", "http_version": "2", "upgrade": b"websocket", "content_length": None, **fields})


HTTP2: Fields = [(b"host", b"example.com"), (b"sec-websocket-version", b"13")]


def test_http2() -> None:
    """RFC 8441 section 5: no key, no Upgrade, no Connection, but version, subprotocols and extensions."""
    check(http2(HTTP2))
    check(http2(HTTP2[1:]))
    with pytest.raises(HTTPError) as caught:
        check(http2([*HTTP2[:1], (b"sec-websocket-version", b"8")]))
    assert caught.value.status == 426
    assert list(caught.value.headers) == [(b"sec-websocket-version", b"13")]
    assert not caught.value.close
    with pytest.raises(HTTPError) as caught:
        check(http2(HTTP2, method="GET"))
    assert caught.value.status == 405


FIELDS = [*(name for name, _ in HANDSHAKE), b"origin", b"sec-websocket-protocol", b"sec-websocket-extensions"]
values = st.binary(max_size=40).map(lambda value: value.strip(b" \t"))


@settings(deadline=None)
@given(st.lists(st.tuples(st.sampled_from(FIELDS), values), max_size=4))
def test_no_field_does_more_than_be_refused(further: Fields) -> None:
    error = outcome([*HANDSHAKE, *further])
    assert error is None or error.status in (400, 426)


# -- accepting


def answered(act: Callable[[WebSocket], None], headers: Fields = HANDSHAKE, **options: Any) -> SocketStream:
    """What ``act`` does to a stream."""

    def run() -> SocketStream:
        near, far = socket.socketpair()
        with near, far:
            stream = SocketStream(Transport(far, 5), request(headers, **options.pop("fields", {})))
            end = WebSocket(stream, Limits(), Timeouts(), **options)
            end.check()
            act(end)
            return stream

    result = hub().call(run)
    assert isinstance(result, SocketStream)
    return result


def test_answer_s_fields_are_in_daphne_s_order() -> None:
    stream = answered(lambda end: end.accept("chat"), [*HANDSHAKE, (b"sec-websocket-protocol", b"chat")])
    assert stream.head == [
        (b"server", b"Daphne"),
        (b"upgrade", b"WebSocket"),
        (b"connection", b"Upgrade"),
        (b"sec-websocket-protocol", b"chat"),
        (b"sec-websocket-accept", ACCEPT),
    ]


def test_server_name_may_be_left_out() -> None:
    assert b"server" not in dict(answered(WebSocket.accept, server_name=None).head)


def test_application_s_fields_come_last() -> None:
    stream = answered(lambda end: end.accept(headers=[(b"Set-Cookie", b" a=1 ")]))
    assert stream.head[-1] == (b"set-cookie", b"a=1")


def test_http2_answer() -> None:
    stream = answered(
        WebSocket.accept,
        [*HTTP2, (b"sec-websocket-protocol", b"chat")],
        fields={"method": "CONNECT", "http_version": "2", "upgrade": b"websocket", "content_length": None},
        protocols=["chat"],
    )
    assert stream.head == [(b"server", b"Daphne"), (b"sec-websocket-protocol", b"chat")]


@pytest.mark.parametrize(
    ("offered", "protocols", "chosen"),
    [
        (b"a, b", ["b", "a"], "a"),
        (b"c, b", ["a", "b"], "b"),
        (b"superchat", ["chat"], None),
        (b"Chat", ["chat"], None),
        (b"a", [], None),
        (None, ["a"], None),
    ],
)
def test_subprotocol_is_the_client_s_first_that_the_server_speaks(offered: bytes | None, protocols: list[str], chosen: str | None) -> None:
    seen: list[WebSocket] = []

    def accept(end: WebSocket) -> None:
        end.accept()
        seen.append(end)

    headers = [*HANDSHAKE, (b"sec-websocket-protocol", offered)] if offered is not None else HANDSHAKE
    stream = answered(accept, headers, protocols=protocols)
    assert dict(stream.head).get(b"sec-websocket-protocol") == (None if chosen is None else chosen.encode())
    assert seen[0].subprotocol == seen[0].protocol == chosen


@pytest.mark.parametrize("chosen", ["other", "", "chat\r\nX-Evil: 1", "cha", "CHAT", "é"])
def test_application_chooses_among_what_was_offered(chosen: str) -> None:
    def accept(end: WebSocket) -> None:
        with pytest.raises(ResponseError):
            end.accept(chosen)
        assert end.state is State.CONNECTING
        end.accept("superchat")

    stream = answered(accept, [*HANDSHAKE, (b"sec-websocket-protocol", b"chat, superchat")], protocols=["chat"])
    assert dict(stream.head)[b"sec-websocket-protocol"] == b"superchat"


@pytest.mark.parametrize(
    "field",
    [
        (b"x", b"a\r\nx-evil: 1"),
        (b"x", b"a\nb"),
        (b"x", b"a\x00"),
        (b"x\r\ny", b"a"),
        (b"x y", b"a"),
        (b"", b"a"),
        (b"x\xe9", b"a"),
        (b"Sec-WebSocket-Accept", b"a"),
        (b"sec-websocket-extensions", b"permessage-deflate"),
        (b"Connection", b"close"),
        (b"upgrade", b"h2c"),
        (b"content-length", b"0"),
        (b"Transfer-Encoding", b"chunked"),
    ],
)
def test_fields_that_must_not_be_sent(field: tuple[bytes, bytes]) -> None:
    def accept(end: WebSocket) -> None:
        with pytest.raises(ResponseError):
            end.accept(headers=[field])
        assert end.state is State.CONNECTING

    assert answered(accept).status == 0


def test_calls_out_of_turn() -> None:
    def act(end: WebSocket) -> None:
        for call in (end.receive, end.close, lambda: end.send("x")):
            with pytest.raises(RuntimeError):
                call()
        end.accept()
        for call in (end.accept, end.reject):
            with pytest.raises(RuntimeError):
                call()

    answered(act)


def test_names_of_gevent_websocket() -> None:
    def act(end: WebSocket) -> None:
        assert end.origin == "http://example.com"
        assert end.version == "13"
        assert end.path == "/chat"
        assert end.protocol is None

    answered(act, [*HANDSHAKE, (b"origin", b"http://example.com")])


def test_rejecting() -> None:
    def act(end: WebSocket) -> None:
        end.reject()
        assert end.closed
        with pytest.raises(WebSocketClosed) as caught:
            end.send("x")
        assert caught.value.code == 1006

    stream = answered(act)
    assert (stream.status, stream.reason) == (403, "Access denied")
    assert stream.head == [(b"content-length", b"0"), (b"connection", b"close")]
    assert stream.complete


def test_rejecting_on_http2() -> None:
    fields = {"method": "CONNECT", "http_version": "2", "upgrade": b"websocket", "content_length": None}
    assert answered(lambda end: end.reject(503), HTTP2, fields=fields).head == [(b"content-length", b"0")]


# -- compression


def extension(offer: bytes) -> bytes | None:
    headers = [*HANDSHAKE, (b"sec-websocket-extensions", offer)]
    return dict(answered(WebSocket.accept, headers, compression=True).head).get(b"sec-websocket-extensions")


def test_compression_only_where_asked_for() -> None:
    headers = [*HANDSHAKE, (b"sec-websocket-extensions", b"permessage-deflate")]
    assert b"sec-websocket-extensions" not in dict(answered(WebSocket.accept, headers).head)
    assert b"sec-websocket-extensions" not in dict(answered(WebSocket.accept, compression=True).head)


@pytest.mark.parametrize(
    "offer",
    [
        b"x-webkit-deflate-frame",
        b"permessage-deflate; unknown",
        b"permessage-deflate; server_max_window_bits=16",
        b"permessage-deflate; server_max_window_bits=8",
        b"permessage-deflate; server_max_window_bits",
        b"permessage-deflate; server_no_context_takeover=1",
        b"permessage-deflate; server_no_context_takeover; server_no_context_takeover",
        b"permessage-deflate; client_max_window_bits=09",
    ],
)
def test_offers_that_are_declined(offer: bytes) -> None:
    assert extension(offer) is None


def test_first_acceptable_offer_is_taken() -> None:
    answer = extension(
        b"x, permessage-deflate; server_max_window_bits=99, permessage-deflate; server_max_window_bits=12, permessage-deflate"
    )
    assert answer == b"permessage-deflate; server_no_context_takeover; client_no_context_takeover; server_max_window_bits=12"


# -- on the wire


def converse(sent: bytes, serve: Callable[[WebSocket], Any]) -> bytes:
    """What an HTTP/1.1 connection answers to ``sent``."""
    near, far = socket.socketpair()
    near.settimeout(PATIENCE)
    done: Future[Any] = Future()

    def handle(stream: Http1Stream) -> None:
        try:
            end = WebSocket(as_stream(stream), Limits(), Timeouts())
            end.check()
            done.set_result(serve(end))
        except HTTPError as error:
            refuse(stream, error)

    def refuse(stream: Http1Stream, error: HTTPError) -> None:
        stream.start(error.status, [*error.headers, (b"content-length", b"0"), (b"connection", b"close")])
        stream.finish()

    def run() -> None:
        Http1Connection(Transport(far, 5), INFO, Service(Limits(), Timeouts(), handle, refuse)).run()

    with near, far:
        served = hub().spawn(run)
        near.sendall(sent)
        near.shutdown(socket.SHUT_WR)
        received = b"".join(iter(lambda: near.recv(65536), b""))
        served.result(PATIENCE)
    return received


def as_stream(stream: Stream) -> Stream:
    return stream


HEAD = b"GET /chat HTTP/1.1\r\nHost: a\r\nUpgrade: WebSocket\r\nConnection: keep-alive, Upgrade\r\nSec-WebSocket-Version: 13\r\n"


def test_accepted_on_the_wire_with_frames_in_the_same_segment() -> None:
    def serve(end: WebSocket) -> None:
        end.accept()
        assert end.receive() == "early"
        end.send("late")
        with pytest.raises(WebSocketClosed):
            end.receive()

    head = HEAD + b"Sec-WebSocket-Key: " + KEY + b"\r\n\r\n"
    answer = converse(head + frame(TEXT, b"early") + frame(CLOSE, close_payload(1000)), serve)
    assert answer == (
        b"HTTP/1.1 101 Switching Protocols\r\n"
        b"Server: Daphne\r\nUpgrade: WebSocket\r\nConnection: Upgrade\r\nSec-WebSocket-Accept: " + ACCEPT + b"\r\n\r\n"
        b"\x81\x04late\x88\x02\x03\xe8"
    )


def test_rejected_on_the_wire() -> None:
    answer = converse(HEAD + b"Sec-WebSocket-Key: " + KEY + b"\r\n\r\n", WebSocket.reject)
    head, _, body = answer.partition(b"\r\n\r\n")
    lines = head.split(b"\r\n")
    assert lines[0] == b"HTTP/1.1 403 Access denied"
    assert b"Content-Length: 0" in lines
    assert b"Connection: close" in lines
    assert body == b""


def test_refused_on_the_wire() -> None:
    answer = converse(HEAD.replace(b": 13", b": 8") + b"Sec-WebSocket-Key: " + KEY + b"\r\n\r\n", WebSocket.accept)
    assert answer.startswith(b"HTTP/1.1 426 ")
    assert b"\r\nSec-WebSocket-Version: 13\r\n" in answer


def test_client_reads_the_frames_that_follow_the_answer() -> None:
    with websocket() as (client, server):
        assert server.stream.status == 101
        client.send(frame(TEXT, b"x"))
        assert client.receive() == Frame(TEXT, b"x")
        assert isinstance(client, Client)
