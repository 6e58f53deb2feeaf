"""HTTP/1.1 clients on plain sockets; each is one connection's life."""

from __future__ import annotations

import hashlib
import select
import socket

from tests.support.server import Client, Response

from . import answers
from .load import PATIENCE, Context, Failed


def connect(context: Context) -> Client:
    return Client(socket.create_connection(context.target.plain, timeout=PATIENCE))


def ended(sock: socket.socket) -> bool:
    """Whether an idle connection has been closed, as clients look before they use one again."""
    poll = select.poll()
    poll.register(sock, select.POLLIN | select.POLLHUP | select.POLLERR)
    return bool(poll.poll(0))


def read(client: Client, kind: str, context: Context, number: int, expected: bytes) -> Response:
    """The answer to the ``number``-th request on a connection."""
    try:
        response = client.read_response()
    except (EOFError, OSError) as error:
        raise Failed(f"request {number} of a connection from port {client.sock.getsockname()[1]}: {error!r}") from None
    if response.status != 200 or response.body != expected:
        raise Failed(f"request {number}: {response.status} {response.body[:100]!r} instead of {expected[:100]!r}")
    context.report.request(kind)
    return response


def get(context: Context, path: str) -> tuple[bytes, str]:
    token = context.token()
    return f"GET {path}?{token} HTTP/1.1\r\nHost: soak\r\n\r\n".encode(), token


def persistent(context: Context, kind: str, path: str, think: float) -> None:
    """Requests on one connection until either side has enough of it."""
    with connect(context) as client:
        number = 0
        while not context.stop.is_set():
            if number and ended(client.sock):
                context.report.event("idle connections closed by the server")
                return
            request, token = get(context, path)
            number += 1
            try:
                client.send(request)
            except OSError as error:
                raise Failed(f"sending request {number}: {error!r}") from None
            expected = answers.quick(token) if path == "/quick" else b"".join(answers.pieces(token))
            if read(client, kind, context, number, expected).header("Connection") == "close":
                context.report.event("answers with Connection: close")
                return
            context.pause(think)


def keep_alive(context: Context) -> None:
    """Short requests, some at once behind the last one and some after a while."""
    persistent(context, "keep-alive", "/quick", context.chance.choice((0.0, 0.005, 0.05, 1.5)))


def streams(context: Context) -> None:
    """Answers that take a while."""
    persistent(context, "stream", "/stream", 0.05)


def new_connections(context: Context) -> None:
    """One request for each connection."""
    with connect(context) as client:
        token = context.token()
        client.send(f"GET /quick?{token} HTTP/1.1\r\nHost: soak\r\nConnection: close\r\n\r\n".encode())
        read(client, "new", context, 1, answers.quick(token))
        if not client.at_eof():
            raise Failed("the connection was not closed in good order")
    context.pause(0.01)


def uploads(context: Context) -> None:
    """Bodies of many sizes, whole and in pieces."""
    with connect(context) as client:
        number = 0
        while not context.stop.is_set():
            if number and ended(client.sock):
                context.report.event("idle connections closed by the server")
                return
            number += 1
            body = context.chance.randbytes(context.chance.choice((100, 70_000, 400_000, 1_500_000)))
            try:
                client.send(f"POST /upload HTTP/1.1\r\nHost: soak\r\nContent-Length: {len(body)}\r\n\r\n".encode())
                for start in range(0, len(body), 65536):
                    client.send(body[start : start + 65536])
                    context.pause(0.01)
            except OSError as error:
                raise Failed(f"sending body {number} of {len(body)} bytes: {error!r}") from None
            expected = answers.upload(len(body), hashlib.sha256(body).hexdigest())
            if read(client, "upload", context, number, expected).header("Connection") == "close":
                context.report.event("answers with Connection: close")
                return
            context.pause(0.05)
