"""WebSockets and the channel layer: the messages, their order, replies in every state, and the one disconnect at the end."""

from __future__ import annotations

import socket
import struct
from collections.abc import Iterator
from typing import Any

import pytest
from websockets.exceptions import ConnectionClosed, InvalidStatus
from websockets.sync.client import ClientConnection, connect

from greendaphne.config import MIB, Limits, Timeouts
from greendaphne.layers.memory import MemoryChannelLayer
from tests.support.bridge import KEY, handshake, open_websocket, read_frame
from tests.support.server import Client, Response, RunningServer, serve


def frame(opcode: int, payload: bytes) -> bytes:
    """A masked client frame of less than 64 KiB."""
    mask = b"\1\2\3\4"
    length = bytes([0x80 | len(payload)]) if len(payload) < 126 else b"\xfe" + struct.pack("!H", len(payload))
    return bytes([0x80 | opcode]) + length + mask + bytes(byte ^ mask[n % 4] for n, byte in enumerate(payload))


def disconnect(server: RunningServer) -> dict[str, Any]:
    """The disconnect message, of which there must be no second."""
    message = server.app.receive("websocket.disconnect")[1]
    assert server.app.drain("websocket.disconnect") == []
    return message


# ---- connecting


def test_connect_message(client: Client, server: RunningServer) -> None:
    client.send(
        handshake(
            b"/w%20s/%C3%A9?a=b",
            b"Cookie: a=1",
            b"X_Y: z",
            b"Cookie: b=2",
            b"Origin: http://a",
            b"Daphne-Root-Path: /r",
            b"Sec-WebSocket-Protocol: p",
        )
    )
    _, message = server.app.receive("websocket.connect")
    assert message == {
        "reply_channel": message["reply_channel"],
        "scheme": "ws",
        "path": "/w s/é",
        "root_path": "/r",
        "query_string": b"a=b",
        "headers": [
            (b"host", b"a"),
            (b"connection", b"Upgrade"),
            (b"upgrade", b"websocket"),
            (b"sec-websocket-key", KEY),
            (b"sec-websocket-version", b"13"),
            (b"cookie", b"a=1"),
            (b"cookie", b"b=2"),
            (b"origin", b"http://a"),
            (b"sec-websocket-protocol", b"p"),
        ],
        "client": ["127.0.0.1", client.sock.getsockname()[1]],
        "server": ["127.0.0.1", server.port],
        "order": 0,
    }
    assert [type(message[key]) for key in ("reply_channel", "scheme", "path", "root_path", "query_string")] == [str, str, str, str, bytes]


def test_answer_of_the_opening_handshake(client: Client, server: RunningServer) -> None:
    """In daphne's order; nothing is sent before the application accepts."""
    client.send(handshake())
    _, message = server.app.receive("websocket.connect")
    client.sock.settimeout(0.2)
    with pytest.raises(TimeoutError):
        client.sock.recv(1)
    client.sock.settimeout(20)
    server.app.reply(message, accept=True)
    head = client.read_head().head
    lines = head.split(b"\r\n")
    assert lines[:4] == [b"HTTP/1.1 101 Switching Protocols", b"Server: Daphne", b"Upgrade: WebSocket", b"Connection: Upgrade"]
    assert lines[4].startswith(b"Sec-WebSocket-Accept: ")
    assert lines[5:] == [b"", b""]


def test_server_name_on_the_handshake() -> None:
    with serve(server_name="other") as server, server.connect() as client:
        client.send(handshake())
        server.app.reply(server.app.receive("websocket.connect")[1], accept=True)
        assert client.read_head().header("Server") == "other"


@pytest.mark.parametrize(
    ("offered", "reply", "chosen"),
    [
        (b"x, b, a", {"accept": True}, "b"),
        (b"x", {"accept": True}, None),
        (b"x, b", {"accept": True, "subprotocol": "x"}, "x"),
    ],
)
def test_subprotocols(offered: bytes, reply: dict[str, Any], chosen: str | None) -> None:
    with serve(ws_protocols=["a", "b"]) as server, server.connect() as client:
        client.send(handshake(b"/", b"Sec-WebSocket-Protocol: " + offered))
        server.app.reply(server.app.receive("websocket.connect")[1], **reply)
        assert client.read_head().header("Sec-WebSocket-Protocol") == chosen


@pytest.mark.parametrize("name", ["y", "x\r\nX-Evil: 1", "", "x y"])
def test_subprotocol_that_was_not_offered(server: RunningServer, client: Client, name: str) -> None:
    client.send(handshake(b"/", b"Sec-WebSocket-Protocol: x"))
    server.app.reply(server.app.receive("websocket.connect")[1], accept=True, subprotocol=name)
    response = client.read_response()
    assert response.status == 500
    assert response.header("X-Evil") is None
    assert disconnect(server)["code"] == 1006


