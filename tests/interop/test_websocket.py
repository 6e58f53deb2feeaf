"""WebSockets with the clients that people use, through the whole server.

They are the libraries ``websockets``, ``websocket-client`` and, in Node.js, ``ws``, and Chromium.  An application behind the channel layer
echoes what they send, in messages of 16 bytes to 16 MiB, with and without TLS and compression; they send fragments, close, are closed, and
vanish.
"""

from __future__ import annotations

import asyncio
import itertools
import json
import queue
import random
import socket
import ssl
import struct
from abc import ABC, abstractmethod
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, cast

import pytest
import websocket
from websockets.asyncio.client import ClientConnection, connect
from websockets.exceptions import ConnectionClosed

from greendaphne.config import Limits
from greendaphne.layers.memory import MemoryChannelLayer
from greendaphne.worker import Message
from tests.support import peers
from tests.support.certificates import Authority
from tests.support.chromium import Chromium, Window
from tests.support.server import serve

KIB = 1024
MIB = 1024 * KIB
SIZES = (16, KIB, 64 * KIB, MIB, 16 * MIB)
#: Seconds for the largest message to go there and back on a busy machine.
PATIENCE = 60.0
#: What the application sends back as they are, and what it is asked to close with.
CLOSE = "close with "
#: A message's parts as a client sends them: one of nothing first, in the middle and at the end, and one that no frame's short form takes.
PARTS = (0, 1, 125, 0, 70_000, 3, 0)
#: A period that no buffer's length is a multiple of.
PERIOD = 4099
#: Every client has a path of its own.
_numbers = itertools.count(1)
REASON = "Feierabend 🌱"


class Application:
    """Echoes; closes with the code it is asked for; notes the codes that clients left with."""

    def __init__(self) -> None:
        self.left: queue.SimpleQueue[tuple[str, int]] = queue.SimpleQueue()
        self.layer = MemoryChannelLayer()
        self.layer.routes = {"websocket.connect": self.connect, "websocket.receive": self.receive, "websocket.disconnect": self.disconnect}

    def connect(self, message: Message) -> None:
        message.reply({"accept": True})

    def receive(self, message: Message) -> None:
        text = message.content.get("text")
        if text is not None and text.startswith(CLOSE):
            code = text[len(CLOSE) :]
            message.reply({"close": code == "True" or int(code)})
        else:
            message.reply({"text": text} if text is not None else {"bytes": message.content["bytes"]})

    def disconnect(self, message: Message) -> None:
        self.left.put((message.content["path"], message.content["code"]))

    def code_of(self, path: str) -> int:
        """The code with which the next client left, whose path must be ``path``."""
        found, code = self.left.get(timeout=PATIENCE)
        assert found == path
        return code


@dataclass(frozen=True)
class Site:
    """A server with one port for ``ws`` and one for ``wss``; compression is what it was started with."""

    application: Application
    ports: dict[str, int]
    compression: bool
    authority: Path


@dataclass(frozen=True)
class Place:
    """Where a client is sent to."""

    site: Site
    scheme: str
    path: str
    compression: bool = field(init=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "compression", self.site.compression)

    @property
    def url(self) -> str:
        return f"{self.scheme}://localhost:{self.site.ports[self.scheme]}{self.path}"

    def tls(self) -> ssl.SSLContext | None:
        return ssl.create_default_context(cafile=str(self.site.authority)) if self.scheme == "wss" else None


@pytest.fixture(scope="module", params=["plain", "compressed"])
def site(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Site]:
    directory = tmp_path_factory.mktemp("certificates")
    authority = Authority.make(directory)
    certificate = authority.server("localhost").write(directory / "localhost.pem")
    application = Application()
    endpoints = ["tcp:0:interface=127.0.0.1", f"ssl:0:privateKey={certificate}:certKey={certificate}:interface=127.0.0.1"]
    with serve(
        application.layer,
        endpoints,
        inline_workers=2,
        limits=Limits(websocket_message=0, websocket_frame=0),
        websocket_compression=request.param == "compressed",
    ) as running:
        plain, secure = (listener.getHost().port or 0 for listener in running.server.listeners)
        yield Site(application, {"ws": plain, "wss": secure}, request.param == "compressed", authority.file)


@pytest.fixture(params=["ws", "wss"])
def place(site: Site, request: pytest.FixtureRequest) -> Place:
    return Place(site, request.param, f"/{next(_numbers)}")


