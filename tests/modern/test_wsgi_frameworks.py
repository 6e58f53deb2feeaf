"""Frameworks and libraries of today on the ``greendaphne`` command, over real connections."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest

from tests.modern.serving import Running, command
from tests.support.proxies import eventually
from tests.support.scripts import PATIENCE

UPLOAD = 50 * 1024 * 1024
FRAMEWORKS = ["flask", "django", "pyramid", "falcon", "bottle"]


@pytest.fixture(scope="module", params=FRAMEWORKS)
def site(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Running]:
    log = tmp_path_factory.mktemp("log") / request.param
    with command(f"tests.modern.wsgi_sites:{request.param}_site", log, "--factory", "--wsgi", "--graceful-timeout", "2") as running:
        yield running


@pytest.fixture
def client(site: Running) -> Iterator[httpx.Client]:
    with httpx.Client(base_url=site.url, timeout=PATIENCE) as made:
        yield made


def test_hello(client: httpx.Client) -> None:
    for _ in range(3):
        answer = client.get("/")
        assert (answer.status_code, answer.text) == (200, "hello é")


class Data:
    """50 MiB that are not in memory."""

    def __init__(self) -> None:
        self.left = UPLOAD
        self.hash = hashlib.sha256()

    def read(self, n: int = -1) -> bytes:
        data = os.urandom(min(self.left, 65536 if n < 0 else n))
        self.left -= len(data)
        self.hash.update(data)
        return data

    def __iter__(self) -> Iterator[bytes]:
        while data := self.read(65536):
            yield data


def test_upload(client: httpx.Client) -> None:
    data = Data()
    answer = client.post("/upload", content=data, headers={"Content-Length": str(UPLOAD), "Content-Type": "application/octet-stream"})
    assert answer.text == data.hash.hexdigest()


def test_upload_of_a_form(client: httpx.Client) -> None:
    content = os.urandom(1_000_000)
    answer = client.post("/upload", files={"file": ("name", content)})
    assert answer.text == hashlib.sha256(content).hexdigest()


def test_download(client: httpx.Client) -> None:
    answer = client.get("/download")
    assert answer.content == bytes(range(256)) * (5 * 1024 * 1024 // 256)


def test_stream(client: httpx.Client) -> None:
    with client.stream("GET", "/stream") as answer:
        assert b"".join(answer.iter_raw()) == b"".join(b"piece %d\n" % number for number in range(5))


def test_session(client: httpx.Client) -> None:
    assert [client.get("/session").text for _ in range(3)] == ["1", "2", "3"]


def test_error_pages(client: httpx.Client, site: Running) -> None:
    assert client.get("/error").status_code == 500
    assert client.get("/nothing").status_code == 404
    # A thread writes the log.
    eventually(lambda: "Traceback" in site.log.read_text())


def test_async_views(client: httpx.Client, site: Running) -> None:
    if site.log.name not in ("flask", "django"):
        pytest.skip("the framework has none in WSGI")
    import concurrent.futures

    with concurrent.futures.ThreadPoolExecutor(20) as pool:
        answers = list(pool.map(lambda _: client.get("/async").text, range(100)))
    assert answers == ["async"] * 100


# --- WebSockets ---


def connect(url: str, **options: Any) -> Any:
    import websockets.sync.client

    return websockets.sync.client.connect(url, open_timeout=PATIENCE, **options)


@pytest.mark.parametrize("mode", ["eager", "lazy"])
@pytest.mark.parametrize("tls", [False, True])
def test_flask_websockets(tmp_path: Path, mode: str, tls: bool) -> None:
    import ssl

    options = ["--factory", "--wsgi", "--wsgi-websocket", mode, "--graceful-timeout", "2", *(["--tls-dev"] if tls else [])]
    context = None
    if tls:
        context = ssl.create_default_context()
        context.check_hostname = False
        context.verify_mode = ssl.CERT_NONE
        # This client reads in a thread while it writes.  OpenSSL does not support that while it takes the session tickets of TLS 1.3.
        context.maximum_version = ssl.TLSVersion.TLSv1_2
    with command("tests.modern.wsgi_sites:sockets_site", tmp_path / "log", *options) as running:
        base = f"{'wss' if tls else 'ws'}://127.0.0.1:{running.port}"
        with connect(base + "/sock", subprotocols=["other", "chat"], ssl=context) as client:
            assert client.subprotocol == "chat"
            for message in ("text é", b"\x00\xff", "x" * 100_000):
                client.send(message)
                assert client.recv(PATIENCE) == message
            client.send("close")
            from websockets.exceptions import ConnectionClosed

            with pytest.raises(ConnectionClosed) as info:
                client.recv(PATIENCE)
            assert info.value.rcvd is not None
            assert info.value.rcvd.code == 4001
        with connect(base + "/sockets", ssl=context) as client:
            for message in ("text é", b"\x00\xff", "x" * 100_000):
                client.send(message)
                assert client.recv(PATIENCE) == message
    text = (tmp_path / "log").read_text()
    assert "Traceback" not in text, text


@pytest.mark.parametrize("transports", [["polling"], ["websocket"], ["polling", "websocket"]], ids=["polling", "websocket", "upgrade"])
def test_socketio(tmp_path: Path, transports: list[str]) -> None:
    import socketio

    with command("tests.modern.wsgi_sites:socketio_site", tmp_path / "log", "--factory", "--wsgi", "--graceful-timeout", "2") as running:  # noqa: SIM117 - two lines are easier to read
        with socketio.SimpleClient() as client:
            client.connect(running.url, transports=transports)
            for data in ("text", {"a": [1, 2]}, b"\x00\xff" * 35_000):
                assert client.call("echo", data, timeout=int(PATIENCE)) == data
                assert client.receive(timeout=PATIENCE) == ["echoed", data]
            if transports != ["polling"]:
                assert client.transport == "websocket"
    text = (tmp_path / "log").read_text()
    assert "Traceback" not in text, text


def test_thread_locals_of_a_patched_process(tmp_path: Path) -> None:
    with command("tests.modern.wsgi_locals", tmp_path / "log", "--graceful-timeout", "2") as running, httpx.Client() as client:
        assert {client.get(running.url).text for _ in range(20)} == {"nothing nothing 1"}