@pytest.mark.parametrize(
    "reply", [{"accept": False}, {"close": True}, {"close": 4000}, {"accept": False, "text": "x"}, {"accept": False, "close": True}]
)
def test_rejected(server: RunningServer, reply: dict[str, Any]) -> None:
    with server.connect() as client:
        client.send(handshake())
        _, message = server.app.receive("websocket.connect")
        server.app.reply(message, **reply)
        response = client.read_response()
        assert (response.status, response.reason, response.body) == (403, "Access denied", b"")
        assert client.at_eof()
    assert disconnect(server) == {"reply_channel": message["reply_channel"], "code": 1006, "path": "/ws", "order": 1}


@pytest.mark.parametrize(
    ("reply", "frames"),
    [
        ({"accept": True}, []),
        ({"text": "hi"}, [(1, b"hi")]),
        ({"bytes": b"hi"}, [(2, b"hi")]),
        ({"accept": True, "text": "hi"}, [(1, b"hi")]),
        ({"text": "hi", "close": True}, [(1, b"hi"), (8, b"\x03\xe8")]),
        ({"bytes": b"hi", "close": 4000}, [(2, b"hi"), (8, b"\x0f\xa0")]),
        ({"accept": True, "close": 4000}, [(8, b"\x0f\xa0")]),
        ({"accept": True, "text": ""}, []),
    ],
)
def test_accepted(server: RunningServer, client: Client, reply: dict[str, Any], frames: list[tuple[int, bytes]]) -> None:
    message = open_websocket(server, client, **reply)
    if not reply.get("close"):
        server.app.reply(message, text="end")
        frames = [*frames, (1, b"end")]
    assert [read_frame(client) for _ in frames] == frames


@pytest.mark.parametrize(
    "reply", [{}, {"text": ""}, {"bytes": b""}, {"id": 1, "accept": True}, {"accept": True, "text": "a", "bytes": b"b"}, {"text": b"x"}]
)
def test_replies_that_leave_it_connecting(server: RunningServer, client: Client, reply: dict[str, Any]) -> None:
    client.send(handshake())
    _, message = server.app.receive("websocket.connect")
    server.app.reply(message, **reply)
    server.app.reply(message, accept=True)
    assert client.read_head().status == 101
    server.app.reply(message, text="first")
    assert read_frame(client) == (1, b"first")


def test_bad_handshakes_do_not_reach_the_application(server: RunningServer) -> None:
    def answer(data: bytes) -> Response:
        with server.connect() as client:
            client.send(data)
            return client.read_response()

    response = answer(handshake(version=b"99"))
    assert (response.status, response.header("Sec-WebSocket-Version")) == (426, "13")
    assert answer(handshake().replace(b"Connection: Upgrade\r\n", b"")).status == 400
    assert answer(handshake().replace(b"GET", b"POST")).status == 405
    assert answer(handshake().replace(KEY, b"short")).status == 400
    assert answer(handshake(b"/", b"Origin: http://a", b"Origin: http://b")).status == 400
    assert server.app.drain("websocket.connect") == server.app.drain("websocket.disconnect") == []


@pytest.mark.parametrize("byte", [*range(9), *range(10, 32), 127])
def test_no_byte_in_a_value_makes_a_header(server: RunningServer, byte: int) -> None:
    with server.connect() as client:
        client.send(handshake(b"/", b"X-A: a" + bytes([byte]) + b"cookie: sessionid=evil"))
        assert client.read_response().status == 400
    assert server.app.drain("websocket.connect") == []


def test_high_bytes_in_values_stay_where_they_are(server: RunningServer, client: Client) -> None:
    value = b"a\x85cookie: evil\xa0\xff"
    client.send(handshake(b"/", b"X-A: " + value))
    message = server.app.receive("websocket.connect")[1]
    assert message["headers"][-1] == (b"x-a", value)
    assert all(name != b"cookie" for name, _ in message["headers"])


def test_other_upgrades_are_requests(server: RunningServer, client: Client) -> None:
    client.send(handshake().replace(b"Upgrade: websocket", b"Upgrade: websocket, foo"))
    server.app.answer(b"plain")
    assert client.read_response().body == b"plain"


