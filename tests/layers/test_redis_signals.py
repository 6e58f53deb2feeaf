"""An exception of a signal handler in the main thread of a process without a hub, at the worst instants, loses no message of Redis."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator

import pytest

from greendaphne.layers.redis import RedisChannelLayer
from tests.support.redis_server import PATIENCE, RedisServer, redis_server

#: The receiver signals itself after a function of its connection has returned, once.
RECEIVER = """
import os, signal, sys
from greendaphne.layers.redis import RedisChannelLayer
from greendaphne.layers.redis.connection import Link

url, method, block = sys.argv[1], sys.argv[2], sys.argv[3] == "block"
layer, other = RedisChannelLayer(hosts=[url]), RedisChannelLayer(hosts=[url])
armed = False

def end(*_):
    if block:
        # The wait has it when this is over.
        other.send("n", {"n": 1})
        while other.channel_statistics("n")["messages_pending"]:
            pass
    raise SystemExit(7)

signal.signal(signal.SIGTERM, end)
original = getattr(Link, method)

def wrapped(link, *arguments):
    global armed
    result = original(link, *arguments)
    if armed:
        armed = False
        os.kill(os.getpid(), signal.SIGTERM)
        # Python calls the handler here, unless the signal is held.
        for _ in range(1000):
            pass
    return result

# Connections and scripts are there.
layer.receive(["n", "m"])
setattr(Link, method, wrapped)
if not block:
    other.send("n", {"n": 1})
armed = True
while True:
    layer.receive(["n", "m"], block)
"""


@pytest.fixture(scope="module")
def server() -> Iterator[RedisServer]:
    with redis_server() as running:
        yield running


@pytest.mark.parametrize(("method", "block"), [("send", "block"), ("send", "look"), ("read", "look")])
def test_a_handler_that_raises_as_soon_as_it_can(server: RedisServer, method: str, block: str) -> None:
    done = subprocess.run([sys.executable, "-c", RECEIVER, server.url, method, block], timeout=PATIENCE, check=False)
    assert done.returncode == 7
    layer = RedisChannelLayer(hosts=[server.url])
    assert layer.receive(["n"]) == ("n", {"n": 1})
    assert layer.receive(["n"]) == (None, None)
    layer.close()
