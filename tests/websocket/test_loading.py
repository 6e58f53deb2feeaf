"""What the first WebSocket of a channel layer's server imports: in pieces, between which other clients are served."""

from __future__ import annotations

from tests.support.scripts import run_script

#: A server of a channel layer, and clients, in greenlets of one hub: what they do takes rounds of the hub and depends on no clock.
SERVER = """
import socket, sys
import gevent
from greendaphne import websocket
from greendaphne.layers.memory import MemoryChannelLayer
from greendaphne.server import Server

PIECES = len(websocket._unloaded)
HANDSHAKE = (
    b"GET / HTTP/1.1\\r\\nHost: a\\r\\nConnection: Upgrade\\r\\nUpgrade: websocket\\r\\nSec-WebSocket-Version: 13\\r\\n"
    b"Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\\r\\n\\r\\n"
)
HELLO = b"GET / HTTP/1.1\\r\\nHost: a\\r\\n\\r\\n"

layer = MemoryChannelLayer()
server = Server(layer, endpoints=["tcp:0:interface=127.0.0.1"], signal_handlers=False)

def work():
    while True:
        for channel, message in layer.receive_batch(["http.request", "websocket.connect", "websocket.receive"], 1):
            if channel == "http.request":
                # How many pieces are to be loaded yet.
                content = {"status": 200, "headers": [(b"content-length", b"2")], "content": b"%2d" % len(websocket._unloaded)}
            else:
                content = {"accept": True} if channel == "websocket.connect" else {"text": message["text"]}
            layer.send(message["reply_channel"], content)

working = gevent.spawn(work)
server.start()
serving = gevent.spawn(server.serve_forever)

def connect():
    return socket.create_connection(("127.0.0.1", server.port), 60)

def read(client, end):
    data = b""
    while not data.endswith(end):
        piece = client.recv(4096)
        assert piece, data
        data += piece
    return data

def hello(client):
    client.sendall(HELLO)
    data = b""
    while b"\\r\\n\\r\\n" not in data or len(data.partition(b"\\r\\n\\r\\n")[2]) < 2:
        piece = client.recv(4096)
        assert piece, data
        data += piece
    assert data.startswith(b"HTTP/1.1 200 "), data
    return int(data[-2:])

def first():
    with connect() as client:
        client.sendall(HANDSHAKE)
        assert read(client, b"\\r\\n\\r\\n").startswith(b"HTTP/1.1 101 ")
        client.sendall(b"\\x81\\x82" + bytes(4) + b"hi")
        assert client.recv(4).startswith(b"\\x81\\x02")

def end():
    server.stop()
    serving.join()
    working.kill()
"""


def test_another_client_is_served_while_a_first_websocket_loads() -> None:
    source = """
        with connect() as client:
            assert hello(client) == PIECES
            opening = gevent.spawn(first)
            seen = []
            while not opening.ready():
                seen.append(hello(client))
            opening.get()
            assert hello(client) == 0
        end()
        # Some answers in the middle: they did not wait for the whole.
        assert len({left for left in seen if 0 < left < PIECES}) >= 2, seen
        print("done")
    """
    assert run_script(SERVER + source.replace("\n        ", "\n")) == "done"


def test_two_first_websockets_at_once() -> None:
    """One of them imports, and each piece once; both are served, and so is a third that comes when all is loaded."""
    source = """
        import builtins
        imported = []
        original = websocket.import_module

        def import_module(name):
            imported.append((name, gevent.getcurrent()))
            return original(name)

        websocket.import_module = import_module
        openings = [gevent.spawn(first) for _ in range(2)]
        for opening in openings:
            opening.get()
        first()
        end()
        assert len({name for name, _ in imported}) == len(imported) > PIECES / 2, imported
        assert not websocket._unloaded and not websocket._loading
        print("done")
    """
    assert run_script(SERVER + source.replace("\n        ", "\n")) == "done"


def test_a_client_that_leaves_while_it_loads_leaves_the_rest_to_others() -> None:
    """The greenlet that imports is killed at a pause; the next one goes on where it was."""
    source = """
        pauses = []

        def pause():
            pauses.append(len(websocket._unloaded))
            gevent.sleep(0.001)

        loading = gevent.spawn(websocket.load, pause)
        while not pauses:
            gevent.sleep(0)
        loading.kill()
        assert not websocket._loading
        assert 0 < len(websocket._unloaded) < PIECES
        first()
        end()
        assert not websocket._unloaded
        print("done")
    """
    assert run_script(SERVER + source.replace("\n        ", "\n")) == "done"
