"""Request bodies: inside the message, through ``body_channel`` from disk or live, bounded in memory, refused when too large."""

from __future__ import annotations

import hashlib
import re
import subprocess
import sys
import threading
from pathlib import Path
from typing import Any

import pytest

from greendaphne.config import KIB, MIB, Limits, Timeouts
from greendaphne.layers.memory import MemoryChannelLayer
from tests.support.server import Application, Client, RunningServer, serve


def head(length: int | None, *fields: bytes) -> bytes:
    framing = b"Transfer-Encoding: chunked" if length is None else b"Content-Length: %d" % length
    return b"\r\n".join((b"POST / HTTP/1.1", b"Host: a", framing, *fields)) + b"\r\n\r\n"


def chunked(body: bytes, size: int) -> bytes:
    pieces = [body[start : start + size] for start in range(0, len(body), size)]
    return b"".join(b"%x\r\n%b\r\n" % (len(piece), piece) for piece in pieces) + b"0\r\n\r\n"


def rest_of(app: Application, message: dict[str, Any]) -> list[dict[str, Any]]:
    """Everything that follows on the body channel of ``message``."""
    assert re.fullmatch(r"http\.request\.body\?[A-Za-z0-9]+", message["body_channel"])
    pieces = []
    while True:
        pieces.append(app.receive(message["body_channel"])[1])
        if pieces[-1].get("closed") or not pieces[-1]["more_content"]:
            return pieces


def send_in_background(client: Client, data: bytes) -> threading.Thread:
    def send() -> None:
        try:
            client.send(data)
        except OSError:
            pass  # refused in the middle: what the test is about

    thread = threading.Thread(target=send)
    thread.start()
    return thread


@pytest.mark.parametrize("length_known", [True, False])
@pytest.mark.parametrize("size", [0, 1, 100_000, MIB])
def test_small_bodies_travel_inside(client: Client, server: RunningServer, size: int, length_known: bool) -> None:
    body = b"x" * size
    sender = send_in_background(client, head(size) + body if length_known else head(None) + chunked(body, 1000))
    message = server.app.answer(b"ok")
    assert "body_channel" not in message
    assert message["body"] == body
    assert client.read_response().status == 200
    sender.join()