@pytest.mark.parametrize("value", [b"websocket,", b", WebSocket"])
def test_empty_elements_of_upgrade(server: RunningServer, client: Client, value: bytes) -> None:
    client.send(handshake().replace(b"Upgrade: websocket", b"Upgrade: " + value))
    server.app.reply(server.app.receive("websocket.connect")[1], accept=True)
    assert client.read_head().status == 101


def test_upgrade_behind_a_pending_request(server: RunningServer, client: Client) -> None:
    """daphne answered the opening handshake first."""
    client.send(b"GET / HTTP/1.1\r\nHost: a\r\n\r\n" + handshake())
    request = server.app.request()
    assert server.app.drain("websocket.connect") == []
    server.app.reply(request, status=200, content=b"first")
    assert client.read_response().body == b"first"
    server.app.reply(server.app.receive("websocket.connect")[1], accept=True)
    assert client.read_head().status == 101


# ---- open


def test_messages(server: RunningServer, client: Client) -> None:
    message = open_websocket(server, client)
    expected = {"reply_channel": message["reply_channel"], "path": "/ws"}
    cases: list[tuple[int, bytes, dict[str, Any]]] = [
        (1, b"hi", {"text": "hi"}),
        (2, b"\0\xff", {"bytes": b"\0\xff"}),
        (1, b"", {"text": ""}),
        (2, b"", {"bytes": b""}),
        (1, "é".encode(), {"text": "é"}),
    ]
    for order, (opcode, payload, content) in enumerate(cases, 1):
        client.send(frame(opcode, payload))
        assert server.app.receive("websocket.receive")[1] == {**expected, "order": order, **content}
    for content, sent in (({"text": ""}, (1, b"")), ({"bytes": b""}, (2, b"")), ({"text": "é", "bytes": None}, (1, "é".encode()))):
        server.app.reply(message, **content)
        assert read_frame(client) == sent


def test_frames_in_the_handshakes_segment(server: RunningServer, client: Client) -> None:
    """daphne lost them."""
    client.send(handshake() + frame(1, b"early") + frame(1, b"bird"))
    _, message = server.app.receive("websocket.connect")
    server.app.reply(message, accept=True)
    assert client.read_head().status == 101
    received = [server.app.receive("websocket.receive")[1] for _ in range(2)]
    assert [(item["order"], item["text"]) for item in received] == [(1, "early"), (2, "bird")]


@pytest.mark.parametrize(
    "reply",
    [
        {"text": "a", "bytes": b"b"},
        {"what": 1},
        {"close": 9},
        {"close": 1005},
        {"close": "x"},
        {"accept": False},
        {"accept": True},
        {"text": b"x"},
    ],
)
def test_replies_that_change_nothing(server: RunningServer, client: Client, reply: dict[str, Any]) -> None:
    message = open_websocket(server, client)
    server.app.reply(message, **reply)
    server.app.reply(message, text="still here")
    assert read_frame(client) == (1, b"still here")


@pytest.mark.parametrize(("code", "sent"), [(True, 1000), (1000, 1000), (3000, 3000), (4999, 4999)])
def test_application_closes(server: RunningServer, client: Client, code: Any, sent: int) -> None:
    message = open_websocket(server, client)
    server.app.reply(message, text="bye", close=code)
    assert read_frame(client) == (1, b"bye")
    assert read_frame(client) == (8, struct.pack("!H", sent))
    client.send(frame(8, struct.pack("!H", sent)))
    assert disconnect(server) == {"reply_channel": message["reply_channel"], "code": sent, "path": "/ws", "order": 1}
    assert client.at_eof()


@pytest.mark.parametrize(
    ("payload", "code", "echo"),
    [
        (struct.pack("!H", 4000) + b"why", 4000, struct.pack("!H", 4000)),
        (struct.pack("!H", 1001), 1001, struct.pack("!H", 1001)),
        (b"", 1005, b""),
        (struct.pack("!H", 1005), 1002, struct.pack("!H", 1002)),
        (struct.pack("!H", 999), 1002, struct.pack("!H", 1002)),
    ],
)
def test_client_closes(server: RunningServer, client: Client, payload: bytes, code: int, echo: bytes) -> None:
    message = open_websocket(server, client)
    client.send(frame(1, b"x") + frame(8, payload))
    opcode, answer = read_frame(client)
    assert (opcode, answer[:2]) == (8, echo)
    assert client.at_eof()
    ended = disconnect(server)
    assert ended == {"reply_channel": message["reply_channel"], "code": code, "path": "/ws", "order": 2}
    assert type(ended["code"]) is int


@pytest.mark.parametrize("reset", [False, True])
def test_client_vanishes(server: RunningServer, reset: bool) -> None:
    with server.connect() as client:
        open_websocket(server, client)
        if reset:
            client.sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    assert disconnect(server)["code"] == 1006


