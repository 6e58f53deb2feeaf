"""Nothing is left of requests and WebSockets, however they end."""

from __future__ import annotations

import asyncio
import gc
import os
import random
import socket
import threading
from collections.abc import AsyncIterator
from typing import Any

from gevent import Greenlet

from tests.support.asgi import HANDSHAKE, Recorder, answer, serve_asgi
from tests.support.http2 import Peer
from tests.support.monitoring import wait_until
from tests.support.websocket import TEXT, frame

REQUESTS = 10_000


def test_generator_of_a_client_that_left_is_closed_without_the_garbage_collector() -> None:
    seen = Recorder()

    async def pieces() -> AsyncIterator[bytes]:
        try:
            while True:
                yield b"tick"
                await asyncio.sleep(0.01)
        finally:
            seen("closed")

    async def application(scope: Any, receive: Any, send: Any) -> None:
        await send({"type": "http.response.start", "status": 200})
        try:
            async for piece in pieces():
                await send({"type": "http.response.body", "body": piece, "more_body": True})
        except OSError as error:
            raise ValueError("as Starlette does") from error

    gc.disable()
    try:
        with serve_asgi(application) as server:
            with server.connect() as client:
                client.send(b"GET / HTTP/1.1\r\nHost: a\r\n\r\n")
                client.read_head()
            assert seen.next() == "closed"
    finally:
        gc.enable()


async def application(scope: Any, receive: Any, send: Any) -> None:
    """Ends in many ways, by chance."""
    choice = random.random()
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


def descriptors() -> int:
    return len(os.listdir("/proc/self/fd"))


def greenlets() -> int:
    gc.collect()
    return sum(isinstance(item, Greenlet) and not item.dead for item in gc.get_objects())


def test_nothing_is_left(caplog: Any) -> None:
    caplog.set_level("CRITICAL")
    random.seed(1)
    with serve_asgi(application, http2_cleartext=True) as server:
        assert server.get().status == 200
        wait_until(lambda: server.tasks == 0)
        before = descriptors(), greenlets()

        def clients(number: int) -> None:
            chance = random.Random(number)
            for _ in range(REQUESTS // 80):
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

        threads = [threading.Thread(target=clients, args=(number,)) for number in range(8)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        wait_until(lambda: server.tasks == 0)
        wait_until(lambda: server.server.connections == 0)
        wait_until(lambda: descriptors() <= before[0] and greenlets() <= before[1])
        loop = server.application._loop
        assert loop is not None
        assert len(asyncio.all_tasks(loop)) == 0