def samples() -> Iterator[str | bytes]:
    """Text and bytes of every size, no two stretches of a period alike."""
    for size in SIZES:
        data = random.Random(size).randbytes(PERIOD)
        yield (data.hex() * (size // len(data) + 1))[:size]
        yield (data * (size // len(data) + 1))[:size]


@dataclass(frozen=True)
class End:
    """How a client saw the WebSocket end."""

    code: int
    reason: str = ""


class Peer(ABC):
    """A client library; every method is one connection to ``place``."""

    #: Whether it asks for permessage-deflate where the server may agree to it.
    compresses = True
    #: What it closes with where its user gives no code; 1005 stands for a close frame without one (RFC 6455 section 7.1.5).
    default_code = 1005

    @abstractmethod
    def echo(self, place: Place) -> str:
        """Check that all samples come back and close with 1000; returns the extensions that were agreed on."""

    @abstractmethod
    def fragments(self, place: Place) -> list[tuple[str, int]]:
        """Send a text and a binary message of :data:`PARTS`; returns kind and length of what comes back."""

    @abstractmethod
    def close(self, place: Place, code: int | None, reason: str) -> End:
        """Close first; with ``None`` as the library does by itself."""

    @abstractmethod
    def closed(self, place: Place, ask: str) -> End:
        """Have the server close first, by sending ``ask``."""

    @abstractmethod
    def vanish(self, place: Place) -> None:
        """End the connection without a word."""


class Websockets(Peer):
    """``websockets`` on asyncio.

    Its blocking form lets two threads use one TLS connection at a time, which now and then loses the handshake's request before it is sent.
    """

    default_code = 1000

    def connect(self, place: Place) -> connect:
        compression = "deflate" if place.compression else None
        return connect(
            place.url, ssl=place.tls(), compression=compression, max_size=None, open_timeout=PATIENCE, close_timeout=PATIENCE, proxy=None
        )

    async def receive(self, client: ClientConnection) -> str | bytes:
        return await asyncio.wait_for(client.recv(), PATIENCE)

    def echo(self, place: Place) -> str:
        async def converse() -> str:
            async with self.connect(place) as client:
                for sample in samples():
                    await client.send(sample)
                    assert await self.receive(client) == sample
                assert client.response is not None
                return client.response.headers.get("Sec-WebSocket-Extensions", "")

        return asyncio.run(converse())

    def fragments(self, place: Place) -> list[tuple[str, int]]:
        async def converse() -> list[tuple[str, int]]:
            async with self.connect(place) as client:
                await client.send("A" * size for size in PARTS)
                text = await self.receive(client)
                await client.send(b"A" * size for size in PARTS)
                data = await self.receive(client)
            assert isinstance(text, str)
            assert isinstance(data, bytes)
            return [("text", len(text)), ("bytes", len(data))]

        return asyncio.run(converse())

    def close(self, place: Place, code: int | None, reason: str) -> End:
        async def converse() -> End:
            async with self.connect(place) as client:
                if code is None:
                    await client.close()
                else:
                    await client.close(code, reason)
                return self.end(client)

        return asyncio.run(converse())

    def closed(self, place: Place, ask: str) -> End:
        async def converse() -> End:
            async with self.connect(place) as client:
                await client.send(ask)
                with pytest.raises(ConnectionClosed):
                    await self.receive(client)
                return self.end(client)

        return asyncio.run(converse())

    def end(self, client: ClientConnection) -> End:
        assert client.close_code is not None
        return End(client.close_code, client.close_reason or "")

    def vanish(self, place: Place) -> None:
        async def converse() -> None:
            async with self.connect(place) as client:
                client.transport.abort()

        asyncio.run(converse())


class WebsocketClient(Peer):
    """``websocket-client``, which knows no compression."""

    compresses = False

    def connect(self, place: Place) -> websocket.WebSocket:
        # Its check of UTF-8 takes seconds for the largest text, which is compared anyway.
        options: dict[str, Any] = {"timeout": PATIENCE, "skip_utf8_validation": True, "http_no_proxy": ["*"]}
        if place.scheme == "wss":
            options["sslopt"] = {"context": place.tls()}
        return websocket.create_connection(place.url, **options)

    def echo(self, place: Place) -> str:
        client = self.connect(place)
        for sample in samples():
            if isinstance(sample, str):
                client.send(sample)
            else:
                client.send_binary(sample)
            assert client.recv() == sample
        extensions = (client.getheaders() or {}).get("sec-websocket-extensions", "")
        self.end(client, 1000)
        return str(extensions)

    def fragments(self, place: Place) -> list[tuple[str, int]]:
        client = self.connect(place)
        lengths = []
        for opcode in (websocket.ABNF.OPCODE_TEXT, websocket.ABNF.OPCODE_BINARY):
            for index, size in enumerate(PARTS):
                kind = websocket.ABNF.OPCODE_CONT if index else opcode
                client.send_frame(websocket.ABNF.create_frame(b"A" * size, kind, int(index == len(PARTS) - 1)))
            found, data = client.recv_data()
            lengths.append(("text" if found == websocket.ABNF.OPCODE_TEXT else "bytes", len(data)))
        self.end(client, 1000)
        return lengths

    def close(self, place: Place, code: int | None, reason: str) -> End:
        return self.end(self.connect(place), code, reason)

    def end(self, client: websocket.WebSocket, code: int | None = None, reason: str = "") -> End:
        if code is None:
            client.send(b"", websocket.ABNF.OPCODE_CLOSE)
        else:
            client.send_close(code, reason.encode())
        end = self.answer(client)
        client.shutdown()  # type: ignore[no-untyped-call]
        return end

    def answer(self, client: websocket.WebSocket) -> End:
        """The server's close frame; pings may come before it."""
        # Not recv(), which answers with a code of its own.
        while (frame := client.recv_frame()).opcode != websocket.ABNF.OPCODE_CLOSE:  # type: ignore[no-untyped-call]
            assert frame.opcode == websocket.ABNF.OPCODE_PING
        data: bytes = frame.data
        return End(int.from_bytes(data[:2], "big"), data[2:].decode()) if data else End(1005)

    def closed(self, place: Place, ask: str) -> End:
        client = self.connect(place)
        client.send(ask)
        end = self.answer(client)
        client.send_close(end.code)
        client.shutdown()  # type: ignore[no-untyped-call]
        return end

    def vanish(self, place: Place) -> None:
        client = self.connect(place)
        assert client.sock is not None
        reset(client.sock)
        client.shutdown()  # type: ignore[no-untyped-call]


class Node(Peer):
    """``ws`` in Node.js."""

    def __init__(self) -> None:
        peers.install()

    def run(self, place: Place, task: str, **options: object) -> Any:
        plan = {"url": place.url, "compression": place.compression, "task": task, **options}
        return peers.run("websocket.js", plan, place.site.authority)

    def echo(self, place: Place) -> str:
        report = self.run(place, "echo", sizes=SIZES)
        assert (report["different"], report["code"]) == ([], 1000)
        return str(report["extensions"])

    def fragments(self, place: Place) -> list[tuple[str, int]]:
        return [(kind, length) for kind, length in self.run(place, "fragments", parts=PARTS)]

    def close(self, place: Place, code: int | None, reason: str) -> End:
        return End(**self.run(place, "close", code=code, reason=reason))

    def closed(self, place: Place, ask: str) -> End:
        return End(**self.run(place, "closed", ask=ask))

    def vanish(self, place: Place) -> None:
        self.run(place, "vanish")


#: In the page: opens a WebSocket and does with it what the task says; the value is a promise of the report.
_PAGE = """(async (url, sizes, task, code, text) => {
  const socket = new WebSocket(url);
  socket.binaryType = "arraybuffer";
  const end = new Promise((resolve) => { socket.onclose = (event) => resolve({ code: event.code, reason: event.reason }); });
  await new Promise((resolve, reject) => {
    socket.onopen = resolve;
    socket.onerror = () => reject(new Error("the handshake failed"));
  });
  const receive = () => new Promise((resolve) => { socket.onmessage = (event) => resolve(event.data); });
  const different = [];
  if (task === "echo") {
    for (const size of sizes) {
      const bytes = new Uint8Array(size);
      crypto.getRandomValues(bytes.subarray(0, 4099));
      for (let at = 4099; at < size; at += 4099) bytes.copyWithin(at, 0, 4099);
      const letters = Array.from(bytes.subarray(0, 4099), (byte) => byte.toString(16).padStart(2, "0")).join("");
      const sent = letters.repeat(size / letters.length + 1).slice(0, size);
      let answer = receive();
      socket.send(sent);
      if (await answer !== sent) different.push(`text of ${size}`);
      answer = receive();
      socket.send(bytes);
      const back = new Uint8Array(await answer);
      if (back.length !== size || !back.every((byte, at) => byte === bytes[at])) different.push(`bytes of ${size}`);
    }
    socket.close(1000);
  } else if (task === "closed") {
    socket.send(text);
  } else if (code === null) {
    socket.close();
  } else {
    socket.close(code, text);
  }
  return { extensions: socket.extensions, different, ...(await end) };
})"""


class Browser(Peer):
    """Chromium, which fragments as it sees fit."""

    def __init__(self, window: Window) -> None:
        self.window = window

    def run(self, place: Place, task: str, code: int | None = None, text: str = "") -> dict[str, Any]:
        arguments = ", ".join(json.dumps(value) for value in (place.url, SIZES, task, code, text))
        return cast(dict[str, Any], self.window.run(f"{_PAGE}({arguments})"))

    def echo(self, place: Place) -> str:
        report = self.run(place, "echo")
        assert (report["different"], report["code"]) == ([], 1000)
        return str(report["extensions"])

    def fragments(self, place: Place) -> list[tuple[str, int]]:
        raise NotImplementedError("a page has no say in this")

    def close(self, place: Place, code: int | None, reason: str) -> End:
        report = self.run(place, "close", code, reason)
        return End(report["code"], report["reason"])

    def closed(self, place: Place, ask: str) -> End:
        report = self.run(place, "closed", text=ask)
        return End(report["code"], report["reason"])

    def vanish(self, place: Place) -> None:
        raise NotImplementedError("a page cannot do this")


def reset(sock: socket.socket) -> None:
    """End the TCP connection beneath TLS and WebSocket; closing ``sock`` afterwards throws away what would still be sent."""
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    sock.shutdown(socket.SHUT_RDWR)


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    # The page does not know the tests' authority.
    with Chromium("--ignore-certificate-errors") as chromium:
        window = chromium.window()
        # Otherwise every message travels through the DevTools as well.
        window.call("Network.disable")
        yield Browser(window)


def find_peer(request: pytest.FixtureRequest) -> Peer:
    made = LIBRARIES.get(request.param)
    return cast(Peer, request.getfixturevalue("browser")) if made is None else made()


LIBRARIES: dict[str, type[Peer]] = {"websockets": Websockets, "websocket-client": WebsocketClient, "ws": Node}
NAMES = [*LIBRARIES, "chromium"]


@pytest.fixture(params=NAMES)
def peer(request: pytest.FixtureRequest) -> Peer:
    return find_peer(request)


@pytest.fixture(params=list(LIBRARIES))
def library(request: pytest.FixtureRequest) -> Peer:
    """A peer that gives its user control over frames."""
    return find_peer(request)


def test_messages_of_all_sizes_come_back(peer: Peer, place: Place) -> None:
    extensions = peer.echo(place)
    assert ("permessage-deflate" in extensions) == (place.compression and peer.compresses)
    assert place.site.application.code_of(place.path) == 1000


def test_fragments_make_one_message(library: Peer, place: Place) -> None:
    assert library.fragments(place) == [("text", sum(PARTS)), ("bytes", sum(PARTS))]
    assert place.site.application.code_of(place.path) == 1000


@pytest.mark.parametrize(("code", "reason"), [(1000, ""), (3000, ""), (4999, REASON)], ids=["1000", "3000", "4999"])
def test_the_client_closes(peer: Peer, place: Place, code: int, reason: str) -> None:
    assert peer.close(place, code, reason).code == code
    assert place.site.application.code_of(place.path) == code


def test_the_client_closes_without_a_code(peer: Peer, place: Place) -> None:
    assert peer.close(place, None, "").code == peer.default_code
    assert place.site.application.code_of(place.path) == peer.default_code


@pytest.mark.parametrize(("ask", "code"), [("True", 1000), ("1000", 1000), ("3000", 3000), ("4999", 4999)], ids=str)
def test_the_server_closes(peer: Peer, place: Place, ask: str, code: int) -> None:
    assert peer.closed(place, CLOSE + ask).code == code
    assert place.site.application.code_of(place.path) == code


def test_the_client_vanishes(library: Peer, place: Place) -> None:
    library.vanish(place)
    assert place.site.application.code_of(place.path) == 1006
