"""Request lines that a parser has seen before: the request is the same, and what is refused stays refused."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import pytest

from greendaphne.config import Limits
from greendaphne.core.message import ConnectionInfo, HTTPError, Request
from greendaphne.http1 import head as module
from greendaphne.http1.head import HeadParser

INFO = ConnectionInfo("http", ["192.0.2.1", 40000], ["192.0.2.2", 80])


@pytest.fixture(autouse=True)
def nothing_remembered() -> Iterator[None]:
    module._lines.clear()
    yield
    module._lines.clear()


def parser(limits: Limits | None = None) -> HeadParser:
    return HeadParser(INFO, limits or Limits())


def parse(line: bytes, fields: bytes = b"", limits: Limits | None = None) -> Request:
    return parser(limits).parse(line + b"\r\nHost: example.org\r\n" + fields + b"\r\n")


@pytest.mark.parametrize(
    ("line", "expected"),
    [
        (b"GET / HTTP/1.1", ("GET", b"/", b"/", b"", "1.1")),
        (b"POST /a%20b?c=d?e HTTP/1.0", ("POST", b"/a%20b?c=d?e", b"/a%20b", b"c=d?e", "1.0")),
        (b"get /a HTTP/1.1", ("GET", b"/a", b"/a", b"", "1.1")),
        (b"BREW /pot HTTP/1.1", ("BREW", b"/pot", b"/pot", b"", "1.1")),
        (b"GET http://example.org/x?y HTTP/1.1", ("GET", b"http://example.org/x?y", b"/x", b"y", "1.1")),
        (b"OPTIONS * HTTP/1.1", ("OPTIONS", b"*", b"*", b"", "1.1")),
    ],
)
def test_the_same_request_each_time(line: bytes, expected: tuple[object, ...]) -> None:
    for _ in range(3):
        assert parse(line)[:5] == expected


def test_fields_and_body_belong_to_each_request() -> None:
    line = b"POST /form HTTP/1.1"
    assert parse(line, b"Content-Length: 3\r\n").content_length == 3
    assert parse(line, b"Transfer-Encoding: chunked\r\n").content_length is None
    assert parse(line).content_length == 0
    assert (b"x-number", b"2") in parse(line, b"X-Number: 2\r\n").headers
    assert parse(line, b"Connection: Upgrade\r\nUpgrade: websocket\r\n").upgrade == b"websocket"


def test_head_in_other_letters_ends_the_connection_each_time() -> None:
    for line, keeps in ((b"HEAD / HTTP/1.1", True), (b"head / HTTP/1.1", False)) * 2:
        one = parser()
        assert one.parse(line + b"\r\nHost: example.org\r\n\r\n").method == "HEAD"
        assert one.keep_alive is keeps


@pytest.mark.parametrize(
    ("line", "status"),
    [
        (b"CONNECT /a HTTP/1.1", 501),
        (b"connect /a HTTP/1.1", 501),
        (b"GET /\xc3\xa9 HTTP/1.1", 400),
        (b"GET  / HTTP/1.1", 400),
        (b"GET / HTTP/2.0", 505),
        (b"GET /#a HTTP/1.1", 400),
    ],
)
def test_refused_each_time(line: bytes, status: int) -> None:
    for _ in range(2):
        with pytest.raises(HTTPError) as caught:
            parse(line)
        assert caught.value.status == status
    assert not module._lines


def test_a_server_with_a_lower_limit_refuses_what_another_has_seen() -> None:
    line = b"GET /" + b"a" * 100 + b" HTTP/1.1"
    parse(line)
    with pytest.raises(HTTPError) as caught:
        parse(line, limits=Limits(request_line=len(line) - 1))
    assert caught.value.status == 414
    assert parse(line, limits=Limits(request_line=len(line))).method == "GET"


@pytest.mark.parametrize("line", [b"GET /#" + b"a" * 50 + b" HTTP/1.1", b"G(T /" + b"a" * 50 + b" HTTP/1.1"])
def test_a_line_that_is_malformed_and_too_long_is_too_long(line: bytes) -> None:
    for more, status in ((0, 400), (-1, 414)):
        with pytest.raises(HTTPError) as caught:
            parse(line, limits=Limits(request_line=len(line) + more))
        assert (caught.value.status, caught.value.close) == (status, True)


@pytest.mark.parametrize(
    ("limits", "fields"),
    [
        # Host is one.
        (Limits(request_fields=5), lambda more: b"".join(b"X-%d: 1\r\n" % n for n in range(4 + more))),
        (Limits(request_field_size=100), lambda more: b"X-Long: " + b"x" * (92 + more) + b"\r\n"),
    ],
    ids=["fields", "field"],
)
def test_fields_at_a_limit(limits: Limits, fields: Callable[[int], bytes]) -> None:
    for _ in range(2):
        parse(b"GET / HTTP/1.1", fields(0), limits)
        # Another parser may know the fields.
        parse(b"GET / HTTP/1.1", fields(1))
        with pytest.raises(HTTPError) as caught:
            parse(b"GET / HTTP/1.1", fields(1), limits)
        assert (caught.value.status, caught.value.close) == (431, True)


@pytest.mark.parametrize(
    ("method", "fields", "closes"),
    [
        (b"GET", b"", False),
        (b"POST", b"Content-Length: 0\r\n", False),
        (b"POST", b"Content-Length: 3\r\n", True),
        (b"POST", b"Transfer-Encoding: chunked\r\n", True),
        (b"GET", b"Connection: close\r\n", True),
        (b"HEAD", b"", True),
    ],
)
def test_a_path_beyond_ascii_ends_the_connection_only_where_more_may_follow(method: bytes, fields: bytes, closes: bool) -> None:
    for _ in range(2):
        with pytest.raises(HTTPError, match="Invalid characters in path") as caught:
            parse(method + b" /\xc3\xa4 HTTP/1.1", fields)
        assert (caught.value.status, caught.value.close) == (400, closes)


def test_number_and_length_are_bounded() -> None:
    one = parser()
    for number in range(2 * module._REMEMBERED_LINES):
        one.parse(b"GET /%d HTTP/1.1\r\nHost: example.org\r\n\r\n" % number)
        assert len(module._lines) <= module._REMEMBERED_LINES
    module._lines.clear()
    parse(b"GET /" + b"a" * module._REMEMBERED_LINE + b" HTTP/1.1")
    assert not module._lines


def test_a_full_table_takes_new_lines_after_many_unknown_ones() -> None:
    one = parser()
    wanted = b"GET /wanted HTTP/1.1\r\n"
    for number in range(module._REMEMBERED_LINES):
        one.parse(b"GET /%d HTTP/1.1\r\nHost: example.org\r\n\r\n" % number)
    for _ in range(module._UNKNOWN_LINES + 2):
        one.parse(b"GET /wanted HTTP/1.1\r\nHost: example.org\r\n\r\n")
        if wanted in module._lines:
            break
    assert wanted in module._lines


def test_the_same_head_again_gives_each_request_its_own_fields() -> None:
    limits = Limits()
    head = b"GET /again?a=b HTTP/1.1\r\nHost: example.org\r\nX-One: 1\r\n\r\n"
    seen: list[Request] = []
    for _ in range(5):
        one = parser(limits)
        request = one.parse(head)
        assert request.headers == [(b"host", b"example.org"), (b"x-one", b"1")]
        assert request[:4] == ("GET", b"/again?a=b", b"/again", b"a=b")
        assert one.keep_alive
        assert not one.expect_continue
        request.headers.append((b"x-added", b"by the application"))
        seen.append(request)
    assert module._latest[0] == head
    assert len({id(request.headers) for request in seen}) == 5


def test_the_same_head_again_keeps_what_it_says_of_the_connection() -> None:
    limits = Limits()
    closing = b"GET / HTTP/1.1\r\nHost: example.org\r\nConnection: close\r\n\r\n"
    staying = b"GET / HTTP/1.1\r\nHost: example.org\r\n\r\n"
    one = parser(limits)
    for head, stays in [(closing, False)] * 3 + [(staying, True)] * 3 + [(closing, False)] * 2:
        one.parse(head)
        assert one.keep_alive is stays


def test_a_server_with_a_lower_limit_refuses_the_same_head_again() -> None:
    limits = Limits()
    head = b"GET / HTTP/1.1\r\nHost: example.org\r\nX-One: 1\r\n\r\n"
    for _ in range(3):
        parser(limits).parse(head)
    with pytest.raises(HTTPError) as caught:
        parser(Limits(request_fields=1)).parse(head)
    assert caught.value.status == 431


def test_sections_are_remembered_beside_others_up_to_a_number(monkeypatch: pytest.MonkeyPatch) -> None:
    sections: dict[bytes, object] = {}
    monkeypatch.setattr(module, "_sections", sections)
    for number in range(module._REMEMBERED_SECTIONS):
        parse(b"GET / HTTP/1.1", b"Number: %d\r\n" % number)
        assert len(sections) == number + 1
    parse(b"GET / HTTP/1.1", b"Number: -1\r\n")
    assert len(sections) == 1
