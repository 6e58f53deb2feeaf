"""ASGI frameworks of today on the ``greendaphne`` command, over real connections."""

from __future__ import annotations

import hashlib
import json
import os
import time
from pathlib import Path

import httpx
import pytest
from websocket import WebSocket, WebSocketBadStatusException, create_connection

from tests.modern.asgi_sites import PIECES
from tests.modern.serving import command
from tests.support.scripts import PATIENCE

FRAMEWORKS = ["starlette", "fastapi", "quart", "litestar", "django"]
UPLOAD = 20 * 1024 * 1024


def wait_for(path: Path) -> str:
    """The text of a file that the application writes."""
    deadline = time.monotonic() + PATIENCE
    while not path.exists():
        assert time.monotonic() < deadline, f"{path.name} was not written"
        time.sleep(0.01)
    return path.read_text()


def connect(url: str) -> WebSocket:
    return create_connection(url.replace("http", "ws", 1), timeout=PATIENCE)


@pytest.mark.parametrize("patch", ["--no-patch", "--patch"])
@pytest.mark.parametrize("framework", FRAMEWORKS)
def test_framework(framework: str, patch: str, tmp_path: Path) -> None:
    place = f"tests.modern.asgi_sites:{framework}_site"
    log = tmp_path / "log"
    django = framework == "django"
    with (
        command(place, log, "--factory", "--asgi", patch, "--graceful-timeout", "5", env={"NOTES": str(tmp_path)}) as running,
        httpx.Client(base_url=running.url, timeout=PATIENCE) as client,
    ):
        if not django:
            assert wait_for(tmp_path / "startup") == "done"
        assert client.get("/").text == "hello"
        body = os.urandom(UPLOAD)
        assert client.post("/upload", content=body).text == hashlib.sha256(body).hexdigest()
        assert client.post("/upload", content=iter([b"a", b"b"])).text == hashlib.sha256(b"ab").hexdigest()
        if framework == "fastapi":
            assert client.post("/form", files={"file": ("name", body[:1_000_000])}).json() == {"name": "name", "size": 1_000_000}
        assert client.get("/stream").content == b"".join(PIECES)
        if not django:
            assert client.get("/background?background").text == "soon"
            assert wait_for(tmp_path / "background") == "ran"
        with client.stream("GET", "/forever?ended") as response:
            assert next(response.iter_raw()).startswith(b"tick")
        assert wait_for(tmp_path / "ended") == "ended"
        socket = connect(f"{running.url}/ws")
        for text in ("one", "zwei €", "x" * 100_000):
            socket.send(text)
            assert socket.recv() == text
        socket.close()
        if framework != "litestar":
            with pytest.raises(WebSocketBadStatusException) as denied:
                connect(f"{running.url}/denied")
            assert denied.value.status_code == (403 if django else 401)
        assert client.get("/").text == "hello"
    if not django:
        assert wait_for(tmp_path / "shutdown") == "done"
    text = log.read_text()
    assert "Traceback" not in text, text
    assert " ERROR " not in text, text


def groups(options: list[str], environment: dict[str, str], log: Path) -> None:
    with command("tests.modern.asgi_sites:django_site", log, "--factory", *options, env=environment) as running:
        sockets = [connect(f"{running.url}/chat") for _ in range(5)]
        sockets[0].send(json.dumps({"n": 1}))
        assert [json.loads(socket.recv()) for socket in sockets] == [{"n": 1}] * 5
        sockets.pop().close()
        sockets[0].send(json.dumps({"n": 2}))
        assert [json.loads(socket.recv()) for socket in sockets] == [{"n": 2}] * 4
        for socket in sockets:
            socket.close()
    assert "Traceback" not in log.read_text(), log.read_text()


def test_groups_in_memory(tmp_path: Path) -> None:
    groups(["--asgi"], {"NOTES": str(tmp_path)}, tmp_path / "log")


def test_groups_over_redis(tmp_path: Path) -> None:
    from tests.support.redis_server import redis_server

    with redis_server() as redis:
        groups(["--asgi"], {"NOTES": str(tmp_path), "REDIS": redis.url}, tmp_path / "log")


def test_http_by_wsgi_and_websockets_by_asgi(tmp_path: Path) -> None:
    options = ["--websocket-app", "tests.modern.asgi_mixed:asgi"]
    with command("tests.modern.asgi_mixed:wsgi", tmp_path / "log", *options, env={"NOTES": str(tmp_path)}) as running:
        assert httpx.get(f"{running.url}/").text == "hello"
        sockets = [connect(f"{running.url}/chat") for _ in range(3)]
        sockets[0].send(json.dumps({"n": 1}))
        assert [json.loads(socket.recv()) for socket in sockets] == [{"n": 1}] * 3
        for socket in sockets:
            socket.close()


def test_mounts(tmp_path: Path) -> None:
    options = ["--mount", "/new=tests.modern.asgi_mixed:asgi", "--mount", "/plain=tests.modern.asgi_mixed:plain,asgi3"]
    with command("tests.modern.asgi_mixed:wsgi", tmp_path / "log", *options, env={"NOTES": str(tmp_path)}) as running:
        assert httpx.get(f"{running.url}/").text == "hello"
        assert httpx.get(f"{running.url}/new/").text == "hello"
        assert httpx.get(f"{running.url}/plain/x").text == "/plain /plain/x"
        assert httpx.get(f"{running.url}/plainer").status_code == 404
