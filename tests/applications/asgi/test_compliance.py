"""What every ASGI server has to do alike, over HTTP/1.1 and HTTP/2; what one version alone does is in the other modules."""

from __future__ import annotations

import asyncio
import hashlib
from collections.abc import Iterator
from typing import Any

import pytest

from greendaphne.config import AsgiOptions
from tests.support.asgi import Recorder, answer, read_body, serve_asgi
from tests.support.both_versions import VERSIONS, Requester, Talk, requester
from tests.support.websocket import BINARY, CLOSE, TEXT, close_payload

START: dict[str, Any] = {"type": "http.response.start", "status": 200}
ACCEPT: dict[str, Any] = {"type": "websocket.accept"}


@pytest.fixture(params=VERSIONS)
def version(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture
def seen() -> Recorder:
    return Recorder()


# ---- scope


@pytest.fixture
def told(version: str, seen: Recorder) -> Iterator[Requester]:
    """A requester whose requests' scopes are in ``seen``."""

    async def application(scope: Any, receive: Any, send: Any) -> None:
        seen(scope)
        await answer(send)

    with serve_asgi(application, http2_cleartext=True) as server, requester(server, version) as found:
        yield found


@pytest.mark.parametrize("method", [b"GET", b"HEAD", b"POST", b"PUT", b"PATCH", b"DELETE", b"OPTIONS", b"PROPFIND", b"M-SEARCH"])
def test_methods(told: Requester, seen: Recorder, version: str, method: bytes) -> None:
    assert told.ask(method=method).status == 200
    scope = seen.next()
    assert scope["method"] == method.decode()
    assert scope["http_version"] == version
    assert scope["type"] == "http"


@pytest.mark.parametrize(
    ("target", "path", "raw", "query"),
    [
        (b"/", "/", b"/", b""),
        (b"/?", "/", b"/", b""),
        (b"/a?b?c", "/a", b"/a", b"b?c"),
        (b"/a?x=%E2%82%AC&y=%zz&z=+", "/a", b"/a", b"x=%E2%82%AC&y=%zz&z=+"),
        (b"/a%2Fb/c%3Fd", "/a/b/c?d", b"/a%2Fb/c%3Fd", b""),
        (b"/%E2%82%AC/%e2%82%ac", "/€/€", b"/%E2%82%AC/%e2%82%ac", b""),
        (b"/100%25", "/100%", b"/100%25", b""),
        (b"/%zz/%4", "/%zz/%4", b"/%zz/%4", b""),
        (b"/a//b/./../c", "/a//b/./../c", b"/a//b/./../c", b""),
        (b"/a+b;c=d,e", "/a+b;c=d,e", b"/a+b;c=d,e", b""),
    ],
)
def test_targets(told: Requester, seen: Recorder, target: bytes, path: str, raw: bytes, query: bytes) -> None:
    assert told.ask(target).status == 200
    scope = seen.next()
    assert (scope["path"], scope["raw_path"], scope["query_string"], scope["root_path"]) == (path, raw, query, "")
    assert (type(scope["path"]), type(scope["raw_path"]), type(scope["query_string"])) == (str, bytes, bytes)


def test_fields(told: Requester, seen: Recorder, version: str) -> None:
    fields = [
        (b"x-latin", b"caf\xe9 \xff"),
        (b"x-empty", b""),
        (b"x-two", b"1"),
        (b"x-list", b"a, b"),
        (b"x-two", b"2"),
        (b"proxy", b"kept"),
        (b"x-long", b"v" * 4000),
    ]
    # A proxy in front may not tell a name with an underscore from one with a hyphen.
    told.ask(headers=[*fields, (b"x_under", b"dropped")])
    scope = seen.next()
    assert scope["headers"] == [(b"host", b"a"), *fields]
    assert all(type(name) is type(value) is bytes for name, value in scope["headers"])
    # Names come in any case over HTTP/1.1; over HTTP/2 they are malformed then (RFC 9113 section 8.2.1).
    if version == "1.1":
        told.ask(headers=[(b"X-CamelCase", b"Kept")])
        assert (b"x-camelcase", b"Kept") in seen.next()["headers"]


def test_addresses(told: Requester, seen: Recorder) -> None:
    told.ask()
    scope = seen.next()
    for key in ("client", "server"):
        host, port = scope[key]
        assert (host, type(port)) == ("127.0.0.1", int)
    assert scope["client"] != scope["server"]
    assert scope["scheme"] == "http"


def test_the_application_may_change_its_scope(version: str, seen: Recorder) -> None:
    async def application(scope: Any, receive: Any, send: Any) -> None:
        seen({key: repr(value) for key, value in scope.items()})
        for value in scope.values():
            if isinstance(value, dict | list):
                value.clear()
        scope.clear()
        await answer(send)

    with serve_asgi(application, http2_cleartext=True) as server, requester(server, version) as client:
        for _ in range(2):
            assert client.ask().status == 200
    assert seen.next() == seen.next()


# ---- receive


@pytest.mark.parametrize("size", [0, 1, 65_536, 65_537, 1_000_000])
def test_bodies(version: str, seen: Recorder, size: int) -> None:
    async def application(scope: Any, receive: Any, send: Any) -> None:
        digest = hashlib.sha256()
        while True:
            event = await receive()
            assert set(event) == {"type", "body", "more_body"}
            assert event["type"] == "http.request"
            assert type(event["body"]) is bytes
            digest.update(event["body"])
            if not event["more_body"]:
                break
        await answer(send, digest.hexdigest().encode())

    data = bytes(number % 251 for number in range(size))
    with serve_asgi(application, http2_cleartext=True) as server, requester(server, version) as client:
        assert client.ask(method=b"POST", body=data).body.decode() == hashlib.sha256(data).hexdigest()
        # A message that the application does not read has no effect.
        assert client.ask(method=b"POST", body=data[:1000]).status == 200


def test_receive_after_the_response_is_a_disconnect_again_and_again(version: str, seen: Recorder) -> None:
    async def application(scope: Any, receive: Any, send: Any) -> None:
        await read_body(receive)
        await answer(send)
        for _ in range(3):
            seen(await receive())

    with serve_asgi(application, http2_cleartext=True) as server, requester(server, version) as client:
        assert client.ask(method=b"POST", body=b"data").status == 200
        assert [seen.next() for _ in range(3)] == [{"type": "http.disconnect"}] * 3


def test_receive_waits_while_the_client_waits(version: str, seen: Recorder) -> None:
    async def application(scope: Any, receive: Any, send: Any) -> None:
        await read_body(receive)
        waiting = asyncio.ensure_future(receive())
        done, _ = await asyncio.wait([waiting], timeout=0.1)
        seen(bool(done))
        await answer(send)
        seen(await waiting)

    with serve_asgi(application, http2_cleartext=True) as server, requester(server, version) as client:
        client.ask(method=b"POST", body=b"data")
        assert seen.next() is False
        assert seen.next() == {"type": "http.disconnect"}


# ---- send


def sending(seen: Recorder, *messages: Any) -> Any:
    """An application that sends messages and tells what each raised; ``None`` is nothing."""

    async def application(scope: Any, receive: Any, send: Any) -> None:
        for message in messages:
            try:
                await send(message)
            except Exception as error:  # noqa: BLE001 - which one is the question
                seen(type(error))
            else:
                seen(None)

    return application


@pytest.mark.parametrize(
    ("messages", "status", "raised"),
    [
        ([], 500, []),
        ([START], 500, [None]),
        ([{"type": "http.response.body", "body": b"x"}], 500, [RuntimeError]),
        ([{"type": "http.response.unknown"}, START, {"type": "http.response.body"}], 200, [ValueError, None, None]),
        ([{"type": "http.request"}, START, {"type": "http.response.body"}], 200, [ValueError, None, None]),
        ([{"type": "websocket.send", "text": "x"}], 500, [ValueError]),
        ([{"type": "lifespan.startup.complete"}], 500, [ValueError]),
        ([{}], 500, [KeyError]),
        ([{"type": "http.response.start"}], 500, [KeyError]),
        ([{"type": "http.response.start", "status": 99}], 500, ["any"]),
        ([{"type": "http.response.start", "status": 200.0}], 500, [TypeError]),
        ([{**START, "headers": [(b"a b", b"c")]}], 500, ["any"]),
        ([{**START, "headers": [(b"a", b"b\x00")]}], 500, ["any"]),
        ([{**START, "headers": [(b"", b"b")]}], 500, ["any"]),
        ([{**START, "headers": [(b"a", "b")]}], 500, [TypeError]),
        ([{**START, "headers": {b"a": b"b"}}], 500, ["any"]),
        # A message that was refused has no effect.
        ([{**START, "status": "200"}, {**START, "status": 201}, {"type": "http.response.body"}], 201, [TypeError, None, None]),
        ([START, {"type": "http.response.body", "body": 1}, {"type": "http.response.body"}], 200, [None, TypeError, None]),
        # What comes after the end is ignored.
        ([START, {"type": "http.response.body"}, {"type": "http.response.body"}, START, {"type": "nothing"}], 200, [None] * 5),
    ],
)
def test_messages(version: str, seen: Recorder, messages: list[Any], status: int, raised: list[Any]) -> None:
    with serve_asgi(sending(seen, *messages), http2_cleartext=True) as server, requester(server, version) as client:
        assert client.ask().status == status
        for expected in raised:
            found = seen.next()
            assert found is expected or (expected == "any" and found is not None)


def test_fields_of_the_response(version: str) -> None:
    fields = [
        [b"set-cookie", b"a=1"],
        (b"Set-Cookie", b"b=2"),
        (b"x-latin", b"caf\xe9"),
        (b"x-empty", b""),
        (b"content-type", b"text/plain"),
    ]

    async def application(scope: Any, receive: Any, send: Any) -> None:
        await answer(send, b"x", headers=fields)

    with serve_asgi(application, http2_cleartext=True) as server, requester(server, version) as client:
        found = client.ask()
        assert found.all(b"set-cookie") == [b"a=1", b"b=2"]
        assert found.all(b"x-latin") == [b"caf\xe9"]
        assert found.all(b"x-empty") == [b""]
        assert found.all(b"content-length") == [b"1"]
        assert len(found.all(b"date")) == 1
        assert not found.all(b"server")


def test_fields_of_the_connection_are_the_server_s(version: str) -> None:
    async def application(scope: Any, receive: Any, send: Any) -> None:
        fields = [(b"transfer-encoding", b"chunked"), (b"keep-alive", b"timeout=5"), (b"connection", b"keep-alive")]
        await send({**START, "headers": fields})
        await send({"type": "http.response.body", "body": b"a", "more_body": True})
        await send({"type": "http.response.body", "body": b"b"})

    with serve_asgi(application, http2_cleartext=True) as server, requester(server, version) as client:
        for _ in range(2):
            found = client.ask()
            assert (found.status, found.body, found.complete) == (200, b"ab", True)
            assert found.all(b"transfer-encoding") == ([b"chunked"] if version == "1.1" else [])
            if version == "2":
                assert not found.all(b"connection")
                assert not found.all(b"keep-alive")


def test_empty_pieces_do_not_end_a_body(version: str) -> None:
    async def application(scope: Any, receive: Any, send: Any) -> None:
        await send(START)
        for piece in (b"", b"a", b"", b"b", b""):
            await send({"type": "http.response.body", "body": piece, "more_body": True})
            await asyncio.sleep(0)
        await send({"type": "http.response.body", "more_body": False})

    with serve_asgi(application, http2_cleartext=True) as server, requester(server, version) as client:
        for _ in range(2):
            found = client.ask()
            assert (found.body, found.complete) == (b"ab", True)


@pytest.mark.parametrize("length", [True, False])
def test_large_body(version: str, length: bool) -> None:
    data = bytes(range(256)) * 8192

    async def application(scope: Any, receive: Any, send: Any) -> None:
        await send({**START, "headers": [(b"content-length", b"%d" % len(data))] if length else []})
        await send({"type": "http.response.body", "body": data})

    with serve_asgi(application, http2_cleartext=True) as server, requester(server, version) as client:
        assert client.ask().body == data


@pytest.mark.parametrize("status", [204, 304])
@pytest.mark.parametrize("method", [b"GET", b"HEAD", b"DELETE"])
@pytest.mark.parametrize("body", [b"", b"not allowed"])
def test_statuses_without_a_body(version: str, status: int, method: bytes, body: bytes) -> None:
    async def application(scope: Any, receive: Any, send: Any) -> None:
        await send({"type": "http.response.start", "status": status, "headers": [(b"etag", b'"x"')]})
        await send({"type": "http.response.body", "body": body[:3], "more_body": True})
        await send({"type": "http.response.body", "body": body[3:]})

    with serve_asgi(application, http2_cleartext=True) as server, requester(server, version) as client:
        # The next response on the connection begins where this one ends.
        for _ in range(2):
            found = client.ask(method=method)
            assert (found.status, found.body, found.complete, found.all(b"etag")) == (status, b"", True, [b'"x"'])
            assert not found.all(b"transfer-encoding")
            assert status == 304 or not found.all(b"content-length")


@pytest.mark.parametrize("length", [True, False])
def test_head_has_the_head_of_get(version: str, length: bool) -> None:
    async def application(scope: Any, receive: Any, send: Any) -> None:
        await send({**START, "headers": [(b"content-length", b"6")] if length else []})
        await send({"type": "http.response.body", "body": b"abc", "more_body": True})
        await send({"type": "http.response.body", "body": b"def"})

    with serve_asgi(application, http2_cleartext=True) as server, requester(server, version) as client:
        for _ in range(2):
            head, get = client.ask(method=b"HEAD"), client.ask()
            assert (head.body, get.body, head.status) == (b"", b"abcdef", 200)
            assert head.all(b"content-length") == get.all(b"content-length") == ([b"6"] if length else [])


@pytest.mark.parametrize("error", [None, ValueError("broken")], ids=["returns", "raises"])
def test_a_response_that_is_not_completed_is_cut_off(version: str, error: Exception | None) -> None:
    async def application(scope: Any, receive: Any, send: Any) -> None:
        await send(START)
        await send({"type": "http.response.body", "body": b"part", "more_body": True})
        await asyncio.sleep(0.01)
        if error is not None:
            raise error

    with serve_asgi(application, http2_cleartext=True) as server, requester(server, version) as client:
        found = client.ask()
        assert (found.status, found.body, found.complete) == (200, b"part", False)


# ---- WebSockets


def talking(*messages: Any, seen: Recorder | None = None, wait: bool = True) -> Any:
    """An application that sends messages after ``websocket.connect`` and then tells what it gets."""

    async def application(scope: Any, receive: Any, send: Any) -> None:
        assert await receive() == {"type": "websocket.connect"}
        for message in messages:
            if isinstance(message, Exception):
                raise message
            await send(message)
        while wait and seen is not None:
            event = await receive()
            seen(event)
            if event["type"] == "websocket.disconnect":
                break

    return application


def test_accept_with_fields_and_a_subprotocol(version: str) -> None:
    accept = {**ACCEPT, "subprotocol": "b", "headers": [(b"set-cookie", b"a=1"), (b"Set-Cookie", b"b=2"), [b"x-own", b"caf\xe9"]]}
    with serve_asgi(talking(accept, seen=Recorder()), http2_cleartext=True) as server:
        with Talk(server, version, [(b"sec-websocket-protocol", b"a, b")]) as talk:
            assert talk.open
            assert talk.all(b"sec-websocket-protocol") == [b"b"]
            assert talk.all(b"set-cookie") == [b"a=1", b"b=2"]
            assert talk.all(b"x-own") == [b"caf\xe9"]
        with Talk(server, version, [(b"sec-websocket-protocol", b"a")]) as talk:
            # What was not offered cannot be chosen.
            assert talk.status == 500


def test_accept_without_a_subprotocol(version: str) -> None:
    with (
        serve_asgi(talking({**ACCEPT, "subprotocol": None, "headers": []}, seen=Recorder()), http2_cleartext=True) as server,
        Talk(server, version, [(b"sec-websocket-protocol", b"a, b")]) as talk,
    ):
        assert talk.open
        assert not talk.all(b"sec-websocket-protocol")


def test_messages_of_both_kinds(version: str, seen: Recorder) -> None:
    sent = [
        {"type": "websocket.send", "text": "Grüße 🌱"},
        {"type": "websocket.send", "bytes": b"\x00\xff"},
        {"type": "websocket.send", "text": ""},
        {"type": "websocket.send", "bytes": b""},
        {"type": "websocket.send", "text": "x", "bytes": None},
        {"type": "websocket.send", "text": None, "bytes": b"y"},
    ]
    expected = [(TEXT, "Grüße 🌱".encode()), (BINARY, b"\x00\xff"), (TEXT, b""), (BINARY, b""), (TEXT, b"x"), (BINARY, b"y")]
    with serve_asgi(talking(ACCEPT, *sent, seen=seen), http2_cleartext=True) as server, Talk(server, version) as talk:
        assert [talk.receive() for _ in expected] == expected
        for opcode, payload in expected:
            talk.send(opcode, payload)
            event = seen.next()
            assert event["type"] == "websocket.receive"
            key, value = ("text", payload.decode()) if opcode == TEXT else ("bytes", payload)
            assert event[key] == value
            assert event.get("bytes" if key == "text" else "text") is None


@pytest.mark.parametrize(
    ("payload", "code", "reason"),
    [
        (b"", 1005, ""),
        (close_payload(1000), 1000, ""),
        (close_payload(1001, b"bye"), 1001, "bye"),
        (close_payload(4999, "ä".encode()), 4999, "ä"),
    ],
)
def test_disconnects(version: str, seen: Recorder, payload: bytes, code: int, reason: str) -> None:
    with serve_asgi(talking(ACCEPT, seen=seen), http2_cleartext=True) as server, Talk(server, version) as talk:
        talk.close(payload)
        assert seen.next() == {"type": "websocket.disconnect", "code": code, "reason": reason}
        assert talk.receive()[0] == CLOSE


@pytest.mark.parametrize(
    ("message", "payload"),
    [
        ({}, close_payload(1000)),
        ({"code": 1001}, close_payload(1001)),
        ({"code": 3000, "reason": "moved"}, close_payload(3000, b"moved")),
        ({"code": 4999, "reason": None}, close_payload(4999)),
        ({"code": 1013, "reason": ""}, close_payload(1013)),
    ],
)
def test_closes(version: str, seen: Recorder, message: dict[str, Any], payload: bytes) -> None:
    close = {"type": "websocket.close", **message}
    with serve_asgi(talking(ACCEPT, close, seen=seen), http2_cleartext=True) as server, Talk(server, version) as talk:
        assert talk.receive() == (CLOSE, payload)
        talk.close(payload)
        assert seen.next()["type"] == "websocket.disconnect"


@pytest.mark.parametrize(
    ("messages", "status"),
    [
        ([{"type": "websocket.close"}], 403),
        ([{"type": "websocket.close", "code": 4403, "reason": "no"}], 403),
        ([], 403),
        ([ValueError("broken")], 500),
        ([{"type": "websocket.send", "text": "early"}], 500),
        ([{"type": "websocket.http.response.body", "body": b"x"}], 500),
        # The start of a denial alone is no answer.
        ([{"type": "websocket.http.response.start", "status": 401}], 403),
    ],
)
def test_rejections(version: str, messages: list[Any], status: int) -> None:
    with serve_asgi(talking(*messages, wait=False), http2_cleartext=True) as server, Talk(server, version) as talk:
        assert talk.status == status


@pytest.mark.parametrize(("error", "code"), [(None, 1000), (ValueError("broken"), 1011)])
def test_an_application_that_ends(version: str, error: Exception | None, code: int) -> None:
    messages = [ACCEPT, {"type": "websocket.send", "text": "x"}, *([error] if error else [])]
    with serve_asgi(talking(*messages, wait=False), http2_cleartext=True) as server, Talk(server, version) as talk:
        assert talk.receive() == (TEXT, b"x")
        opcode, payload = talk.receive()
        assert (opcode, payload[:2]) == (CLOSE, close_payload(code))


def test_scope_of_a_websocket(version: str, seen: Recorder) -> None:
    async def application(scope: Any, receive: Any, send: Any) -> None:
        seen(scope)

    with (
        serve_asgi(application, http2_cleartext=True) as server,
        Talk(server, version, [(b"sec-websocket-protocol", b"a,b"), (b"x-own", b"1")], b"/a%20b?c=%20") as talk,
    ):
        assert talk.status == 403
        scope = seen.next()
    assert (scope["type"], scope["http_version"], scope["scheme"]) == ("websocket", version, "ws")
    assert (scope["path"], scope["raw_path"], scope["query_string"]) == ("/a b", b"/a%20b", b"c=%20")
    assert scope["subprotocols"] == ["a", "b"]
    assert (b"x-own", b"1") in scope["headers"]
    assert (b"host", b"a") in scope["headers"]
    assert not [name for name, _ in scope["headers"] if name.startswith(b":")]
    assert "method" not in scope


# ---- state


def test_state_is_a_copy_for_each_request_and_websocket(version: str, seen: Recorder) -> None:
    async def application(scope: Any, receive: Any, send: Any) -> None:
        if scope["type"] == "lifespan":
            await receive()
            scope["state"]["shared"] = []
            await send({"type": "lifespan.startup.complete"})
            await receive()
            seen(dict(scope["state"]))
            await send({"type": "lifespan.shutdown.complete"})
            return
        seen(sorted(scope["state"]))
        scope["state"]["mine"] = True
        scope["state"]["shared"].append(scope["type"])
        if scope["type"] == "http":
            await answer(send)

    with serve_asgi(application, asgi=AsgiOptions(), http2_cleartext=True) as server:
        with requester(server, version) as client:
            for _ in range(2):
                client.ask()
                assert seen.next() == ["shared"]
        with Talk(server, version):
            assert seen.next() == ["shared"]
    assert seen.next() == {"shared": ["http", "http", "websocket"]}
