"""The demo of ``make run``, over real connections: its pages, the stream, uploads and the chat."""

from __future__ import annotations

import hashlib
import json
import socket
import time
from collections.abc import Iterator
from contextlib import closing
from html.parser import HTMLParser
from typing import Any, NamedTuple

import pytest
import websocket

from greendaphne.demo import chat as chat_module
from greendaphne.demo import new_layer
from greendaphne.demo import site as site_module
from greendaphne.demo.chat import BURST, HISTORY, Chat
from greendaphne.demo.site import STREAM_LINES, Site
from tests.support.server import PATIENCE, Client, Response, RunningServer, serve

MIB = 1024 * 1024
STATIC = {
    "/static/demo.css": "text/css; charset=utf-8",
    "/static/demo.js": "text/javascript; charset=utf-8",
    "/static/chat.js": "text/javascript; charset=utf-8",
    "/static/leaf.svg": "image/svg+xml",
}


class Demo(NamedTuple):
    """The demo under test, with the server that runs it."""

    server: RunningServer
    site: Site


@pytest.fixture
def demo() -> Iterator[Demo]:
    site = Site(background_limit=2)
    with serve(new_layer(site, Chat()), inline_workers=4) as server:
        yield Demo(server, site)


def ask(client: Client, target: str, method: str = "GET", fields: str = "", body: bytes = b"") -> Response:
    length = f"Content-Length: {len(body)}\r\n" if body or method == "POST" else ""
    client.send(f"{method} {target} HTTP/1.1\r\nHost: demo.test\r\n{length}{fields}\r\n".encode() + body)
    return client.read_response(method)


def until_idle(site: Site) -> None:
    """Wait until no stream and no upload is under way."""
    end = time.monotonic() + PATIENCE
    while site.lasting:
        assert time.monotonic() < end, "an answer that nobody waits for goes on"
        time.sleep(0.01)


