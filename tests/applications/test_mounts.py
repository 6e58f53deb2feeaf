"""Channel layers, ASGI and WSGI applications mounted in one server, by the command in processes of their own."""

from __future__ import annotations

import hashlib
import json
import re
import signal
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
import requests
import websocket

from tests.soak.managers import GREENDAPHNE, Process, running
from tests.support.processes import SERVES
from tests.support.server import PATIENCE

APPLICATIONS = r"""
import hashlib, json, sys
from gevent import monkey
from greendaphne.layers.memory import MemoryChannelLayer

channel_layer = MemoryChannelLayer()
other_layer = MemoryChannelLayer()


def request(message):
    content = message.content
    body = b"".join(message.body())
    about = {"interface": "channels", "root_path": content["root_path"], "path": content["path"], "body": hashlib.sha256(body).hexdigest()}
    message.reply({"status": 200, "content": json.dumps(about).encode()})


def connect(message):
    message.reply({"accept": True})


def receive(message):
    message.reply({"text": message.content["path"] + " " + message.content["text"]})


channel_layer.routes = other_layer.routes = {"http.request": request, "websocket.connect": connect, "websocket.receive": receive}


async def asgi(scope, receive, send):
    if scope["type"] == "lifespan":
        while True:
            event = await receive()
            sys.stderr.write(event["type"] + "\n")
            await send({"type": event["type"] + ".complete"})
            if event["type"] == "lifespan.shutdown":
                return
    if scope["type"] == "websocket":
        await receive()
        await send({"type": "websocket.accept"})
        while (event := await receive())["type"] == "websocket.receive":
            await send({"type": "websocket.send", "text": "asgi " + event["text"]})
        return
    body = b""
    while True:
        event = await receive()
        body += event["body"]
        if not event["more_body"]:
            break
    about = {"interface": "asgi", "root_path": scope["root_path"], "path": scope["path"], "body": hashlib.sha256(body).hexdigest(),
             "patched": monkey.is_module_patched("socket")}
    await send({"type": "http.response.start", "status": 200, "headers": []})
    await send({"type": "http.response.body", "body": json.dumps(about).encode()})


def wsgi(environ, start_response):
    start_response("200 OK", [])
    about = {"interface": "wsgi", "root_path": environ["SCRIPT_NAME"], "path": environ["SCRIPT_NAME"] + environ["PATH_INFO"],
             "body": hashlib.sha256(environ["wsgi.input"].read()).hexdigest(), "patched": monkey.is_module_patched("socket")}
    return [json.dumps(about).encode()]
"""
MOUNTS = {"channels": "apps:channel_layer,channels", "asgi": "apps:asgi", "wsgi": "apps:wsgi,wsgi"}
MAIN = {"channels": "apps:channel_layer", "asgi": "apps:asgi", "wsgi": "apps:wsgi"}
SERVING = r"Serving at http://127\.0\.0\.1:(\d+)/"


@contextmanager
def served(directory: Path, *options: str) -> Iterator[tuple[Process, int]]:
    (directory / "apps.py").write_text(APPLICATIONS)
    command = [*GREENDAPHNE, "-p", "0", "--graceful-timeout", "10", *options]
    with running(command, directory=directory) as process:
        yield process, int(process.find(SERVING).group(1))
        if process.code is None:
            process.send(signal.SIGTERM)
            assert process.wait() == 0, process.log
    assert process.count("Traceback") == 0, process.log


def ask(port: int, path: str, body: bytes = b"") -> dict[str, object]:
    answer = requests.post(f"http://127.0.0.1:{port}{path}", data=body, timeout=PATIENCE)
    assert answer.status_code == 200, answer.text
    about: dict[str, object] = answer.json()
    assert about.pop("body") == hashlib.sha256(body).hexdigest()
    return about


def talk(port: int, path: str) -> websocket.WebSocket:
    return websocket.create_connection(f"ws://127.0.0.1:{port}{path}", timeout=PATIENCE)


