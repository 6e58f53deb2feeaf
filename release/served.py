"""Serve each interface with the installed server and ask it over HTTP/1.1, HTTP/2 and WSS.

:mod:`release.check` copies this file into an empty directory and runs it with the Python of a new environment, warnings being errors::

    python -W error served.py

It uses the server's own dependencies as clients, so the environment has nothing but the wheel and its extras.
"""

from __future__ import annotations

import asyncio
import contextlib
import http.client
import importlib
import re
import signal
import socket
import ssl
import subprocess
import sys
import warnings
from pathlib import Path

import h2.config
import h2.connection
import h2.events
from websockets.asyncio.client import connect

#: Seconds for an answer.
PATIENCE = 60.0
PORT = re.compile(r"Port 0 of endpoint .* is ([0-9]+)$")
#: Modules that need Django, which no extra brings.
DJANGO = re.compile(r"^\s*(from|import) (django|channels)\b", re.MULTILINE)

APPLICATIONS = {
    "wsgi": """
def application(environ, start_response):
    websocket = environ.get("wsgi.websocket")
    if websocket is not None:
        while (message := websocket.receive()) is not None:
            websocket.send(message)
        return []
    start_response("200 OK", [("Content-Type", "text/plain")])
    return [b"Hello ", environ["SERVER_PROTOCOL"].encode()]
""",
    "asgi": """
async def application(scope, receive, send):
    if scope["type"] == "websocket":
        await receive()
        await send({"type": "websocket.accept"})
        while (event := await receive())["type"] == "websocket.receive":
            await send({"type": "websocket.send", "text": event["text"]})
    elif scope["type"] == "http":
        await send({"type": "http.response.start", "status": 200, "headers": [(b"content-type", b"text/plain")]})
        await send({"type": "http.response.body", "body": b"Hello HTTP/" + scope["http_version"].encode()})
    else:
        raise NotImplementedError(scope["type"])
""",
    "layer": """
from greendaphne.layers.memory import MemoryChannelLayer

application = MemoryChannelLayer()
application.routes = {
    "http.request": lambda message: message.reply(
        {"status": 200, "headers": [(b"content-type", b"text/plain")], "content": b"Hello HTTP/" + message.content["http_version"].encode()}
    ),
    "websocket.connect": lambda message: message.reply({"accept": True}),
    "websocket.receive": lambda message: message.reply({"text": message.content["text"]}),
}
""",
}
#: Options beside the endpoints.
OPTIONS = {"wsgi": ["--wsgi"], "asgi": ["--asgi"], "layer": ["--inline-workers", "2"]}


def context(*protocols: str) -> ssl.SSLContext:
    """A client's TLS; the server's certificate is its own, made at the start."""
    made = ssl.create_default_context()
    made.check_hostname = False
    made.verify_mode = ssl.CERT_NONE
    if protocols:
        made.set_alpn_protocols(protocols)
    return made


def ask_http1(port: int, tls: bool) -> str:
    """The body that HTTP/1.1 brings; ``/metrics`` is of the server."""
    connection = (
        http.client.HTTPSConnection("127.0.0.1", port, timeout=PATIENCE, context=context())
        if tls
        else http.client.HTTPConnection("127.0.0.1", port, timeout=PATIENCE)
    )
    with contextlib.closing(connection):
        connection.request("GET", "/")
        answer = connection.getresponse()
        body = answer.read().decode()
        assert answer.status == 200, (answer.status, body)
        connection.request("GET", "/metrics")
        answer = connection.getresponse()
        assert b"greendaphne_" in answer.read()
    return body


