"""Requests and responses on HTTP/2 streams: what the application is given, what it may send, and when each side has to wait."""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import Any

import gevent
import h2.events
import pytest
from h2.errors import ErrorCodes
from hyperframe.frame import DataFrame, Frame, GoAwayFrame, HeadersFrame, PingFrame, RstStreamFrame, WindowUpdateFrame

from greendaphne.config import Limits, Timeouts
from greendaphne.core.message import ClientDisconnected, Request, ResponseError
from greendaphne.http2 import Http2Connection, Http2Limits, Http2Stream
from greendaphne.net.transport import Transport
from tests.support.http2 import GET, POST, Census, Fields, Http2Server, Peer, RawPeer, echo, eventually, forever, hello, serve_http2

OPEN = ("END_HEADERS",)


class Recorder:
    """An application that keeps its requests."""

    def __init__(self) -> None:
        self.requests: list[Request] = []

    def __call__(self, stream: Http2Stream) -> None:
        self.requests.append(stream.request)
        hello(stream)


def requested(fields: Fields, limits: Limits | None = None) -> Request:
    """The request that ``fields`` become."""
    recorder = Recorder()
    with serve_http2(recorder, limits=limits) as server, RawPeer(server) as peer:
        peer.send(peer.headers(1, fields))
        assert peer.status(1) == 200
    (request,) = recorder.requests
    return request


def refused(fields: Fields, limits: Limits | None = None) -> int:
    """The status that ``fields`` are refused with; the connection goes on."""
    recorder = Recorder()
    with serve_http2(recorder, limits=limits) as server, Peer(server) as peer:
        status = peer.get(fields)[0]
        assert peer.get()[0] == 200
    assert len(recorder.requests) == 1
    return status


# --- requests


def test_a_request() -> None:
    fields = [*GET[:2], (b":path", b"/a%20b?c=d?e"), GET[3], (b"accept", b"*/*"), (b"x-two", b"1"), (b"x-two", b"2")]
    request = requested(fields)
    assert request.method == "GET"
    assert request.http_version == "2"
    assert (request.target, request.path, request.query_string) == (b"/a%20b?c=d?e", b"/a%20b", b"c=d?e")
    assert request.headers == [(b"host", b"localhost"), (b"accept", b"*/*"), (b"x-two", b"1"), (b"x-two", b"2")]
    assert (request.content_length, request.upgrade) == (0, b"")
    assert request.connection.scheme == "http"


def test_the_host_comes_first_and_once() -> None:
    assert requested([*GET, (b"accept", b"*/*"), (b"host", b"LOCALHOST")]).headers == [(b"host", b"localhost"), (b"accept", b"*/*")]
    assert requested([*GET[:3], (b"accept", b"*/*"), (b"host", b"h:80")]).headers == [(b"host", b"h:80"), (b"accept", b"*/*")]
    # RFC 9113 section 8.3.1: compared after normalization (RFC 3986 section 6.2.3).
    for host in (b"localhost:80", b"localhost:", b"LOCALHOST:080"):
        assert requested([*GET, (b"host", host)]).headers == [(b"host", b"localhost")]
    assert requested([*GET[:3], (b":authority", b"[::1]:8000")]).headers == [(b"host", b"[::1]:8000")]


@pytest.mark.parametrize("value", [b"100-continue,", b",100-Continue", b"", b","])
def test_empty_elements_of_expect(value: bytes) -> None:
    assert requested([*GET, (b"expect", value)]).method == "GET"


def test_cookie_crumbs_are_joined() -> None:
    crumbs = [(b"cookie", b"a=1"), (b"accept", b"*/*"), (b"cookie", b"b=2"), (b"cookie", b"c=3")]
    assert requested([*GET, *crumbs]).headers == [(b"host", b"localhost"), (b"cookie", b"a=1; b=2; c=3"), (b"accept", b"*/*")]
    assert requested([*GET, (b"cookie", b"a=1")]).headers == [(b"host", b"localhost"), (b"cookie", b"a=1")]


def test_several_priority_fields_are_one() -> None:
    assert requested([*GET, (b"priority", b"u=1"), (b"priority", b"i")]).method == "GET"


def test_methods_are_upper_case() -> None:
    assert requested([(b":method", b"purge"), *GET[1:]]).method == "PURGE"


def test_options_for_the_server() -> None:
    request = requested([(b":method", b"OPTIONS"), GET[1], (b":path", b"*"), GET[3]])
    assert (request.method, request.path) == ("OPTIONS", b"*")


def test_high_octets_in_query_and_values() -> None:
    request = requested([*GET[:2], (b":path", b"/?q=\xe9"), GET[3], (b"x-name", b"J\xf6rg\tx")])
    assert request.query_string == b"q=\xe9"
    assert request.headers[1] == (b"x-name", b"J\xf6rg\tx")