@pytest.mark.parametrize("length_known", [True, False])
@pytest.mark.parametrize("size", [MIB + 1, 3 * MIB + 5])
def test_large_bodies_travel_by_channel(client: Client, server: RunningServer, size: int, length_known: bool) -> None:
    """They are complete before the application hears of them, and keep-alive goes on behind them."""
    body = bytes(range(256)) * (size // 256 + 1)
    body = body[:size]
    sender = send_in_background(client, head(size) + body if length_known else head(None) + chunked(body, 70_000))
    message = server.app.request()
    sender.join()
    pieces = rest_of(server.app, message)
    assert message["body"] + b"".join(piece["content"] for piece in pieces) == body
    assert all(set(piece) == {"content", "more_content"} and len(piece["content"]) <= 256 * KIB for piece in pieces)
    assert [piece["more_content"] for piece in pieces] == [True] * (len(pieces) - 1) + [False]
    server.app.reply(message, status=200, content=b"ok")
    assert client.read_response().body == b"ok"
    client.send(head(0))
    server.app.answer(b"again")
    assert client.read_response().body == b"again"


def test_full_body_channel_is_waited_for() -> None:
    layer = MemoryChannelLayer(channel_capacity={"http.request.body*": 1})
    with serve(layer, limits=Limits(inline_body=10, body_chunk=4)) as server, server.connect() as client:
        client.send(head(20) + b"abcdefghijklmnopqrst")
        message = server.app.request()
        assert message["body"] + b"".join(piece["content"] for piece in rest_of(server.app, message)) == b"abcdefghijklmnopqrst"
        server.app.reply(message, status=200, content=b"ok")
        assert client.read_response().status == 200


def test_threshold_below_the_size_of_a_piece() -> None:
    with serve(limits=Limits(inline_body=10)) as server, server.connect() as client:
        client.send(head(20) + b"abcdefghijklmnopqrst")
        message = server.app.request()
        assert message["body"] + b"".join(piece["content"] for piece in rest_of(server.app, message)) == b"abcdefghijklmnopqrst"
        server.app.reply(message, status=200, content=b"ok")
        assert client.read_response().status == 200


def test_threshold_zero_keeps_everything_inside() -> None:
    with serve(limits=Limits(inline_body=0)) as server, server.connect() as client:
        body = b"x" * (2 * MIB)
        sender = send_in_background(client, head(len(body)) + body)
        assert server.app.answer(b"ok")["body"] == body
        assert client.read_response().status == 200
        sender.join()


def test_early_answer_leaves_the_rest_unsent(client: Client, server: RunningServer) -> None:
    """The body was read, so the connection is still good even where the application did not want it."""
    body = b"x" * (40 * MIB)
    sender = send_in_background(client, head(len(body)) + body)
    server.app.answer(b"no thanks", status=403)
    assert client.read_response().status == 403
    sender.join()
    client.send(head(0))
    server.app.answer(b"next")
    assert client.read_response().body == b"next"


# ---- limits


@pytest.mark.parametrize("data", [head(101), head(None) + chunked(b"x" * 101, 10), head(None) + b"100000\r\n" + b"x" * 200])
def test_too_large_a_body_is_refused(data: bytes) -> None:
    with serve(limits=Limits(request_body=100)) as server, server.connect() as client:
        client.send(data)
        response = client.read_response()
        assert (response.status, response.header("Connection")) == (413, "close")
        assert client.at_eof()
        assert server.app.drain("http.request") == []


def test_too_large_a_body_is_refused_while_the_client_still_sends() -> None:
    """The answer is not lost in a reset."""
    with serve(limits=Limits(request_body=MIB)) as server, server.connect() as client:
        sender = send_in_background(client, head(None) + chunked(b"x" * (8 * MIB), 100_000))
        assert client.read_response().status == 413
        client.close()
        sender.join()


def test_bodies_go_to_disk_where_they_have_no_room_in_memory() -> None:
    with serve(limits=Limits(buffered_bodies=1000)) as server, server.connect() as client:
        body = bytes(range(256)) * 400
        client.send(head(len(body)) + body)
        assert server.app.answer(b"ok")["body"] == body
        assert client.read_response().status == 200
        assert server.channels.bodies.memory.left == 1000


def test_process_wide_bounds() -> None:
    with serve(limits=Limits(inline_body=100, spooled_bodies=1000, body_chunk=100)) as server:
        for _ in range(3):
            with server.connect() as client:
                client.send(head(1001) + b"x" * 1001)
                response = client.read_response()
                assert (response.status, response.header("Retry-After")) == (503, "10")
        # What was refused holds nothing any more.
        for _ in range(3):
            with server.connect() as client:
                client.send(head(90) + b"x" * 90)
                server.app.answer(b"ok")
                assert client.read_response().status == 200


def test_body_that_is_handed_over_takes_no_room_while_the_answer_is_waited_for() -> None:
    limits = Limits(buffered_bodies=150_000)
    with serve(limits=limits) as server, server.connect() as first, server.connect() as second:
        for client in (first, second):
            client.send(head(100_000) + b"x" * 100_000)
            assert len(server.app.request()["body"]) == 100_000


def test_body_that_could_never_be_held_is_too_large() -> None:
    with serve(limits=Limits(inline_body=0, request_body=0, buffered_bodies=1000)) as server, server.connect() as client:
        client.send(head(1001))
        client.send(b"x")
        assert client.read_response().status == 413


# ---- live


def test_streaming_passes_pieces_on_as_they_come() -> None:
    with serve(stream_request_body=True) as server, server.connect() as client:
        client.send(head(None) + b"3\r\none\r\n")
        message = server.app.request()
        assert message["body"] == b"one"
        client.send(b"3\r\ntwo\r\n")
        assert server.app.receive(message["body_channel"])[1] == {"content": b"two", "more_content": True}
        # An application may begin to answer while the body still comes.
        server.app.reply(message, status=200, content=b"so far", more_content=True)
        client.read_head()
        assert client.read_chunk() == b"so far"
        client.send(b"5\r\nthree\r\n0\r\n\r\n")
        assert server.app.receive(message["body_channel"])[1] == {"content": b"three", "more_content": True}
        assert server.app.receive(message["body_channel"])[1] == {"content": b"", "more_content": False}
        server.app.reply(message, content=b"done")
        assert client.read_chunk() == b"done"
        assert client.read_chunk() == b""


def test_streaming_leaves_small_bodies_inside() -> None:
    with serve(stream_request_body=True) as server, server.connect() as client:
        client.send(head(5) + b"hello")
        message = server.app.answer(b"ok")
        assert (message["body"], "body_channel" in message) == (b"hello", False)
        assert client.read_response().status == 200


def test_streaming_client_that_leaves() -> None:
    """The worker learns that the body is not complete, and of the disconnect."""
    with serve(stream_request_body=True) as server:
        with server.connect() as client:
            client.send(head(None) + b"3\r\none\r\n")
            message = server.app.request()
        assert server.app.receive(message["body_channel"])[1]["closed"] is True
        assert server.app.receive("http.disconnect")[1]["reply_channel"] == message["reply_channel"]


@pytest.mark.parametrize(
    ("data", "status"),
    [(b"xyz\r\n", 400), (b"100\r\n" + b"x" * 0x100 + b"\r\n", 413)],
)
def test_streaming_bad_body(data: bytes, status: int) -> None:
    with serve(stream_request_body=True, limits=Limits(request_body=200, inline_body=100)) as server, server.connect() as client:
        client.send(head(None) + b"3\r\none\r\n")
        message = server.app.request()
        client.send(data)
        assert server.app.receive(message["body_channel"])[1]["closed"] is True
        assert client.read_response().status == status
        assert client.at_eof()


def test_streaming_body_that_stalls() -> None:
    with serve(stream_request_body=True, timeouts=Timeouts(body=0.3)) as server, server.connect() as client:
        client.send(head(None) + b"3\r\none\r\n")
        message = server.app.request()
        assert server.app.receive(message["body_channel"])[1]["closed"] is True
        assert client.read_response().status == 408
        assert client.at_eof()


# ---- memory

UPLOAD = """
import hashlib, resource, sys
from greendaphne.layers.memory import MemoryChannelLayer

channel_layer = MemoryChannelLayer()

def peak():
    with open("/proc/self/status") as status:
        return next(int(line.split()[1]) for line in status if line.startswith("VmHWM:"))

def request(message):
    if message.content["path"] == "/peak":
        message.reply({"status": 200, "content": str(peak()).encode()})
        return
    digest = hashlib.sha256()
    for piece in message.body():
        digest.update(piece)
    message.reply({"status": 200, "content": digest.hexdigest().encode()})

channel_layer.routes = {"http.request": request}
"""


@pytest.mark.parametrize("options", [[], ["--stream-request-body"]])
def test_a_gigabyte_does_not_grow_the_process(tmp_path: Path, options: list[str]) -> None:
    """1 GiB in, at most 64 MiB more memory at the peak; measured in the server's own process, worker included."""
    (tmp_path / "upload.py").write_text(UPLOAD)
    command = [sys.executable, "-m", "greendaphne", "-e", f"unix:{tmp_path}/s", "--inline-workers", "1", *options, "upload:channel_layer"]
    with subprocess.Popen(command, cwd=tmp_path, stderr=subprocess.PIPE, stdout=subprocess.DEVNULL, text=True) as process:
        try:
            assert process.stderr is not None
            lines = []
            for line in process.stderr:
                lines.append(line)
                if "Listening on" in line:
                    break
            else:
                raise AssertionError("".join(lines))
            threading.Thread(target=process.stderr.read, daemon=True).start()
            before = ask_peak(tmp_path)
            piece = bytes(range(256)) * 4096
            digest = hashlib.sha256()
            with connect(tmp_path) as client:
                client.send(head(1024 * MIB))
                for _ in range(1024):
                    client.send(piece)
                    digest.update(piece)
                assert client.read_response().body == digest.hexdigest().encode()
            assert ask_peak(tmp_path) - before <= 64 * 1024
        finally:
            process.terminate()


def connect(path: Path) -> Client:
    import socket
    import time

    sock = socket.socket(socket.AF_UNIX)
    sock.settimeout(120)
    deadline = time.monotonic() + 10
    while True:
        try:
            sock.connect(f"{path}/s")
            return Client(sock)
        except (FileNotFoundError, ConnectionRefusedError):
            assert time.monotonic() < deadline
            time.sleep(0.01)


def ask_peak(path: Path) -> int:
    with connect(path) as client:
        client.send(b"GET /peak HTTP/1.1\r\nHost: a\r\n\r\n")
        return int(client.read_response().body)