def ask_http2(port: int) -> str:
    """The body that HTTP/2 brings, after ALPN chose it."""
    with (
        socket.create_connection(("127.0.0.1", port), timeout=PATIENCE) as plain,
        context("h2").wrap_socket(plain, server_hostname="localhost") as tls,
    ):
        assert tls.selected_alpn_protocol() == "h2"
        protocol = h2.connection.H2Connection(h2.config.H2Configuration(client_side=True))
        protocol.initiate_connection()
        fields = [(":method", "GET"), (":scheme", "https"), (":authority", f"localhost:{port}"), (":path", "/")]
        protocol.send_headers(1, fields, end_stream=True)
        body = b""
        status = b""
        while True:
            tls.sendall(protocol.data_to_send())
            data = tls.recv(65536)
            assert data, "the server closed the connection"
            for event in protocol.receive_data(data):
                if isinstance(event, h2.events.ResponseReceived):
                    status = dict(event.headers or [])[b":status"]
                elif isinstance(event, h2.events.DataReceived):
                    body += event.data or b""
                elif isinstance(event, h2.events.StreamEnded):
                    protocol.close_connection()
                    tls.sendall(protocol.data_to_send())
                    assert status == b"200", (status, body)
                    return body.decode()


async def ask_websocket(port: int) -> str:
    """What comes back over WSS.

    The synchronous client reads in a thread while it writes, which OpenSSL does not support: one connection in thirty failed, also with
    the library's own server.
    """
    async with connect(f"wss://127.0.0.1:{port}/", ssl=context(), open_timeout=PATIENCE, close_timeout=PATIENCE) as websocket:
        await websocket.send("Hello, WebSocket")
        return str(await asyncio.wait_for(websocket.recv(), PATIENCE))


def serve(interface: str) -> None:
    """Serve one application, ask it in each way, and end the server."""
    name = f"served_{interface}"
    Path(f"{name}.py").write_text(APPLICATIONS[interface])
    command = [sys.executable, "-W", "error", "-m", "greendaphne", "--metrics-path", "/metrics", *OPTIONS[interface]]
    for tls in (False, True):
        line = [*command, *(["--tls-dev"] if tls else []), "-e", "tcp:0:interface=127.0.0.1", f"{name}:application"]
        process = subprocess.Popen(line, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True)
        assert process.stderr is not None
        said = []
        try:
            for text in process.stderr:
                said.append(text)
                if match := PORT.search(text):
                    port = int(match[1])
                    break
            else:
                raise AssertionError("".join(said))
            assert ask_http1(port, tls) == "Hello HTTP/1.1"
            if tls:
                assert ask_http2(port) in ("Hello HTTP/2", "Hello HTTP/2.0")
                assert asyncio.run(ask_websocket(port)) == "Hello, WebSocket"
            process.send_signal(signal.SIGTERM)
            said.append(process.communicate(timeout=PATIENCE)[1])
        finally:
            process.kill()
            process.wait()
            process.stderr.close()
        text = "".join(said)
        assert process.returncode == 0, text
        assert "Traceback" not in text, text
        assert "Warning" not in text, text


def import_all() -> int:
    """Import each module of the package that needs no Django, and return how many there are."""
    # acme says so on each import there.
    warnings.filterwarnings("ignore", "Python 3.10 support will be dropped", DeprecationWarning)
    package = Path(importlib.import_module("greendaphne").__file__ or "").parent
    count = 0
    for path in sorted(package.rglob("*.py")):
        if path.stem in ("__init__", "__main__") or DJANGO.search(path.read_text(encoding="utf-8")):
            continue
        importlib.import_module(".".join(path.relative_to(package.parent).with_suffix("").parts))
        count += 1
    return count


def main() -> None:
    import greendaphne

    # asyncio of Python 3.10 says so of TLS connections that the other side closed.
    warnings.filterwarnings("ignore", "unclosed transport <asyncio.sslproto", ResourceWarning)
    package = Path(greendaphne.__file__).resolve()
    assert Path(sys.prefix).resolve() in package.parents, f"{package} is not the installed package"
    print(f"    {import_all()} modules imported", flush=True)
    for interface in APPLICATIONS:
        serve(interface)
        print(f"    {interface}: HTTP/1.1, HTTPS, HTTP/2, WSS", flush=True)


if __name__ == "__main__":
    main()