def test_client_vanishes_while_connecting(server: RunningServer) -> None:
    with server.connect() as client:
        client.send(handshake())
        server.app.receive("websocket.connect")
    ended = disconnect(server)
    assert (ended["code"], ended["order"]) == (1006, 1)


def test_too_large_a_message(client: Client, server: RunningServer) -> None:
    open_websocket(server, client)
    client.send(b"\x82\xff" + struct.pack("!Q", 2 * MIB) + b"\0\0\0\0")
    assert read_frame(client)[1][:2] == struct.pack("!H", 1009)
    assert disconnect(server)["code"] == 1009
    assert server.app.drain("websocket.receive") == []


# ---- pressure


@pytest.fixture
def narrow() -> Iterator[RunningServer]:
    """A server whose layer holds one message a channel."""
    with serve(MemoryChannelLayer(capacity=1)) as running:
        yield running


def test_full_connect_channel(narrow: RunningServer) -> None:
    with narrow.connect() as first, narrow.connect() as second:
        first.send(handshake())
        while not narrow.layer.channel_statistics("websocket.connect")["messages_pending"]:
            pass
        second.send(handshake())
        response = second.read_response()
        assert (response.status, response.reason) == (503, "Connection queue at capacity")
        assert second.at_eof()
    narrow.app.receive("websocket.connect")
    # Only the one that was delivered is taken back.
    disconnect(narrow)


def test_full_receive_channel_is_waited_for(narrow: RunningServer) -> None:
    with narrow.connect() as client:
        open_websocket(narrow, client)
        client.send(b"".join(frame(1, b"%d" % n) for n in range(20)))
        received = [narrow.app.receive("websocket.receive")[1] for _ in range(20)]
        assert [(item["order"], item["text"]) for item in received] == [(n + 1, str(n)) for n in range(20)]