def make_endless(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let streams go on until their client leaves."""
    monkeypatch.setattr(site_module, "STREAM_LINES", 10**9)
    monkeypatch.setattr(site_module, "STREAM_PAUSE", 0.02)


class Links(HTMLParser):
    """Collects what a page refers to, and whatever its policy would forbid."""

    def __init__(self) -> None:
        super().__init__()
        self.references: set[str] = set()
        self.forbidden: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        for name, value in attrs:
            if name in ("href", "src") and value is not None:
                self.references.add(value)
            if name == "style" or name.startswith("on"):
                self.forbidden.append(f"{tag} {name}")
        if tag == "style" or (tag == "script" and "src" not in dict(attrs)):
            self.forbidden.append(tag)


def test_the_page_shows_the_request_that_asked_for_it(demo: Demo) -> None:
    with demo.server.connect() as client:
        response = ask(client, "/?q=%3Cb%3E", fields="X-Custom: one\r\nCookie: a=<script>alert(1)</script>\r\n")
        assert response.status == 200
        assert response.header("Content-Type") == "text/html; charset=utf-8"
        page = response.body.decode()
        assert "b&#x27;x-custom&#x27;" in page
        assert "&lt;script&gt;alert(1)" in page
        assert "<script>alert" not in page
        assert f"[&#x27;127.0.0.1&#x27;, {client.sock.getsockname()[1]}]" in page


def test_the_page_needs_nothing_that_the_policy_forbids_and_nothing_from_elsewhere(demo: Demo) -> None:
    with demo.server.connect() as client:
        response = ask(client, "/")
        policy = response.header("Content-Security-Policy")
        assert policy is not None
        assert policy.startswith("default-src 'none';")
        assert "unsafe" not in policy
        links = Links()
        links.feed(response.body.decode())
        assert links.forbidden == []
        page = response.body.decode()
        for reference in links.references:
            if reference.startswith("#"):
                assert f'id="{reference[1:]}"' in page
            elif not reference.startswith("https://"):
                assert reference.startswith(("/static/", "/?", "/stream"))
                assert ask(client, reference).status == 200


@pytest.mark.parametrize("method", ["GET", "HEAD"])
@pytest.mark.parametrize(
    ("target", "content_type"), [("/", "text/html; charset=utf-8"), ("/nothing", "text/html; charset=utf-8"), *STATIC.items()]
)
def test_every_answer_has_its_type_and_its_guards(demo: Demo, method: str, target: str, content_type: str) -> None:
    with demo.server.connect() as client:
        response = ask(client, target, method)
        assert response.status == (404 if target == "/nothing" else 200)
        assert response.header("Content-Type") == content_type
        assert response.header("X-Content-Type-Options") == "nosniff"
        assert response.header("Content-Security-Policy")
        assert int(response.header("Content-Length") or 0) > 0
        assert bool(response.body) == (method == "GET")


def test_a_static_file_that_the_browser_has_is_not_sent_again(demo: Demo) -> None:
    with demo.server.connect() as client:
        etag = ask(client, "/static/demo.css").header("ETag")
        response = ask(client, "/static/demo.css", fields=f"If-None-Match: {etag}\r\n")
        assert (response.status, response.body, response.header("ETag")) == (304, b"", etag)
        assert ask(client, "/static/demo.css", fields='If-None-Match: "another"\r\n').status == 200


@pytest.mark.parametrize(
    "target", ["/nothing", "/static/", "/static/../site.py", "/static/%2e%2e/site.py", "/templates/index.html", "/requests", "/chat"]
)
def test_there_is_nothing_else(demo: Demo, target: str) -> None:
    with demo.server.connect() as client:
        response = ask(client, target)
        assert response.status == 404
        assert b"<h1>Not Found</h1>" in response.body


@pytest.mark.parametrize(
    ("method", "target", "allow"), [("POST", "/", "GET, HEAD"), ("DELETE", "/static/demo.css", "GET, HEAD"), ("GET", "/upload", "POST")]
)
def test_other_methods_are_refused(demo: Demo, method: str, target: str, allow: str) -> None:
    with demo.server.connect() as client:
        response = ask(client, target, method)
        assert (response.status, response.header("Allow")) == (405, allow)


@pytest.mark.parametrize("method", ["GET", "POST", "PUT", "DELETE"])
def test_any_request_below_request_comes_back_as_a_table(demo: Demo, method: str) -> None:
    with demo.server.connect() as client:
        body = b"<i>" if method in ("POST", "PUT") else b""
        page = ask(client, "/request/caf%C3%A9?x=%3C", method, body=body).body.decode()
        assert f"&#x27;{method}&#x27;" in page
        assert "&#x27;/request/café&#x27;" in page
        assert "b&#x27;x=%3C&#x27;" in page
        assert ("b&#x27;&lt;i&gt;&#x27;" in page) == bool(body)
        assert "<i>" not in page


def test_a_long_value_is_shortened(demo: Demo) -> None:
    with demo.server.connect() as client:
        page = ask(client, "/request", fields=f"X-Long: {'x' * 8000}\r\n").body.decode()
        assert "(8003 characters)" in page
        assert "x" * 1000 not in page


def test_the_stream_arrives_line_by_line(demo: Demo, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(site_module, "STREAM_PAUSE", 0.1)
    with demo.server.connect() as client:
        client.send(b"GET /stream HTTP/1.1\r\nHost: demo.test\r\n\r\n")
        assert client.read_head().header("Content-Type") == "text/plain; charset=utf-8"
        first = client.read_chunk()
        assert first.startswith(b"line  1 of 12")
        assert demo.site.lasting == 1, "the consumer is still at it: this line came alone"
        lines = [first]
        while chunk := client.read_chunk():
            lines.append(chunk)
        assert len(b"".join(lines).splitlines()) == STREAM_LINES
    until_idle(demo.site)


def test_the_stream_ends_when_nobody_listens(demo: Demo, monkeypatch: pytest.MonkeyPatch) -> None:
    make_endless(monkeypatch)
    with demo.server.connect() as client:
        client.send(b"GET /stream HTTP/1.1\r\nHost: demo.test\r\n\r\n")
        client.read_head()
        client.read_chunk()
    until_idle(demo.site)


def test_streams_are_bounded_and_do_not_hold_up_the_rest(demo: Demo, monkeypatch: pytest.MonkeyPatch) -> None:
    make_endless(monkeypatch)
    with demo.server.connect() as one, demo.server.connect() as two, demo.server.connect() as three:
        for client in (one, two):
            client.send(b"GET /stream HTTP/1.1\r\nHost: demo.test\r\n\r\n")
            client.read_head()
        response = ask(three, "/stream")
        assert (response.status, response.header("Retry-After")) == (503, "5")
        assert ask(three, "/").status == 200
    until_idle(demo.site)


def test_the_head_of_the_stream(demo: Demo) -> None:
    with demo.server.connect() as client:
        assert ask(client, "/stream", "HEAD").status == 200
        assert ask(client, "/").status == 200


def test_a_failure_in_the_background_is_answered(demo: Demo, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture) -> None:
    def fail(number: int) -> bytes:
        raise RuntimeError("a secret")

    monkeypatch.setattr(site_module, "_line", fail)
    with demo.server.connect() as client:
        response = ask(client, "/stream")
    assert response.status == 500
    assert b"secret" not in response.body
    assert "a secret" in caplog.text


@pytest.mark.parametrize("size", [0, 5, MIB, MIB + 1, 5 * MIB])
def test_an_upload_is_digested(demo: Demo, size: int) -> None:
    body = bytes(range(256)) * (size // 256) + b"x" * (size % 256)
    with demo.server.connect() as client:
        answer = json.loads(ask(client, "/upload", "POST", body=body).body)
    assert answer["size"] == size
    assert answer["sha256"] == hashlib.sha256(body).hexdigest()
    assert (answer["pieces"] > 0) == (size > MIB)


def test_an_upload_that_is_broken_off_leaves_nothing_behind() -> None:
    site = Site()
    with serve(new_layer(site, Chat()), inline_workers=1, stream_request_body=True) as server:
        with server.connect() as client:
            client.send(b"POST /upload HTTP/1.1\r\nHost: demo.test\r\nContent-Length: %d\r\n\r\n" % (8 * MIB) + bytes(2 * MIB))
            end = time.monotonic() + PATIENCE
            while not site.lasting:
                assert time.monotonic() < end, "the upload did not begin"
                time.sleep(0.01)
        until_idle(site)
        with server.connect() as client:
            assert ask(client, "/").status == 200


# The chat


def join(demo: Demo, path: str = "/chat", origin: str | None = None) -> websocket.WebSocket:
    url = f"ws://{demo.server.host}:{demo.server.port}{path}"
    return websocket.create_connection(url, timeout=PATIENCE, origin=origin or demo.server.url)


def hear(member: websocket.WebSocket, kind: str) -> dict[str, Any]:
    """The next thing of this kind that ``member`` is told."""
    while True:
        message = json.loads(member.recv())
        if message["kind"] == kind:
            return dict(message)


def say(member: websocket.WebSocket, text: str, name: str = "Ada") -> None:
    member.send(json.dumps({"name": name, "text": text}))


def test_what_is_said_reaches_everyone(demo: Demo) -> None:
    with closing(join(demo)) as ada, closing(join(demo)) as bob:
        mark = hear(ada, "welcome")["you"]
        assert hear(bob, "welcome")["you"] != mark
        say(ada, "Hello <b>Bob</b> \U0001f33f")
        for member in (ada, bob):
            message = hear(member, "message")
            assert (message["from"], message["name"], message["text"]) == (mark, "Ada", "Hello <b>Bob</b> \U0001f33f")
            assert abs(message["time"] - time.time()) < PATIENCE


def test_everyone_is_told_how_many_are_here(demo: Demo) -> None:
    with closing(join(demo)) as ada:
        assert hear(ada, "welcome")["people"] == 1
        assert hear(ada, "people")["people"] == 1
        with closing(join(demo)) as bob:
            assert hear(bob, "welcome")["people"] == 2
            assert hear(ada, "people")["people"] == 2
        assert hear(ada, "people")["people"] == 1


def test_who_comes_later_reads_the_last_messages(demo: Demo, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(chat_module, "INTERVAL", 1e-9)
    with closing(join(demo)) as ada:
        for number in range(HISTORY + 3):
            say(ada, f"message {number}")
            assert hear(ada, "message")["text"] == f"message {number}"
    with closing(join(demo)) as bob:
        history = hear(bob, "welcome")["history"]
    assert [entry["text"] for entry in history] == [f"message {number}" for number in range(3, HISTORY + 3)]


def test_a_flood_is_stopped_for_the_one_who_makes_it(demo: Demo) -> None:
    with closing(join(demo)) as ada, closing(join(demo)) as bob:
        for number in range(BURST + 3):
            say(ada, f"message {number}")
        assert "slower" in hear(ada, "refused")["reason"]
        say(bob, "I am still heard", "Bob")
        while hear(ada, "message")["text"] != "I am still heard":
            pass


@pytest.mark.parametrize("sent", ["no json", json.dumps({"name": "Ada", "text": "x" * 501}), "[" * 7000])
def test_what_cannot_be_taken_is_refused_and_the_connection_goes_on(demo: Demo, sent: str) -> None:
    with closing(join(demo)) as ada:
        ada.send(sent)
        assert hear(ada, "refused")["reason"]
        ada.send_binary(b"\x00\xff")
        assert hear(ada, "refused")["reason"]
        say(ada, "still here")
        assert hear(ada, "message")["text"] == "still here"


@pytest.mark.parametrize(("path", "origin"), [("/elsewhere", None), ("/chat", "http://evil.example")])
def test_other_handshakes_are_rejected(demo: Demo, path: str, origin: str | None) -> None:
    with pytest.raises(websocket.WebSocketBadStatusException, match="403"):
        join(demo, path, origin)


def test_a_full_room_turns_away(demo: Demo, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(chat_module, "ROOM_LIMIT", 1)
    with closing(join(demo)) as ada:
        with pytest.raises(websocket.WebSocketBadStatusException, match="403"):
            join(demo)
        say(ada, "alone")
        assert hear(ada, "message")["text"] == "alone"


def test_who_is_cut_off_has_left(demo: Demo) -> None:
    with closing(join(demo)) as ada:
        hear(ada, "people")
        bob = join(demo)
        assert hear(ada, "people")["people"] == 2
        assert bob.sock is not None
        bob.sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\x01\x00\x00\x00\x00\x00\x00\x00")
        bob.sock.close()
        assert hear(ada, "people")["people"] == 1