@pytest.mark.parametrize("main", list(MAIN))
@pytest.mark.parametrize("workers", [(), ("--workers", "2")], ids=["alone", "master"])
def test_each_kind_beside_the_others(tmp_path: Path, main: str, workers: tuple[str, ...]) -> None:
    mounts = {"/old": "channels", "/api": "asgi", "/shop": "wsgi"}
    options = [f"--mount={path}={MOUNTS[kind]}" for path, kind in mounts.items()]
    with served(tmp_path, *workers, "--inline-workers", "2", *options, MAIN[main]) as (process, port):
        if workers:
            process.until(lambda: process.count(SERVES) >= 2, "all workers serve")
        large = b"0123456789abcdef" * 200_000
        for path, kind in {**mounts, "": main}.items():
            for body in (b"", b"short", large):
                about = ask(port, f"{path}/x", body)
                # Everything but a channel layer says whether it runs in a patched process.
                assert about.pop("patched", True)
                assert about == {"interface": kind, "root_path": path, "path": f"{path}/x"}, process.log
        # A prefix that ends within a name, and the longest one, and the mount point itself.
        assert ask(port, "/older")["interface"] == main
        assert ask(port, "/old") == {"interface": "channels", "root_path": "/old", "path": "/old"}
        old, api = talk(port, "/old/chat"), talk(port, "/api/chat")
        for number in range(3):
            old.send(str(number))
            api.send(str(number))
            assert old.recv() == f"/old/chat {number}"
            assert api.recv() == f"asgi {number}"
        process.send(signal.SIGTERM)
        for socket_ in (old, api):
            opcode, payload = socket_.recv_data()
            assert (opcode, payload[:2]) == (websocket.ABNF.OPCODE_CLOSE, (1012).to_bytes(2, "big"))
            assert socket_.sock is not None
            socket_.sock.close()
        assert process.wait() == 0, process.log
        number = (2 if workers else 1) * (2 if main == "asgi" else 1)
        assert process.count("lifespan.startup$") == process.count("lifespan.shutdown$") == number


def test_the_root_path_of_the_server_comes_before_the_mount_point(tmp_path: Path) -> None:
    options = ("--root-path", "/site", "--inline-workers", "1", "--mount", f"/old={MOUNTS['channels']}", MAIN["wsgi"])
    with served(tmp_path, *options) as (_, port):
        for path in ("/old/x", "/site/old/x"):
            assert ask(port, path)["interface"] == "channels"
            assert ask(port, path) == {"interface": "channels", "root_path": "/site/old", "path": "/site/old/x"}
        assert ask(port, "/x") == {"interface": "wsgi", "root_path": "/site", "path": "/site/x", "patched": True}


def test_mount_points_are_compared_decoded(tmp_path: Path) -> None:
    options = ("--root-path", "/s%C3%A4", "--mount", "/caf%C3%A9/a=apps:asgi", "--mount", "/api=apps:wsgi", MAIN["asgi"])
    with served(tmp_path, *options) as (_, port):
        for path in ("/caf%C3%A9/a/x", "/caf%c3%a9/%61/x", "/s%c3%a4/c%61f%c3%a9/a/x"):
            about = ask(port, path)
            assert (about["interface"], about["root_path"], about["path"]) == ("asgi", "/sä/café/a", "/sä/café/a/x")
        # WSGI has the bytes of a path as characters.
        script = "/sä/api".encode().decode("latin-1")
        assert ask(port, "/%61pi/x") == {"interface": "wsgi", "root_path": script, "path": script + "/x", "patched": True}
        assert ask(port, "/caf%C3%A9")["root_path"] == "/sä"


@pytest.mark.parametrize(
    ("options", "patched"),
    [
        (("--asgi", "--mount", "/api=apps:asgi,asgi3"), False),
        (("--asgi", "--mount", "/api=apps:asgi"), True),
        (("--asgi", "--mount", f"/old={MOUNTS['channels']}", "--inline-workers", "1"), True),
        (("--asgi", "--no-patch", "--mount", f"/old={MOUNTS['channels']}", "--inline-workers", "1"), False),
        (("--asgi", "--mount", "/shop=apps:wsgi"), True),
    ],
)
def test_a_process_is_patched_unless_all_that_it_serves_says_asgi(tmp_path: Path, options: tuple[str, ...], patched: bool) -> None:
    with served(tmp_path, *options, MAIN["asgi"]) as (_, port):
        assert ask(port, "/")["patched"] is patched
        if "--inline-workers" in options:
            assert ask(port, "/old/x", b"body")["interface"] == "channels"