def test_full_receive_channel_closes_in_the_end(narrow: RunningServer, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("greendaphne.applications.channels.websocket.RECEIVE_PATIENCE", 0.3)
    with narrow.connect() as client:
        open_websocket(narrow, client)
        client.send(frame(1, b"taken") + frame(1, b"refused"))
        assert read_frame(client) == (8, struct.pack("!H", 1013))
        client.send(frame(8, struct.pack("!H", 1013)))
        assert client.at_eof()
        ended = disconnect(narrow)
        assert (ended["code"], ended["order"]) == (1013, 2)


def test_disconnect_is_offered_again_to_a_full_channel(narrow: RunningServer) -> None:
    for _ in range(2):
        with narrow.connect() as client:
            open_websocket(narrow, client)
    names = {narrow.app.receive("websocket.disconnect")[1]["reply_channel"] for _ in range(2)}
    assert len(names) == 2


def test_client_that_does_not_read_is_closed_and_delays_nobody() -> None:
    timeouts = Timeouts(send=1, websocket_close=0.5)
    with serve(limits=Limits(reply_queue=100_000), timeouts=timeouts) as server, server.connect() as slow, server.connect() as quick:
        slow.sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        stuck = open_websocket(server, slow)
        message = open_websocket(server, quick)
        for n in range(100):
            server.app.reply(stuck, bytes=b"x" * 500_000)
            server.app.reply(message, text=str(n))
            assert read_frame(quick) == (1, str(n).encode())
        ended = disconnect(server)
        assert (ended["reply_channel"], ended["code"]) == (stuck["reply_channel"], 1006)


# ---- timers


def test_connect_timeout() -> None:
    with serve(websocket_connect_timeout=0.3) as server, server.connect() as client:
        client.send(handshake())
        assert client.read_response().status == 403
        assert client.at_eof()
        assert disconnect(server)["order"] == 1


def test_connect_timeout_never() -> None:
    """-1 waits for the application, but not for a client that left."""
    with serve(websocket_connect_timeout=-1) as server:
        with server.connect() as client:
            client.send(handshake())
            _, message = server.app.receive("websocket.connect")
            client.sock.settimeout(1.5)
            with pytest.raises(TimeoutError):
                client.sock.recv(1)
            client.sock.settimeout(20)
            server.app.reply(message, accept=True)
            assert client.read_head().status == 101
        disconnect(server)
        with server.connect() as client:
            client.send(handshake())
            server.app.receive("websocket.connect")
        disconnect(server)


def test_websocket_timeout() -> None:
    with serve(websocket_timeout=0.4) as server, server.connect() as client:
        open_websocket(server, client)
        assert read_frame(client) == (8, struct.pack("!H", 1000))
        client.send(frame(8, struct.pack("!H", 1000)))
        assert disconnect(server)["code"] == 1000


@pytest.mark.parametrize(("given", "expected"), [(None, 77), (0, 77), (5, 5), (-1, -1)])
def test_websocket_timeout_defaults_to_the_layers_group_expiry(given: float | None, expected: float) -> None:
    with serve(MemoryChannelLayer(group_expiry=77), websocket_timeout=given) as server:
        assert server.server.timeouts.websocket == expected


def test_pings() -> None:
    """A silent client is pinged; one that does not answer is closed, and the application sees 1006."""
    with serve(ping_interval=0.2, ping_timeout=0.4) as server, server.connect() as client:
        message = open_websocket(server, client)
        opcode, payload = read_frame(client)
        assert (opcode, len(payload)) == (9, 4)
        client.send(frame(10, payload))
        # What the server sends does not count as a sign of life.
        server.app.reply(message, text="x")
        assert read_frame(client) == (1, b"x")
        assert read_frame(client)[0] == 9
        assert read_frame(client)[1][:2] == struct.pack("!H", 1011)
        assert disconnect(server)["code"] == 1006


# ---- stopping


def test_stopping_closes_with_1012() -> None:
    with serve() as server:
        with server.connect() as client:
            open_websocket(server, client)
            server.server.stop()
            assert read_frame(client)[1][:2] == struct.pack("!H", 1012)
            client.send(frame(8, struct.pack("!H", 1012)))
            assert client.at_eof()
        assert disconnect(server)["code"] == 1012


# ---- logs


def test_access_log_and_debug_lines(caplog: pytest.LogCaptureFixture) -> None:
    actions: list[tuple[str, str, dict[str, Any]]] = []
    caplog.set_level("DEBUG")
    with serve(action_logger=lambda *action: actions.append(action)) as server, server.connect() as client:
        client.send(handshake(b"/ws%20?a=b"))
        _, message = server.app.receive("websocket.connect")
        server.app.reply(message, accept=True)
        client.read_head()
        client.send(frame(1, b"x"))
        server.app.receive("websocket.receive")
        server.app.reply(message, text="y", close=True)
        read_frame(client)
        read_frame(client)
        client.send(frame(8, b""))
        disconnect(server)
        peer = f"127.0.0.1:{client.sock.getsockname()[1]}"
    details = {"path": "/ws%20", "client": peer}
    assert actions == [("websocket", action, details) for action in ("connecting", "connected", "disconnected")]
    rc = message["reply_channel"]
    lines = [record.getMessage() for record in caplog.records if rc in record.getMessage() and record.name == "daphne.ws_protocol"]
    assert lines == [
        f"WebSocket {rc} accepted by application",
        f"WebSocket {rc} open and established",
        f"WebSocket incoming frame on {rc}",
        f"Sent WebSocket packet to client for {rc}",
        f"WebSocket closed for {rc}",
    ]


# ---- a client library


@pytest.mark.parametrize("size", [16, 65_536, MIB])
def test_client_library(server: RunningServer, size: int) -> None:
    def client() -> ClientConnection:
        return connect(f"ws://127.0.0.1:{server.port}/ws", max_size=None)

    import threading

    def application() -> None:
        message = server.app.receive("websocket.connect")[1]
        server.app.reply(message, accept=True)
        for _ in range(2):
            content = server.app.receive("websocket.receive")[1]
            server.app.reply(message, **({"text": content["text"]} if "text" in content else {"bytes": content["bytes"]}))
        server.app.receive("websocket.disconnect")

    worker = threading.Thread(target=application)
    worker.start()
    with client() as websocket:
        for payload in ("x" * size, b"\0" * size):
            websocket.send(payload)
            assert websocket.recv() == payload
    worker.join()


def test_client_library_sees_rejection_and_codes(server: RunningServer) -> None:
    import threading

    def application() -> None:
        server.app.reply(server.app.receive("websocket.connect")[1], close=True)
        server.app.reply(server.app.receive("websocket.connect")[1], accept=True, close=4321)

    worker = threading.Thread(target=application)
    worker.start()
    with pytest.raises(InvalidStatus) as refused:
        connect(f"ws://127.0.0.1:{server.port}/")
    assert refused.value.response.status_code == 403
    with connect(f"ws://127.0.0.1:{server.port}/") as websocket, pytest.raises(ConnectionClosed) as closed:
        websocket.recv()
    assert closed.value.rcvd is not None
    assert closed.value.rcvd.code == 4321
    worker.join()
