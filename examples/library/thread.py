"""A server in a separate thread, in a process that is not patched."""

import urllib.request

from greendaphne import Server
from greendaphne.layers.memory import MemoryChannelLayer
from greendaphne.threaded import ServerThread
from greendaphne.worker import Message


def hello(message: Message) -> None:
    message.reply({"status": 200, "content": b"Hello"})


layer = MemoryChannelLayer()
layer.routes = {"http.request": hello}

with ServerThread(Server(layer, endpoints=["tcp:0:interface=127.0.0.1"], inline_workers=1)) as server:
    # This thread may block.
    print(urllib.request.urlopen(f"http://127.0.0.1:{server.port}/").read().decode())
