"""A WebSocket client that connects again when it is told to."""

from __future__ import annotations

import websocket

from .load import PATIENCE, Context, Failed

#: Service Restart (IANA's registry of close codes).
RESTART = 1012


def echo(context: Context) -> None:
    """Send and get back, until the server restarts."""
    host, port = context.target.plain
    try:
        client = websocket.create_connection(f"ws://{host}:{port}/", timeout=PATIENCE)
    except websocket.WebSocketException as error:
        raise Failed(f"connecting: {error!r}") from None
    try:
        while not context.stop.is_set():
            token = context.token()
            if not _send(client, token):
                context.report.event("WebSockets closed with 1012")
                return
            context.report.request("websocket")
            context.pause(0.02)
        client.close(timeout=2)
    finally:
        client.shutdown()  # type: ignore[no-untyped-call]


def _send(client: websocket.WebSocket, token: str) -> bool:
    """Whether ``token`` came back; the server is restarting otherwise."""
    try:
        client.send(token)
        opcode, data = client.recv_data()
    except (websocket.WebSocketException, OSError) as error:
        raise Failed(f"ended without a close frame: {error!r}") from None
    if opcode == websocket.ABNF.OPCODE_CLOSE:
        code = int.from_bytes(data[:2], "big")
        if code != RESTART:
            raise Failed(f"closed with {code}")
        return False
    if data.decode() != token:
        raise Failed(f"{data!r} instead of {token}")
    return True