def test_fields_with_a_meaning_for_connections_elsewhere() -> None:
    fields = [*GET, (b"te", b"trailers"), (b"content-length", b"0"), (b"priority", b"u=1")]
    assert requested(fields).headers == [(b"host", b"localhost"), *fields[4:]]


@pytest.mark.parametrize(
    ("fields", "status"),
    [
        ([*GET[:2], (b":path", b"/\xe9"), GET[3]], 400),
        ([*GET[:2], (b":path", b"/" + b"x" * 8190), GET[3]], 414),
        ([(b":method", b"CONNECT"), (b":authority", b"localhost:443")], 501),
        ([(b":method", b"CONNECT"), (b":protocol", b"connect-udp"), *GET[1:]], 501),
        ([*GET, (b"expect", b"something")], 417),
        ([*GET, (b"expect", b"100-continue, something")], 417),
        ([*GET, *[(b"x-%d" % n, b"") for n in range(200)]], 431),
        ([*GET, (b"x-long", b"x" * 16384)], 431),
        ([*GET, *[(b"x-%d" % n, b"x" * 9000) for n in range(9)]], 431),
    ],
)
def test_refused_requests(fields: Fields, status: int) -> None:
    assert refused(fields) == status


@pytest.mark.parametrize(
    ("fields", "status"),
    [
        (lambda more: [*GET[:2], (b":path", b"/" + b"x" * (29 + more)), GET[3]], 414),
        (lambda more: [*GET, *[(b"x-%d" % n, b"") for n in range(16 + more)]], 431),
        # A line of HTTP/1.1 has a colon and a blank, too.
        (lambda more: [*GET, (b"x-long", b"x" * (92 + more))], 431),
    ],
    ids=["target", "fields", "field"],
)
def test_requests_at_a_limit(fields: Callable[[int], Fields], status: int) -> None:
    limits = Limits(request_line=30, request_fields=20, request_field_size=100)
    with serve_http2(limits=limits) as server, RawPeer(server) as peer:
        peer.send(peer.headers(1, fields(0)))
        assert peer.status(1) == 200
        peer.send(peer.headers(3, fields(1)))
        assert peer.status(3) == status


def test_a_refused_head_request_has_no_body() -> None:
    with serve_http2() as server, RawPeer(server) as peer:
        peer.send(peer.headers(1, [(b":method", b"HEAD"), GET[1], (b":path", b"/\xe9"), GET[3]]))
        assert peer.status(1) == 400
        peer.alive()
        assert not [frame for frame in peer.frames if isinstance(frame, DataFrame)]


def test_a_refused_request_may_have_a_body() -> None:
    with serve_http2() as server, RawPeer(server) as peer:
        peer.send(peer.headers(1, [*POST, (b"expect", b"x")], OPEN), DataFrame(1, b"body", flags=["END_STREAM"]))
        assert peer.status(1) == 417
        peer.alive()


# --- bodies


