"""``python -m tests.soak.leaks [REQUESTS]``: nothing is left of requests and WebSockets, however they end.

An ASGI application that ends in many ways, by chance, and clients that leave in many ways.  :func:`measure` counts what there is of the
process before and after: tasks, greenlets, threads, descriptors, bytes that the server holds for clients, and blocks of memory.  A tenth of
the requests come before that, so that what is made once is there.
"""

from __future__ import annotations

import argparse
import asyncio
import gc
import os
import random
import socket
import sys
import threading
import time
from dataclasses import dataclass
from typing import Any

from gevent import Greenlet

from greendaphne.serving.memory import resident
from tests.support.asgi import HANDSHAKE, ASGIServer, answer, serve_asgi
from tests.support.http2 import Peer
from tests.support.monitoring import wait_until
from tests.support.websocket import TEXT, frame

#: Requests of the long form.
REQUESTS = 100_000
#: Client threads.
CLIENTS = 8
#: Blocks of memory by which the process may have grown: interned names, caches of the standard library, the garbage collector's timing.
BLOCKS = 2_000


class Counter:
    """Counts requests and WebSockets of the application; called in one thread."""

    def __init__(self) -> None:
        self.number = 0

    def add(self) -> None:
        self.number += 1


_count = Counter()


async def application(scope: Any, receive: Any, send: Any) -> None:
    """Ends in many ways, by chance."""
    choice = random.random()
    _count.add()
    if scope["type"] == "websocket":
        await receive()
        if choice < 0.1:
            await send({"type": "websocket.close"})
            return
        await send({"type": "websocket.accept"})
        if choice < 0.2:
            raise ConnectionAbortedError
        while (event := await receive())["type"] == "websocket.receive":
            await send({"type": "websocket.send", "text": event["text"]})
        return
    if choice < 0.1:
        waiting = asyncio.ensure_future(receive())
        await asyncio.sleep(0)
        waiting.cancel()
    elif choice < 0.2:
        await asyncio.sleep(random.random() / 100)
    elif choice < 0.3:
        task = asyncio.ensure_future(asyncio.sleep(10))
        asyncio.get_running_loop().call_later(0.005, task.cancel)
        await asyncio.wait([task])
    elif choice < 0.4:
        await send({"type": "http.response.start", "status": 200})
        for _ in range(20):
            await send({"type": "http.response.body", "body": bytes(10_000), "more_body": True})
        await send({"type": "http.response.body"})
        return
    elif choice < 0.45:
        try:
            await asyncio.wait_for(receive(), 0.001)
            await asyncio.wait_for(receive(), 0.001)
        except (asyncio.TimeoutError, TimeoutError):
            pass
    await answer(send, b"x" * random.randrange(1000))
    if choice > 0.9:
        await asyncio.sleep(0.001)


@dataclass
class Figures:
    """What there is of the process."""

    tasks: int
    greenlets: int
    threads: int
    descriptors: int
    #: Bytes that the server holds for clients, in memory and on disk.
    held: int
    #: Blocks of memory of the interpreter.
    blocks: int
    #: Bytes of the process in memory.
    resident: int

    def left(self, before: Figures) -> list[str]:
        """What there is more of than there was, in words; ``resident`` also depends on the allocator and does not count."""
        names = ("tasks", "greenlets", "threads", "descriptors", "held")
        found = [f"{getattr(self, name) - getattr(before, name)} {name}" for name in names if getattr(self, name) > getattr(before, name)]
        if self.blocks > before.blocks + BLOCKS:
            found.append(f"{self.blocks - before.blocks} blocks")
        return found


def descriptors() -> int:
    return len(os.listdir("/proc/self/fd"))


def greenlets() -> int:
    gc.collect()
    return sum(isinstance(item, Greenlet) and not item.dead for item in gc.get_objects())


def _figures(server: ASGIServer) -> Figures:
    """The figures once all requests have ended."""
    wait_until(lambda: server.tasks == 0)
    wait_until(lambda: server.server.connections == 0)
    loop = server.application._loop
    assert loop is not None
    overload = server.server._parts.overload
    for _ in range(3):
        gc.collect()
    return Figures(
        len(asyncio.all_tasks(loop)),
        greenlets(),
        threading.active_count(),
        descriptors(),
        overload.memory.held + overload.disk.held,
        sys.getallocatedblocks(),
        resident(),
    )


def _visit(server: ASGIServer, seed: str, until: int) -> None:
    """Be one client after the other until the application has had ``until`` requests."""
    chance = random.Random(seed)
    while _count.number < until:
        with server.connect() as client:
            for _ in range(10):
                client.send(b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 3\r\n\r\nabc")
                if chance.random() < 0.2:
                    break
                if client.read_response().header("Connection") == "close":
                    break
        if chance.random() < 0.3:
            sock = socket.create_connection(server.address)
            sock.sendall(HANDSHAKE % (b"/", b"") + frame(TEXT, b"hello"))
            if chance.random() < 0.7:
                sock.recv(10)
            sock.close()
        if chance.random() < 0.1:
            with Peer(server) as peer:
                streams = [peer.request() for _ in range(20)]
                for stream in streams[::2]:
                    peer.h2.reset_stream(stream)
                peer.flush()
                peer.response(streams[1])


def _load(server: ASGIServer, number: int) -> None:
    until = _count.number + number
    threads = [threading.Thread(target=_visit, args=(server, f"{number} {index}", until)) for index in range(CLIENTS)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()


def measure(requests: int) -> tuple[int, Figures, Figures]:
    """Have the application serve ``requests`` requests; returns how many there were, and the figures before and after.

    What has not gone within a while counts as left.
    """
    random.seed(1)
    with serve_asgi(application, http2_cleartext=True) as server:
        assert server.get().status == 200
        _load(server, requests // 10)
        before, begun = _figures(server), _count.number
        _load(server, requests)
        after = _figures(server)
        deadline = time.monotonic() + 10
        while after.left(before) and time.monotonic() < deadline:
            time.sleep(0.2)
            after = _figures(server)
        return _count.number - begun, before, after


def main() -> int:
    import logging

    parser = argparse.ArgumentParser(prog="python -m tests.soak.leaks", description="What is left of requests and WebSockets.")
    parser.add_argument("requests", metavar="REQUESTS", type=int, nargs="?", default=REQUESTS, help="%(default)s by default")
    arguments = parser.parse_args()
    # What clients do to the application is in the log.
    logging.disable(logging.CRITICAL)
    begun = time.monotonic()
    number, before, after = measure(arguments.requests)
    print(f"{number} requests in {time.monotonic() - begun:.0f} s\nbefore: {before}\nafter:  {after}")
    left = after.left(before)
    print(f"left: {', '.join(left) or 'nothing'}")
    return bool(left)


if __name__ == "__main__":
    sys.exit(main())
