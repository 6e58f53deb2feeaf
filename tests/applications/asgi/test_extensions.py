"""Files, early hints and trailers."""

from __future__ import annotations

import asyncio
import os
from pathlib import Path
from typing import Any

import h2.events
import pytest

from tests.support.asgi import Recorder, serve_asgi
from tests.support.both_versions import VERSIONS, requester
from tests.support.http2 import GET, Peer
from tests.support.monitoring import wait_until

START = {"type": "http.response.start", "status": 200, "headers": []}


@pytest.fixture
def seen() -> Recorder:
    return Recorder()


@pytest.fixture
def big(tmp_path: Path) -> Path:
    path = tmp_path / "big"
    path.write_bytes(os.urandom(1_500_000))
    return path


@pytest.mark.parametrize("length", [False, True])
@pytest.mark.parametrize("http2", [False, True])
def test_pathsend(big: Path, length: bool, http2: bool) -> None:
    content = big.read_bytes()

    async def application(scope: Any, receive: Any, send: Any) -> None:
        assert "http.response.pathsend" in scope["extensions"]
        headers = [(b"content-length", b"%d" % len(content))] if length else []
        await send({**START, "headers": headers})
        await send({"type": "http.response.pathsend", "path": str(big)})

    with serve_asgi(application, http2_cleartext=True) as server:
        if http2:
            with Peer(server) as peer:
                assert peer.get()[2] == content
        else:
            with server.connect() as client:
                for _ in range(2):
                    client.send(b"GET / HTTP/1.1\r\nHost: a\r\n\r\n")
                    assert client.read_response().body == content
                client.send(b"HEAD / HTTP/1.1\r\nHost: a\r\n\r\nGET / HTTP/1.1\r\nHost: a\r\n\r\n")
                assert client.read_response("HEAD").status == 200
                assert client.read_response().body == content


def test_file_that_is_missing(tmp_path: Path) -> None:
    async def application(scope: Any, receive: Any, send: Any) -> None:
        try:
            await send(START)
            await send({"type": "http.response.pathsend", "path": str(tmp_path / "missing")})
        except FileNotFoundError:
            await send({"type": "http.response.body", "body": b"instead"})

    with serve_asgi(application) as server:
        assert server.get().body == b"instead"


@pytest.mark.parametrize("kind", ["directory", "fifo", "device"])
@pytest.mark.parametrize("version", VERSIONS)
def test_a_path_that_is_no_regular_file_is_an_error_before_the_head(tmp_path: Path, kind: str, version: str) -> None:
    path = {"directory": tmp_path, "fifo": tmp_path / "fifo", "device": Path("/dev/zero")}[kind]
    if kind == "fifo":
        os.mkfifo(path)

    async def application(scope: Any, receive: Any, send: Any) -> None:
        try:
            await send(START)
            await send({"type": "http.response.pathsend", "path": str(path)})
        except OSError as error:
            await send({"type": "http.response.body", "body": error.filename.encode()})

    with serve_asgi(application, http2_cleartext=True) as server, requester(server, version) as client:
        for _ in range(2):
            answer = client.ask()
            assert (answer.status, answer.body, answer.complete) == (200, str(path).encode(), True)


def message_for(kind: str, path: Path, opened: list[Any]) -> dict[str, Any]:
    """A message that sends the file ``path``; ``opened`` gets what has to be closed."""
    if kind == "pathsend":
        return {"type": "http.response.pathsend", "path": str(path)}
    opened.append(path.open("rb"))
    return {"type": "http.response.zerocopysend", "file": opened[-1]}


def opened_files() -> list[str]:
    """The files that this process has open."""
    files = []
    for number in os.listdir("/proc/self/fd"):
        try:
            files.append(os.readlink(f"/proc/self/fd/{number}"))
        except FileNotFoundError:
            pass  # closed meanwhile, as the list's own
    return files


@pytest.mark.parametrize("kind", ["pathsend", "zerocopysend"])
@pytest.mark.parametrize("version", VERSIONS)
def test_a_file_whose_sending_is_cancelled_is_cut_off(
    seen: Recorder, caplog: pytest.LogCaptureFixture, tmp_path: Path, kind: str, version: str
) -> None:
    path, other = tmp_path / "big", tmp_path / "other"
    for file, size in ((path, 64 << 20), (other, 1 << 20)):
        with file.open("wb") as written:
            written.truncate(size)
    other.write_bytes(b"secret" * 100_000)

    async def application(scope: Any, receive: Any, send: Any) -> None:
        opened: list[Any] = []
        await send(START)
        try:
            await asyncio.wait_for(send(message_for(kind, path, opened)), 0.3)
        except asyncio.TimeoutError:
            for file in opened:
                file.close()
            # They get the numbers that are free.
            files = [other.open("rb") for _ in range(8)]
            try:
                await send({"type": "http.response.body", "body": b"more"})
            except OSError as error:
                seen(error)
            finally:
                for file in files:
                    file.close()

    with serve_asgi(application, http2_cleartext=True) as server:
        if version == "2":
            with Peer(server) as peer:
                stream = peer.request()
                assert isinstance(seen.next(), OSError)
                assert peer.wait(h2.events.StreamReset).stream_id == stream
        else:
            with server.connect() as client:
                client.send(b"GET / HTTP/1.1\r\nHost: a\r\n\r\n")
                assert isinstance(seen.next(), OSError)
                try:
                    while data := client.sock.recv(1 << 20):
                        assert b"secret" not in data
                    pytest.fail("the client takes the response for a complete one")
                except ConnectionResetError:
                    pass
        wait_until(lambda: "a file was sent in part only: the application was cancelled" in caplog.text)
        wait_until(lambda: not [each for each in opened_files() if each in (str(path), str(other))])


