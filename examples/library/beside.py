"""A server together with other greenlets of an application, in a process that gevent has patched."""
# ruff: noqa: E402 - patched before other imports

from gevent import monkey

monkey.patch_all()

import time
import urllib.request

import gevent

from greendaphne import Server
from greendaphne.layers.memory import MemoryChannelLayer
from greendaphne.worker import Message


def hello(message: Message) -> None:
    message.reply({"status": 200, "content": b"Hello"})


def work() -> None:
    while True:
        time.sleep(0.1)  # lets the server run


layer = MemoryChannelLayer()
layer.routes = {"http.request": hello}
gevent.spawn(work)

with Server(layer, endpoints=["tcp:0:interface=127.0.0.1"], inline_workers=1) as server:
    print(urllib.request.urlopen(f"http://127.0.0.1:{server.port}/").read().decode())
