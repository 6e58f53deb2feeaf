"""What goes wrong around a server: applications that misuse it, layers that hand over nonsense, clients that leave at the worst moment."""

from __future__ import annotations

import socket
import time
from typing import Any

import gevent
import pytest

from greendaphne.bridge import bodies, mailbox
from greendaphne.bridge.mailbox import Allowance, Mailbox
from greendaphne.bridge.router import Notifier
from greendaphne.config import Limits
from greendaphne.layers.memory import MemoryChannelLayer
from tests.support import RunningServer, serve

GET = b"GET / HTTP/1.1\r\nHost: a\r\n\r\n"


def no_file(*args: object, **kwargs: object) -> Any:
    raise OSError(24, "Too many open files")


def insist(server: RunningServer, message: dict[str, Any], **content: Any) -> None:
    """Reply, and again while the reply channel is full."""
    while True:
        try:
            server.app.reply(message, **content)
            return
        except server.layer.ChannelFull:
            time.sleep(0.001)


# ---- replies


class HandsOverNonsense(MemoryChannelLayer):
    """Takes the wrapping off some messages, which leaves something that is no message."""

    def receive_batch(self, channels: list[str], limit: int, timeout: float | None) -> list[tuple[str, dict[str, Any]]]:  # type: ignore[override]
        return [(channel, message.get("unwrap", message)) for channel, message in super().receive_batch(channels, limit, timeout)]


@pytest.mark.parametrize("nonsense", [b"bytes", ["status"], 200])
def test_reply_that_is_no_message_disturbs_nobody(nonsense: object) -> None:
    with serve(HandsOverNonsense()) as server, server.connect() as client:
        client.send(GET)
        message = server.app.request()
        server.app.reply(message, unwrap=nonsense)
        server.app.reply(message, status=200, content=b"ok")
        assert client.read_response().body == b"ok"


def test_no_room_for_replies_on_disk_costs_one_client(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(mailbox, "TemporaryFile", no_file)
    with serve(limits=Limits(reply_queue=1000)) as server, server.connect() as slow, server.connect() as other:
        slow.send(GET)
        message = server.app.request()
        for _ in range(50):
            insist(server, message, status=200, content=b"x" * 500_000, more_content=True)
        other.send(GET)
        server.app.answer(b"ok")
        assert other.read_response().body == b"ok"
        with pytest.raises(EOFError):
            slow.read_response()


def test_many_small_pieces_for_a_client_that_reads_slowly() -> None:
    """An export, line by line: what its client does not read yet waits on disk and not in memory."""
    lines = [b"line %06d of the export, to be read by somebody in no hurry, " % n + b"." * 240 + b"\n" for n in range(30_000)]
    with serve(limits=Limits(reply_queue=64 * 1024)) as server:
        with socket.socket() as sock:
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
            sock.settimeout(20)
            sock.connect(server.address)
            sock.sendall(GET)
            message = server.app.request()
            insist(server, message, status=200, headers=[(b"Content-Length", b"%d" % sum(map(len, lines)))], more_content=True)
            for line in lines:
                insist(server, message, content=line, more_content=True)
            insist(server, message, content=b"")
            received = bytearray()
            while data := sock.recv(65536):
                received += data
                if received.endswith(lines[-1]):
                    break
        assert bytes(received).partition(b"\r\n\r\n")[2] == b"".join(lines)


def test_pieces_are_joined_on_disk_only_where_nothing_is_lost() -> None:
    disk = Allowance(10_000_000)
    box = Mailbox(1_500, disk)
    box.put({"status": 200, "content": b"a" * 1_000, "more_content": True})
    pieces: list[dict[str, Any]] = [{"content": b"%d," % n * 100, "more_content": True} for n in range(2_000)]
    for piece in pieces:
        box.put(piece)
    box.put({"content": b"end"})
    received: list[dict[str, Any]] = []
    while not received or received[-1].get("more_content"):
        received.append(box.get(0))
    assert received[0] == {"status": 200, "content": b"a" * 1_000, "more_content": True}
    assert b"".join(message["content"] for message in received[1:]) == b"".join(piece["content"] for piece in pieces) + b"end"
    assert len(received) < 30
    assert disk.left == disk.size


def test_mailbox_gives_back_what_it_could_not_write(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(mailbox, "TemporaryFile", no_file)
    disk = Allowance(10_000)
    box = Mailbox(1_000, disk)
    for _ in range(3):
        box.put({"content": b"x" * 900})
    box.close()
    assert disk.left == disk.size


# ---- bodies


def test_no_file_for_a_body(monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture) -> None:
    monkeypatch.setattr(bodies, "TemporaryFile", no_file)
    with serve(limits=Limits(inline_body=10, body_chunk=4)) as server, server.connect() as client:
        client.send(b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 20\r\n\r\n" + b"x" * 20)
        assert client.read_response().status == 503
    assert "Traceback" not in caplog.text


# ---- notices


def test_notices_in_the_middle_of_being_sent_are_not_lost_at_the_end() -> None:
    sent = []

    def send(channel: str, message: dict[str, Any]) -> bool:
        gevent.sleep(0.01)
        sent.append(message["n"])
        return True

    notifier = Notifier(send)
    notifier.start()
    for n in range(10):
        notifier.add("http.disconnect", {"n": n})
    gevent.sleep(0.02)
    notifier.stop(timeout=5)
    assert sent == list(range(10))