UNANSWERED = "No worker can answer requests"
OWN_MEMORY = "The channel layer is in each process' own memory"


def test_a_mounted_layer_that_nothing_reads_is_warned_of_once(tmp_path: Path) -> None:
    layers = ("--mount", f"/old={MOUNTS['channels']}", "--mount", "/other=apps:other_layer")
    with served(tmp_path, *layers, MAIN["wsgi"]) as (process, _):
        process.find(UNANSWERED)
        assert process.count(UNANSWERED) == 1
    with served(tmp_path, "-w", "2", "--inline-workers", "1", *layers, MAIN["wsgi"]) as (process, _):
        process.until(lambda: process.count("serves") >= 2, "all workers serve")
        assert (process.count(UNANSWERED), process.count(OWN_MEMORY)) == (0, 1)
    check = [*GREENDAPHNE, "--check-config", *layers, MAIN["wsgi"]]
    done = subprocess.run(check, cwd=tmp_path, capture_output=True, text=True, timeout=PATIENCE, check=False)
    assert done.returncode == 0
    assert done.stderr.count(UNANSWERED) == 1
    assert "Nothing else is wrong" in done.stderr


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (
            ("--mount", "/api=apps:asgi,asgi3", "--inline-workers", "1"),
            "--inline-workers is for channel layers, and the application is wsgi.",
        ),
        (("--mount", "/%6fld=apps:asgi", "--mount", "/old/=apps:wsgi"), "--mount names several applications for /old."),
        (("--mount", "/old=apps:nothing"), "Cannot find the application apps:nothing"),
        (("--mount", "/old=nowhere:nothing"), "No module named 'nowhere'"),
        (("--mount", "/old=apps:asgi,channels"), "apps:asgi is not a channel layer"),
        (
            ("--mount", "/old=apps:channel_layer,wsgi"),
            "apps:channel_layer: a WSGI application has to be callable, and MemoryChannelLayer is not.",
        ),
    ],
)
def test_a_mistake_is_one_line(tmp_path: Path, options: tuple[str, ...], message: str) -> None:
    (tmp_path / "apps.py").write_text(APPLICATIONS)
    with running([*GREENDAPHNE, "-p", "0", *options, MAIN["wsgi"]], directory=tmp_path) as process:
        assert process.wait() == 1
        assert process.count(re.escape(message)) == 1, process.log
        assert process.count("ERROR") == 1
        assert process.count("Traceback") == 0


def test_health_and_metrics_of_all_parts(tmp_path: Path) -> None:
    options = ("--health-path", "/health", "--metrics-path", "/metrics", "--inline-workers", "1")
    with served(tmp_path, *options, "--mount", f"/old={MOUNTS['channels']}", "--mount", "/api=apps:asgi", MAIN["wsgi"]) as (_, port):
        for path in ("/old/x", "/api/x", "/x"):
            ask(port, path)
        assert requests.get(f"http://127.0.0.1:{port}/health", timeout=PATIENCE).status_code == 200
        text = requests.get(f"http://127.0.0.1:{port}/metrics", timeout=PATIENCE).text
        assert "greendaphne_asgi_lifespan 1.0" in text
        assert re.search(r"^greendaphne_\w*layer\w*", text, re.MULTILINE), text


def test_http2_reaches_each_part(tmp_path: Path) -> None:
    options = ("--http2-cleartext", "--inline-workers", "1", "--mount", f"/old={MOUNTS['channels']}", "--mount", "/api=apps:asgi")
    with served(tmp_path, *options, MAIN["wsgi"]) as (_, port):
        command = ["curl", "--silent", "--show-error", "--http2-prior-knowledge"]
        for path, kind in {"/old": "channels", "/api": "asgi", "": "wsgi"}.items():
            url = f"http://127.0.0.1:{port}{path}/x"
            done = subprocess.run([*command, url], capture_output=True, text=True, timeout=PATIENCE, check=True)
            assert json.loads(done.stdout)["interface"] == kind