@pytest.mark.parametrize("version", VERSIONS)
def test_a_file_whose_sending_is_cancelled_before_it_begins_is_not_sent(big: Path, version: str) -> None:
    async def application(scope: Any, receive: Any, send: Any) -> None:
        await send(START)
        opened: list[Any] = []
        sending = asyncio.ensure_future(send(message_for("zerocopysend", big, opened)))
        # In the same round of the loop, so the greenlet of the connection has not seen it.
        asyncio.get_running_loop().call_soon(sending.cancel)
        with pytest.raises(asyncio.CancelledError):
            await sending
        opened[0].close()
        await send({"type": "http.response.body", "body": b"instead"})

    with serve_asgi(application, http2_cleartext=True) as server, requester(server, version) as client:
        assert client.ask().body == b"instead"


@pytest.mark.parametrize("http2", [False, True])
def test_zerocopysend(big: Path, http2: bool) -> None:
    content = big.read_bytes()

    async def application(scope: Any, receive: Any, send: Any) -> None:
        with big.open("rb") as file:
            await send(START)
            await send({"type": "http.response.zerocopysend", "file": file, "offset": 10, "count": 20, "more_body": True})
            await send({"type": "http.response.body", "body": b"|", "more_body": True})
            file.seek(100)
            await send({"type": "http.response.zerocopysend", "file": file.fileno()})

    with serve_asgi(application, http2_cleartext=True) as server:
        expected = content[10:30] + b"|" + content[100:]
        if http2:
            with Peer(server) as peer:
                assert peer.get()[2] == expected
        else:
            assert server.get().body == expected


async def hinting(scope: Any, receive: Any, send: Any) -> None:
    await send({"type": "http.response.early_hint", "links": [b"</a.css>; rel=preload"]})
    await send(START)
    await send({"type": "http.response.early_hint", "links": [b"</b.css>; rel=preload"]})
    await send({"type": "http.response.body", "body": b"page"})


def test_early_hints() -> None:
    with serve_asgi(hinting, http2_cleartext=True) as server:
        with server.connect() as client:
            client.send(b"GET / HTTP/1.1\r\nHost: a\r\n\r\n")
            for link in ("</a.css>; rel=preload", "</b.css>; rel=preload"):
                hint = client.read_head()
                assert (hint.status, hint.header("Link")) == (103, link)
            assert client.read_response().body == b"page"
        assert server.get().status == 103
        with Peer(server) as peer:
            stream = peer.request()
            assert (b":status", b"103") in (peer.wait(h2.events.InformationalResponseReceived).headers or ())
            assert peer.response(stream)[2] == b"page"


async def trailing(scope: Any, receive: Any, send: Any) -> None:
    await send({**START, "trailers": True})
    await send({"type": "http.response.body", "body": b"part", "more_body": True})
    await send({"type": "http.response.body", "body": b"end"})
    await send({"type": "http.response.trailers", "headers": [(b"grpc-status", b"0")], "more_trailers": True})
    await send({"type": "http.response.trailers", "headers": [(b"x-digest", b"1")]})


def test_trailers() -> None:
    with serve_asgi(trailing, http2_cleartext=True) as server:
        with server.connect() as client:
            for _ in range(2):
                client.send(b"GET / HTTP/1.1\r\nHost: a\r\nTE: trailers\r\nConnection: TE\r\n\r\n")
                client.read_head()
                assert [client.read_chunk(), client.read_chunk()] == [b"part", b"end"]
                assert client.read_until(b"\r\n\r\n").lower() == b"0\r\ngrpc-status: 0\r\nx-digest: 1\r\n\r\n"
        with server.connect() as client:
            client.send(b"GET / HTTP/1.0\r\n\r\n")
            assert client.read_response().body == b"partend"
        with Peer(server) as peer:
            stream = peer.request([*GET, (b"te", b"trailers")])
            trailers = peer.wait(h2.events.TrailersReceived)
            assert trailers.headers == [(b"grpc-status", b"0"), (b"x-digest", b"1")]
            assert peer.response(stream)[2] == b"partend"


@pytest.mark.parametrize(
    "messages",
    [
        [{"type": "http.response.trailers"}],
        [START, {"type": "http.response.trailers"}],
        [{**START, "trailers": True}, {"type": "http.response.trailers"}],
        [{"type": "http.response.pathsend", "path": "/etc/hostname"}],
        [{"type": "http.response.zerocopysend", "file": 0}],
    ],
)
def test_wrong_order(seen: Recorder, messages: list[Any]) -> None:
    async def application(scope: Any, receive: Any, send: Any) -> None:
        try:
            for message in messages:
                await send(message)
        except RuntimeError as error:
            seen(error)
            raise

    with serve_asgi(application) as server:
        assert server.get().status == 500
    assert isinstance(seen.next(), RuntimeError)


def test_fields_that_are_no_trailers(seen: Recorder) -> None:
    async def application(scope: Any, receive: Any, send: Any) -> None:
        await send({**START, "trailers": True})
        await send({"type": "http.response.body", "body": b"x"})
        try:
            await send({"type": "http.response.trailers", "headers": [(b"content-length", b"1")]})
        except Exception as error:
            seen(error)
            raise

    with serve_asgi(application) as server, server.connect() as client:
        client.send(b"GET / HTTP/1.1\r\nHost: a\r\nTE: trailers\r\n\r\n")
        client.read_head()
        assert "cannot be a trailer" in str(seen.next())