def test_bodies_of_all_sizes() -> None:
    with serve_http2(echo) as server, Peer(server) as peer:
        for size in (0, 1, 16383, 16384, 16385, 65535, 65536, 1_000_003):
            body = bytes(range(251)) * (size // 251 + 1)
            assert peer.get(POST, body[:size])[2] == body[:size]


def test_content_length_is_known_where_announced() -> None:
    recorder = Recorder()
    with serve_http2(recorder) as server, Peer(server) as peer:
        peer.get([*POST, (b"content-length", b"3")], b"abc")
        peer.get(POST, b"abc")
        peer.get(POST)
    assert [request.content_length for request in recorder.requests] == [3, None, 0]


def test_read_takes_what_is_asked_for() -> None:
    def application(stream: Http2Stream) -> None:
        parts = []
        while data := stream.read(10):
            parts.append(data)
        stream.start(200, [])
        stream.finish(b"|".join(parts))

    with serve_http2(application) as server, RawPeer(server) as peer:
        peer.send(peer.headers(1, POST, OPEN), DataFrame(1, b"x" * 25, flags=["END_STREAM"]))
        assert peer.wait(DataFrame).data == b"|".join([b"x" * 10, b"x" * 10, b"x" * 5])


def test_a_read_with_a_timeout_loses_nothing() -> None:
    waited = threading.Event()

    def application(stream: Http2Stream) -> None:
        with pytest.raises(TimeoutError):
            stream.read(10, 0.01)
        waited.set()
        stream.start(200, [])
        stream.finish(stream.read(10) + stream.read(10, 0.01))

    with serve_http2(application) as server, RawPeer(server) as peer:
        peer.send(peer.headers(1, POST, OPEN))
        assert waited.wait(10)
        peer.send(DataFrame(1, b"abc", flags=["END_STREAM"]))
        assert peer.wait(DataFrame).data == b"abc"


def test_100_continue_comes_with_the_first_read() -> None:
    go = threading.Event()

    def application(stream: Http2Stream) -> None:
        while not go.is_set():
            gevent.sleep(0.01)
        echo(stream)

    with serve_http2(application) as server, RawPeer(server) as peer:
        peer.send(peer.headers(1, [*POST, (b"expect", b"100-Continue")], OPEN))
        peer.alive()
        assert not [frame for frame in peer.frames if isinstance(frame, HeadersFrame)]
        go.set()
        # The echo application has begun an answer then, which has not been sent yet.
        assert peer.status(1) == 100
        peer.send(DataFrame(1, b"body", flags=["END_STREAM"]))
        assert peer.status(1) == 200


def test_100_continue() -> None:
    def application(stream: Http2Stream) -> None:
        body = stream.read(100)
        stream.start(200, [])
        stream.finish(body)

    with serve_http2(application) as server, Peer(server) as peer:
        stream_id = peer.request([*POST, (b"expect", b"100-continue")], end=False)
        peer.wait(h2.events.InformationalResponseReceived, stream_id)
        peer.send(stream_id, b"body", end=True)
        assert peer.response(stream_id)[2] == b"body"


def test_no_100_continue_where_it_is_not_wanted_or_not_needed() -> None:
    def application(stream: Http2Stream) -> None:
        if stream.request.path == b"/early":
            stream.start(403, [])
            stream.finish(b"no")
        else:
            eventually(lambda: bool(stream._inbox))
            stream.start(200, [])
            stream.finish(stream.read(100))

    with serve_http2(application) as server, Peer(server) as peer:
        fields = [*POST[:2], (b":path", b"/early"), POST[3], (b"expect", b"100-continue")]
        stream_id = peer.request(fields, end=False)
        assert peer.response(stream_id)[0] == 403


def test_an_early_answer_ends_the_upload_without_an_error() -> None:
    def application(stream: Http2Stream) -> None:
        stream.start(413, [])
        stream.finish(b"too large")

    with serve_http2(application, timeouts=Timeouts(linger=0.1)) as server, RawPeer(server) as peer:
        peer.send(peer.headers(1, POST, OPEN), DataFrame(1, b"x" * 1000))
        assert peer.status(1) == 413
        assert "END_STREAM" in peer.wait(DataFrame).flags
        assert peer.reset(1) == ErrorCodes.NO_ERROR
        # What was under way is dropped without a word.
        peer.send(DataFrame(1, b"x" * 1000), DataFrame(1, b"", flags=["END_STREAM"]))
        peer.alive()
        assert not [frame for frame in peer.frames if isinstance(frame, RstStreamFrame)]


def test_a_client_that_ends_its_upload_after_an_early_answer_is_not_reset() -> None:
    def application(stream: Http2Stream) -> None:
        stream.start(413, [])
        stream.finish(b"too large")

    with serve_http2(application, timeouts=Timeouts(linger=0.2), max_concurrent_streams=4) as server, RawPeer(server) as peer:
        ends: list[Callable[[int], list[Frame]]] = [
            lambda n: [DataFrame(n, b"x" * 1000, flags=["END_STREAM"])],
            lambda n: [peer.headers(n, [(b"x-trailer", b"1")])],
            lambda n: [RstStreamFrame(n, error_code=ErrorCodes.CANCEL)],
        ]
        fields = [*POST, (b"content-length", b"5000")]
        for n, end in enumerate(ends):
            stream_id = 1 + 2 * n
            peer.send(peer.headers(stream_id, fields, OPEN), DataFrame(stream_id, b"x" * 1000))
            assert peer.status(stream_id) == 413
            peer.send(DataFrame(stream_id, b"x" * 1000), *end(stream_id))
        # Streams that are not ended count.
        for stream_id in (7, 9, 11, 13):
            peer.send(peer.headers(stream_id, fields, OPEN))
            assert peer.status(stream_id) == 413
        peer.send(peer.headers(15))
        assert peer.reset(15) == ErrorCodes.REFUSED_STREAM
        for stream_id in (7, 9, 11, 13):
            assert peer.reset(stream_id) == ErrorCodes.NO_ERROR
        peer.send(peer.headers(17))
        assert peer.status(17) == 413
        assert not [frame for frame in peer.frames if isinstance(frame, RstStreamFrame)]


def test_the_window_grows_while_the_application_keeps_up() -> None:
    with serve_http2(echo) as server, Peer(server) as peer:
        stream_id = peer.request(POST, end=False)
        stream = peer.h2.streams[stream_id]
        largest = 0
        for _ in range(100):
            peer.send(stream_id, b"x" * 65535)
            received = 0
            while received < 65535:
                received += len(peer.wait(h2.events.DataReceived, stream_id).data)
            largest = max(largest, stream.outbound_flow_control_window)
        most = server.http2_limits.upload_window_size
        assert most // 2 < largest <= most


# --- responses


def respond(*calls: tuple[Any, ...], method: bytes = b"GET") -> tuple[int, Fields, bytes]:
    """The response that a series of stream method calls make."""

    def application(stream: Http2Stream) -> None:
        for name, *arguments in calls:
            getattr(stream, name)(*arguments)

    with serve_http2(application) as server, Peer(server) as peer:
        return peer.get([(b":method", method), *GET[1:]])


def without_date(fields: Fields) -> Fields:
    assert [name for name, _ in fields].count(b"date") == 1
    return [field for field in fields if field[0] != b"date"]


def test_names_become_lower_case_and_connection_fields_are_dropped() -> None:
    headers = [
        (b"Content-Type", b"text/plain"),
        (b"Connection", b"close"),
        (b"Keep-Alive", b"timeout=5"),
        (b"Proxy-Connection", b"close"),
        (b"Transfer-Encoding", b"chunked"),
        (b"Upgrade", b"h2c"),
        (b"X-Test", b"a\tb \xe9"),
        (b"Set-Cookie", b"a=1"),
        (b"Set-Cookie", b"b=2"),
        (b"X-Empty", b""),
    ]
    status, fields, body = respond(("start", 200, headers), ("finish", b"x"))
    assert (status, body) == (200, b"x")
    assert without_date(fields) == [
        (b"content-type", b"text/plain"),
        (b"x-test", b"a\tb \xe9"),
        (b"set-cookie", b"a=1"),
        (b"set-cookie", b"b=2"),
        (b"x-empty", b""),
    ]


def test_the_applications_date_is_kept() -> None:
    _, fields, _ = respond(("start", 200, [(b"Date", b"today")]), ("finish",))
    assert fields == [(b"date", b"today")]


def test_pieces() -> None:
    assert respond(("start", 200, []), ("write", b"a"), ("write", b""), ("write", b"b" * 100_000), ("finish", b"c"))[2] == (
        b"a" + b"b" * 100_000 + b"c"
    )


def test_an_empty_write_sends_the_head() -> None:
    def application(stream: Http2Stream) -> None:
        stream.start(200, [])
        stream.write(b"")
        forever(stream)

    with serve_http2(application) as server, RawPeer(server) as peer:
        peer.send(peer.headers(1))
        assert peer.status(1) == 200


@pytest.mark.parametrize(("method", "status"), [(b"HEAD", 200), (b"GET", 204), (b"GET", 205), (b"GET", 304)])
def test_responses_without_content(method: bytes, status: int) -> None:
    headers = [(b"Content-Length", b"5")]
    for calls in ([("finish", b"hello")], [("write", b"hel"), ("write", b"lo"), ("finish",)], [("finish",)]):
        result = respond(("start", status, headers), *calls, method=method)
        assert result[0] == status
        assert result[2] == b""
        assert without_date(result[1]) == ([] if status in (204, 205) else [(b"content-length", b"5")])


def test_headers_alone_end_a_response_without_body() -> None:
    def application(stream: Http2Stream) -> None:
        stream.start(200, [])
        stream.finish()

    with serve_http2(application) as server, RawPeer(server) as peer:
        peer.send(peer.headers(1))
        frame = peer.wait(HeadersFrame)
        assert "END_STREAM" in frame.flags


def test_blanks_around_a_value_are_left_out() -> None:
    # Channels 1 writes cookies with a blank before them.
    result = respond(("start", 200, [(b"Set-Cookie", b" a=b; Path=/"), (b"X-Test", b"\tc d \t"), (b"X-Empty", b" ")]), ("finish",))
    assert without_date(result[1]) == [(b"set-cookie", b"a=b; Path=/"), (b"x-test", b"c d"), (b"x-empty", b"")]


@pytest.mark.parametrize(
    ("status", "headers"),
    [
        (199, []),
        (101, []),
        (1000, []),
        (200, [(b"X Test", b"1")]),
        (200, [(b"", b"1")]),
        (200, [(b":path", b"1")]),
        (200, [(b"X-T\xe9st", b"1")]),
        (200, [(b"X-Test", b"a\rb")]),
        (200, [(b"X-Test", b"a\nb")]),
        (200, [(b"X-Test", b"a\0b")]),
        (200, [(b"X-Test\r\nY", b"b")]),
        (200, [(b"X-Test", b"a\x7fb")]),
        (200, [(b"X-Test", b" a\n")]),
        (200, [(b"Content-Length", b"-1")]),
        (200, [(b"Content-Length", b"1"), (b"Content-Length", b"2")]),
    ],
)
def test_a_head_that_must_not_be_sent(status: int, headers: Fields) -> None:
    def application(stream: Http2Stream) -> None:
        with pytest.raises(ResponseError):
            stream.start(status, headers)
        assert stream.status == 0
        stream.start(500, [])
        stream.finish(b"instead")

    with serve_http2(application) as server, Peer(server) as peer:
        status, _, body = peer.get()
        assert (status, body) == (500, b"instead")


@pytest.mark.parametrize("data", [b"hell", b"hello!"])
def test_a_wrong_content_length_is_noticed_before_the_head_is_sent(data: bytes) -> None:
    status, _, _ = respond(("start", 200, [(b"Content-Length", b"5")]), ("finish", data))
    assert status == 500


@pytest.mark.parametrize(
    "calls", [[("write", b"hel"), ("finish", b"l")], [("write", b"hel"), ("write", b"lo!")], [("write", b"a"), ("finish",)]]
)
def test_a_wrong_content_length_resets_the_stream(calls: list[Any]) -> None:
    def application(stream: Http2Stream) -> None:
        stream.start(200, [(b"Content-Length", b"5")])
        for name, *arguments in calls:
            getattr(stream, name)(*arguments)

    with serve_http2(application) as server, RawPeer(server) as peer:
        peer.send(peer.headers(1))
        assert peer.reset(1) == ErrorCodes.INTERNAL_ERROR
        peer.alive()


def test_an_application_that_gives_up_halfway() -> None:
    def application(stream: Http2Stream) -> None:
        stream.start(200, [])
        stream.write(b"half")
        if stream.request.path == b"/reset":
            stream.reset()
            with pytest.raises(ClientDisconnected):
                stream.write(b"more")
            with pytest.raises(ClientDisconnected):
                stream.read(1)

    with serve_http2(application) as server, RawPeer(server) as peer:
        for stream_id, path in ((1, b"/reset"), (3, b"/return")):
            peer.send(peer.headers(stream_id, [*GET[:2], (b":path", path), GET[3]]))
            assert peer.reset(stream_id) == ErrorCodes.INTERNAL_ERROR
        peer.alive()


def test_what_cannot_be_sent_now() -> None:
    def application(stream: Http2Stream) -> None:
        for call in (stream.write, stream.finish):
            with pytest.raises(ResponseError, match="no response has been started"):
                call(b"x")
        stream.start(200, [])
        stream.write(b"a")
        with pytest.raises(ResponseError, match="has been started already"):
            stream.start(500, [])
        stream.finish(b"b")
        for call in (stream.write, stream.finish):
            with pytest.raises(ResponseError, match="complete"):
                call(b"x")

    with serve_http2(application) as server, Peer(server) as peer:
        assert peer.get()[2] == b"ab"
        peer.h2.ping(b"12345678")
        peer.flush()
        peer.wait(h2.events.PingAckReceived)


def test_large_heads_span_frames() -> None:
    value = b"x" * 50_000
    assert dict(respond(("start", 200, [(b"X-Large", value)]), ("finish", b"y"))[1])[b"x-large"] == value


# --- the client leaves


def test_a_watcher_learns_of_a_reset_and_of_the_end() -> None:
    with serve_http2(forever) as server:
        with RawPeer(server) as peer:
            peer.send(peer.headers(1), peer.headers(3))
            eventually(lambda: server.served == 2)
            peer.send(RstStreamFrame(1))
            eventually(lambda: server.disconnected == 1)
        eventually(lambda: server.disconnected == 2)


def test_whoever_waits_on_the_stream_learns_of_a_reset() -> None:
    def application(stream: Http2Stream) -> None:
        if stream.request.path == b"/read":
            stream.read(10)
        else:
            stream.start(200, [])
            stream.write(b"x" * 10_000_000)

    with serve_http2(application) as server, RawPeer(server) as peer:
        peer.send(peer.headers(1, [*POST[:2], (b":path", b"/read"), POST[3]], OPEN), peer.headers(3))
        eventually(lambda: server.served == 2)
        peer.wait(DataFrame)
        peer.send(RstStreamFrame(1), RstStreamFrame(3))
        eventually(lambda: server.disconnected == 2)
        peer.alive()


def test_gone() -> None:
    seen: list[bool] = []

    def application(stream: Http2Stream) -> None:
        seen.append(stream.gone(half_closed=True))
        try:
            forever(stream)
        finally:
            seen.append(stream.gone(half_closed=False))

    with serve_http2(application) as server, RawPeer(server) as peer:
        peer.send(peer.headers(1))
        eventually(lambda: len(seen) == 1)
        peer.send(RstStreamFrame(1))
        eventually(lambda: len(seen) == 2)
    assert seen == [False, True]


# --- several streams


def test_a_slow_stream_delays_no_other() -> None:
    def application(stream: Http2Stream) -> None:
        stream.start(200, [])
        stream.finish(b"x" * (1_000_000 if stream.request.path == b"/slow" else 50_000))

    with serve_http2(application) as server, RawPeer(server) as peer:
        peer.send(WindowUpdateFrame(0, 10_000_000), peer.headers(1, [*GET[:2], (b":path", b"/slow"), GET[3]]))
        assert peer.status(1) == 200
        # Its own window is used up and it waits.
        received = 0
        while received < 65535:
            received += len(peer.wait(DataFrame, lambda frame: frame.stream_id == 1).data)
        for stream_id in range(3, 43, 2):
            peer.send(peer.headers(stream_id))
            assert peer.status(stream_id) == 200
            body = b""
            while len(body) < 50_000:
                body += peer.wait(DataFrame, lambda frame, stream_id=stream_id: frame.stream_id == stream_id).data  # type: ignore[misc]


def in_order(peer: RawPeer, streams: int) -> list[int]:
    """The streams of the DATA frames that come until all have ended."""
    order = []
    while streams:
        frame = peer.wait(DataFrame)
        order.append(frame.stream_id)
        streams -= "END_STREAM" in frame.flags
    return order


def prioritized_downloads(priorities: list[bytes], updates: list[tuple[int, bytes]] = []) -> list[int]:  # noqa: B006 - not changed
    """Start downloads of 128 KiB that all wait for the connection's window; open it; in which order do they come?"""
    window = 2**31 - 1

    def application(stream: Http2Stream) -> None:
        stream.start(200, [])
        stream.finish(b"x" * 131072)

    with serve_http2(application) as server, RawPeer(server, settings={4: window}) as peer:
        # One download takes the whole connection window.
        peer.send(peer.headers(1))
        received = 0
        while received < 65535:
            received += len(peer.wait(DataFrame).data)
        for n, priority in enumerate(priorities):
            peer.send(peer.headers(3 + 2 * n, [*GET, *([(b"priority", priority)] if priority else [])]))
        for stream_id, value in updates:
            body = stream_id.to_bytes(4, "big") + value
            peer.sock.sendall(len(body).to_bytes(3, "big") + b"\x10\0\0\0\0\0" + body)
        peer.alive()
        eventually(lambda: len(server.connections[0].writer._blocked) == len(priorities) + 1)
        peer.send(WindowUpdateFrame(0, 2**30))
        order = in_order(peer, len(priorities) + 1)
    return [stream_id for stream_id in order if stream_id != 1]


def test_urgent_streams_go_first() -> None:
    order = prioritized_downloads([b"u=5", b"u=1", b"u=3"])
    assert order == sorted(order, key=[5, 7, 3].index)


def test_streams_that_are_not_incremental_go_one_by_one() -> None:
    order = prioritized_downloads([b"u=2", b"u=2", b"u=2"])
    assert order == sorted(order)


def test_incremental_streams_take_turns() -> None:
    order = prioritized_downloads([b"u=2, i", b"u=2, i", b"u=2,i=?1"])
    assert order[:6] == [3, 5, 7, 3, 5, 7]


def test_a_priority_update_changes_the_order() -> None:
    order = prioritized_downloads([b"u=1", b"u=2"], [(3, b"u=6"), (5, b"")])
    assert order == sorted(order, key=[5, 3].index)


def test_a_priority_update_may_come_before_its_request() -> None:
    def application(stream: Http2Stream) -> None:
        stream.start(200, [(b"x-priority", b"%d %d" % (stream.urgency, stream.incremental))])
        stream.finish()

    with serve_http2(application) as server, RawPeer(server) as peer:
        peer.sock.sendall(b"\0\0\x0a\x10\0\0\0\0\0" + b"\0\0\0\x01u=6, i")
        peer.send(peer.headers(1, [*GET, (b"priority", b"u=2")]), peer.headers(3, [*GET, (b"priority", b"u=2")]))
        assert (b"x-priority", b"6 1") in peer.fields(1)
        assert (b"x-priority", b"2 0") in peer.fields(3)


def test_the_applications_priority_counts_more() -> None:
    def application(stream: Http2Stream) -> None:
        stream.start(200, [(b"priority", b"u=0, i")])
        assert (stream.urgency, stream.incremental) == (0, True)
        stream.finish()

    with serve_http2(application) as server, RawPeer(server) as peer:
        peer.send(peer.headers(1, [*GET, (b"priority", b"u=5")]))
        assert peer.status(1) == 200


@pytest.mark.parametrize(
    ("stream_id", "body", "code"),
    [
        (1, b"\0\0\0\x01u=1", ErrorCodes.PROTOCOL_ERROR),
        (0, b"\0\0\x01", ErrorCodes.FRAME_SIZE_ERROR),
        (0, bytes(4), ErrorCodes.PROTOCOL_ERROR),
    ],
)
def test_malformed_priority_updates(stream_id: int, body: bytes, code: int) -> None:
    with serve_http2() as server, RawPeer(server) as peer:
        peer.sock.sendall(len(body).to_bytes(3, "big") + b"\x10\0" + stream_id.to_bytes(4, "big") + body)
        assert peer.goaway().error_code == code


def test_what_streams_do_at_once_leaves_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    sends: list[int] = []
    original = Transport.sendall

    def counting(self: Transport, data: bytes | bytearray | memoryview) -> None:
        sends.append(len(data))
        original(self, data)

    with serve_http2() as server, RawPeer(server) as peer:
        peer.alive()
        monkeypatch.setattr(Transport, "sendall", counting)
        peer.send(*[peer.headers(stream_id) for stream_id in range(1, 101, 2)])
        for stream_id in range(1, 101, 2):
            assert peer.status(stream_id) == 200
    # Fifty heads and bodies; the requests may have come in more than one segment.
    assert len(sends) <= 5


# --- tunnels (RFC 8441)

CONNECT: Fields = [(b":method", b"CONNECT"), (b":protocol", b"websocket"), (b":scheme", b"http"), (b":path", b"/ws"), GET[3]]


def tunnel(stream: Http2Stream) -> None:
    """Echoes what comes through a tunnel, then ends its side."""
    assert stream.request.upgrade == b"websocket"
    stream.switch([(b"sec-websocket-protocol", b"chat")])
    while data := stream.read(65536):
        stream.write(data)
    stream.finish(b"bye")


def test_a_tunnel() -> None:
    with serve_http2(tunnel) as server, RawPeer(server) as peer:
        peer.send(peer.headers(1, CONNECT, OPEN))
        fields = peer.fields(1)
        assert fields[0] == (b":status", b"200")
        assert (b"sec-websocket-protocol", b"chat") in fields
        for n in range(5):
            peer.send(DataFrame(1, b"ping %d" % n))
            assert peer.wait(DataFrame).data == b"ping %d" % n
        peer.send(DataFrame(1, b"", flags=["END_STREAM"]))
        last = peer.wait(DataFrame)
        assert last.data == b"bye"
        assert "END_STREAM" in last.flags
        peer.alive()
        assert not [frame for frame in peer.frames if isinstance(frame, RstStreamFrame)]


def test_a_tunnel_has_flow_control_both_ways() -> None:
    total = 3_000_000
    with serve_http2(tunnel) as server, Peer(server) as peer:
        stream_id = peer.request(CONNECT, end=False)
        peer.send(stream_id, b"x" * total)
        received = 0
        while received < total:
            received += len(peer.wait(h2.events.DataReceived, stream_id).data)


def test_a_tunnel_is_not_bound_to_a_bodys_time_limits() -> None:
    with serve_http2(tunnel, timeouts=Timeouts(body=0.05)) as server, RawPeer(server) as peer:
        peer.send(peer.headers(1, CONNECT, OPEN))
        assert peer.status(1) == 200
        threading.Event().wait(0.3)
        peer.send(DataFrame(1, b"still there"))
        assert peer.wait(DataFrame).data == b"still there"


def test_a_tunnel_that_the_server_leaves() -> None:
    def application(stream: Http2Stream) -> None:
        stream.switch([])
        if stream.request.path == b"/finish":
            stream.finish(b"enough")

    with serve_http2(application, timeouts=Timeouts(linger=0.1)) as server, RawPeer(server) as peer:
        peer.send(peer.headers(1, CONNECT, OPEN))
        assert peer.reset(1) == ErrorCodes.CANCEL
        peer.send(peer.headers(3, [*CONNECT[:3], (b":path", b"/finish"), CONNECT[4]], OPEN))
        assert "END_STREAM" in peer.wait(DataFrame).flags
        assert peer.reset(3) == ErrorCodes.NO_ERROR


def test_an_ended_tunnel_takes_nothing() -> None:
    def application(stream: Http2Stream) -> None:
        stream.switch([])
        stream.finish(b"")
        for call in (stream.write, stream.finish):
            with pytest.raises(ClientDisconnected):
                call(b"x")

    with serve_http2(application) as server, RawPeer(server) as peer:
        peer.send(peer.headers(1, CONNECT, OPEN))
        assert "END_STREAM" in peer.wait(DataFrame).flags
        peer.alive()


def test_a_tunnel_that_the_client_resets() -> None:
    with serve_http2(tunnel) as server, RawPeer(server) as peer:
        peer.send(peer.headers(1, CONNECT, OPEN))
        peer.status(1)
        peer.send(RstStreamFrame(1, error_code=ErrorCodes.CANCEL))
        eventually(lambda: server.disconnected == 1)


def test_a_client_that_has_left_a_tunnel_before_it_opened() -> None:
    seen: list[bool] = []

    def application(stream: Http2Stream) -> None:
        eventually_in_hub(lambda: stream.gone(half_closed=True))
        seen.append(stream.gone(half_closed=False))

    with serve_http2(application) as server, RawPeer(server) as peer:
        peer.send(peer.headers(1, CONNECT, OPEN), DataFrame(1, b"", flags=["END_STREAM"]))
        eventually(lambda: bool(seen))
    assert seen == [False]


def eventually_in_hub(condition: Any) -> None:
    """Wait in a greenlet."""
    with gevent.Timeout(10):
        while not condition():
            gevent.sleep(0.005)


# --- the end of a connection


def drain(server: Http2Server) -> None:
    for connection in list(server.connections):
        server.call(connection.drain)


def test_drain_warns_first_and_finishes_what_is_open() -> None:
    releases = {1: threading.Event(), 3: threading.Event()}

    def application(stream: Http2Stream) -> None:
        while not releases[stream.stream_id].is_set():
            gevent.sleep(0.01)
        hello(stream)

    with serve_http2(application) as server, RawPeer(server) as peer:
        peer.send(peer.headers(1))
        eventually(lambda: server.served == 1)
        drain(server)
        warning = peer.wait(GoAwayFrame)
        assert (warning.last_stream_id, warning.error_code) == (2**31 - 1, 0)
        ping = peer.wait(PingFrame)
        # A request that was under way is still answered, one behind the final GOAWAY is not.
        peer.send(peer.headers(3), PingFrame(opaque_data=ping.opaque_data, flags=["ACK"]))
        assert peer.wait(GoAwayFrame).last_stream_id == 3
        peer.send(peer.headers(5))
        assert peer.reset(5) == ErrorCodes.REFUSED_STREAM
        # One after the other: the fields of an answer refer to those of the answer before.
        for stream_id in (1, 3):
            releases[stream_id].set()
            assert peer.status(stream_id) == 200
            assert "END_STREAM" in peer.wait(DataFrame).flags
        while peer.recv() is not None:
            pass
        peer.sock.close()
        eventually(lambda: not server.connections)


def test_drain_of_an_idle_connection_without_an_answer() -> None:
    with serve_http2() as server, RawPeer(server) as peer:
        peer.alive()
        drain(server)
        assert peer.wait(GoAwayFrame).last_stream_id == 2**31 - 1
        assert peer.wait(GoAwayFrame).last_stream_id == 0
        while peer.recv() is not None:
            pass


def test_a_connection_drained_before_it_runs() -> None:
    with serve_http2() as server:
        original = Http2Connection.run

        def run(self: Http2Connection) -> None:
            self.drain()
            original(self)

        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(Http2Connection, "run", run)
            with RawPeer(server) as peer:
                assert peer.wait(GoAwayFrame).last_stream_id == 2**31 - 1
                assert peer.wait(GoAwayFrame).last_stream_id == 0


def test_a_killed_connection_takes_its_streams_with_it() -> None:
    killed = threading.Event()
    greenlets: list[Any] = []

    def application(stream: Http2Stream) -> None:
        greenlets.append(gevent.getcurrent())
        try:
            gevent.sleep(1000)
        finally:
            killed.set()

    with serve_http2(application) as server, RawPeer(server) as peer:
        peer.send(peer.headers(1))
        eventually(lambda: server.served == 1)
        peer.alive()
    # The server has stopped, which kills the connections' greenlets.
    assert killed.wait(10)
    assert greenlets[0].dead
    greenlets.clear()


# --- leaks


def test_nothing_is_left_behind() -> None:
    from gevent import Greenlet

    census = Census(Http2Stream, Http2Connection, Greenlet)
    with serve_http2(echo) as server:
        with Peer(server) as peer:
            peer.get(POST, b"x")
        eventually(lambda: not server.connections)
        eventually(lambda: census.new(Http2Stream) == 0)
        greenlets = census.new(Greenlet)
        for _ in range(10):
            with Peer(server) as peer:
                for size in (0, 10, 100_000):
                    peer.get(POST, b"x" * size)
                peer.request(POST, b"x" * 1000, end=False)
                peer.h2.reset_stream(peer.request(POST, b"x" * 1000, end=False))
                peer.flush()
        eventually(lambda: not server.connections)
        eventually(lambda: census.new(Http2Stream) == census.new(Http2Connection) == 0)
        eventually(lambda: census.new(Greenlet) == greenlets)


@pytest.mark.parametrize(
    "values",
    [
        {"max_concurrent_streams": 0},
        {"initial_window_size": 65534},
        {"initial_window_size": 2**31},
        {"max_frame_size": 16383},
        {"max_frame_size": 2**24},
        {"upload_window_size": 1},
        {"max_header_list_size": 10},
        {"write_buffer": 0},
        {"max_concurrent_streams": 100_000},
    ],
)
def test_limits_out_of_range(values: dict[str, int]) -> None:
    with pytest.raises(ValueError, match="must be"):
        Http2Limits(**values)  # type: ignore[arg-type]


def test_unknown_limits() -> None:
    with pytest.raises(TypeError):
        Http2Limits(unknown=1)  # type: ignore[call-arg]
