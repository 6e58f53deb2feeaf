"""HTTP/3 for clients, by Caddy in front of the server: the configuration in ``examples/caddy`` with the real program."""

from __future__ import annotations

import asyncio
import json
import os
import shutil
import socket
import ssl
import subprocess
import time
import urllib.request
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any, NamedTuple

import pytest
import websocket
from aioquic.asyncio.client import connect
from aioquic.asyncio.protocol import QuicConnectionProtocol
from aioquic.h3.connection import H3_ALPN, H3Connection
from aioquic.h3.events import DataReceived, HeadersReceived
from aioquic.quic.configuration import QuicConfiguration
from aioquic.quic.events import QuicEvent

from tests.modern.serving import command
from tests.support.certificates import Authority
from tests.support.scripts import PATIENCE, ROOT

#: Header fields by which a client could forge its address.
CLAIMS = {
    "x-forwarded-for": "6.6.6.6",
    "x-forwarded-port": "666",
    "x-forwarded-proto": "http",
    "x-forwarded-host": "evil.example",
    "forwarded": "for=6.6.6.6",
    "daphne-root-path": "/evil",
}


class Front(NamedTuple):
    """Caddy, for ``localhost``."""

    port: int
    authority: Path


@pytest.fixture(scope="module")
def front(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Front]:
    program = shutil.which("caddy")
    assert program is not None, "caddy is missing: apt-get install caddy"
    directory = tmp_path_factory.mktemp("caddy")
    authority = Authority.make(directory)
    certificate = authority.server("localhost").write(directory / "site.pem")
    with command("tests.modern.http3_site", directory / "log", "--asgi", "--forwarded-allow-ips", "127.0.0.1") as server:
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            port = probe.getsockname()[1]
        text = (ROOT / "examples" / "caddy" / "Caddyfile").read_text(encoding="utf-8")
        changes = {
            "www.example.com {": f"localhost:{port} {{\n\tbind 127.0.0.1\n\ttls {certificate} {certificate}\n",
            "reverse_proxy 127.0.0.1:8000": f"reverse_proxy 127.0.0.1:{server.port}",
        }
        for old, new in changes.items():
            assert old in text
            text = text.replace(old, new)
        (directory / "Caddyfile").write_text(f"{{\n\tadmin off\n\tauto_https disable_redirects\n}}\n{text}", encoding="utf-8")
        with (directory / "caddy.log").open("wb") as log:
            process = subprocess.Popen(
                [program, "run", "--adapter", "caddyfile", "--config", str(directory / "Caddyfile")],
                stdout=log,
                stderr=log,
                env={**os.environ, "HOME": str(directory), "XDG_DATA_HOME": str(directory), "XDG_CONFIG_HOME": str(directory)},
            )
        try:
            wait_for(port, process, directory / "caddy.log")
            yield Front(port, authority.file)
        finally:
            process.terminate()
            process.wait(PATIENCE)


def wait_for(port: int, process: subprocess.Popen[bytes], log: Path) -> None:
    deadline = time.monotonic() + PATIENCE
    while True:
        assert process.poll() is None, log.read_text()
        assert time.monotonic() < deadline, log.read_text()
        try:
            socket.create_connection(("127.0.0.1", port), 1).close()
            return
        except OSError:
            time.sleep(0.05)


class Client(QuicConnectionProtocol):  # type: ignore[misc]
    """One HTTP/3 connection; what it receives waits in a queue for each request."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.http = H3Connection(self._quic)
        self.received: dict[int, asyncio.Queue[DataReceived | HeadersReceived]] = {}

    def quic_event_received(self, event: QuicEvent) -> None:
        for each in self.http.handle_event(event):
            if isinstance(each, DataReceived | HeadersReceived):
                self.received[each.stream_id].put_nowait(each)

    def ask(self, path: str, headers: dict[str, str] | None = None, body: bytes = b"") -> asyncio.Queue[DataReceived | HeadersReceived]:
        stream = self._quic.get_next_available_stream_id()
        self.received[stream] = asyncio.Queue()
        method = "POST" if body else "GET"
        fields = {":method": method, ":scheme": "https", ":authority": "localhost", ":path": path, **(headers or {})}
        self.http.send_headers(stream, [(name.encode(), value.encode()) for name, value in fields.items()], end_stream=not body)
        if body:
            self.http.send_data(stream, body, end_stream=True)
        self.transmit()
        return self.received[stream]


async def body_of(events: asyncio.Queue[DataReceived | HeadersReceived]) -> bytes:
    """The body of a response with status 200."""
    body, ended = b"", False
    while not ended:
        event = await asyncio.wait_for(events.get(), PATIENCE)
        if isinstance(event, HeadersReceived):
            assert (b":status", b"200") in event.headers
        else:
            body += event.data
        ended = event.stream_ended
    return body


@asynccontextmanager
async def client(front: Front) -> AsyncIterator[Client]:
    configuration = QuicConfiguration(alpn_protocols=H3_ALPN, is_client=True, server_name="localhost")
    configuration.load_verify_locations(str(front.authority))
    async with connect("127.0.0.1", front.port, configuration=configuration, create_protocol=Client) as protocol:
        assert isinstance(protocol, Client)
        yield protocol


def test_the_application_sees_the_client_and_not_what_it_claims(front: Front) -> None:
    async def ask() -> Any:
        async with client(front) as connection:
            return json.loads(await body_of(connection.ask("/page?a=b", CLAIMS)))

    seen = asyncio.run(ask())
    assert (seen["http_version"], seen["scheme"], seen["path"], seen["query_string"]) == ("1.1", "https", "/page", "a=b")
    assert seen["root_path"] == ""
    assert seen["client"][0] == "127.0.0.1"
    assert seen["client"][1] not in (0, 666)
    assert seen["headers"]["host"] == "localhost"
    assert not {"forwarded", "x-forwarded-host", "daphne-root-path"} & set(seen["headers"])


def test_a_stream_and_an_upload_at_the_same_time(front: Front) -> None:
    async def ask() -> bytes:
        async with client(front) as connection:
            events = connection.ask("/events")
            assert isinstance(await asyncio.wait_for(events.get(), PATIENCE), HeadersReceived)
            first = await asyncio.wait_for(events.get(), PATIENCE)
            assert isinstance(first, DataReceived)
            assert first.data == b"first"
            uploaded = await body_of(connection.ask("/upload", {"content-length": "3000000"}, bytes(3_000_000)))
            await body_of(connection.ask("/go"))
            assert (await body_of(events)) == b"second"
            return uploaded

    assert asyncio.run(ask()) == b"3000000"


def test_browsers_are_told_of_it(front: Front) -> None:
    context = ssl.create_default_context(cafile=str(front.authority))
    with urllib.request.urlopen(f"https://localhost:{front.port}/", timeout=PATIENCE, context=context) as response:
        assert response.headers["alt-svc"].startswith(f'h3=":{front.port}"')


def test_websockets_use_http1(front: Front) -> None:
    socket = websocket.create_connection(
        f"wss://localhost:{front.port}/", timeout=PATIENCE, sslopt={"ca_certs": str(front.authority), "cert_reqs": ssl.CERT_REQUIRED}
    )
    socket.send("hello")
    assert socket.recv() == "wss hello"
    socket.close()
