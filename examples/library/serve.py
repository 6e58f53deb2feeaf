"""A server as the only task of a process: it prints its URL, and serves until SIGTERM or SIGINT."""

from greendaphne import Server
from greendaphne.config import Timeouts
from greendaphne.layers.memory import MemoryChannelLayer
from greendaphne.worker import Message


def hello(message: Message) -> None:
    message.reply({"status": 200, "content": b"Hello"})


layer = MemoryChannelLayer()
layer.routes = {"http.request": hello}

server = Server(layer, endpoints=["tcp:0:interface=127.0.0.1"], inline_workers=1, timeouts=Timeouts(graceful=10))
server.start()
print(f"http://127.0.0.1:{server.port}/", flush=True)
server.serve_forever(signal_handlers=True)
print("ended")
