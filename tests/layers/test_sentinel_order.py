"""Which of several sentinels is asked first."""

from __future__ import annotations

import socket
import threading
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager

import redis.connection

from greendaphne.layers.redis.connection import make_target
from greendaphne.layers.redis.sentinel import SentinelAddress

MASTER = b"*2\r\n$9\r\n127.0.0.1\r\n$4\r\n7000\r\n"
UNKNOWN = b"*-1\r\n"


class Sentinel:
    """Answers each question for a master alike, and counts them."""

    def __init__(self, answer: bytes) -> None:
        self.answer = answer
        self.asked = 0
        self.listener = socket.create_server(("127.0.0.1", 0))
        self.port = self.listener.getsockname()[1]

    def run(self) -> None:
        while True:
            try:
                connection, _ = self.listener.accept()
            except OSError:
                return
            with connection, connection.makefile("rb") as stream:
                while line := stream.readline():
                    words = []
                    for _ in range(int(line[1:])):
                        size = int(stream.readline()[1:])
                        words.append(stream.read(size + 2)[:-2])
                    question = words == [b"SENTINEL", b"GET-MASTER-ADDR-BY-NAME", b"chat"]
                    self.asked += question
                    connection.sendall(self.answer if question else b"+OK\r\n")


@contextmanager
def sentinel(answer: bytes) -> Iterator[Sentinel]:
    running = Sentinel(answer)
    thread = threading.Thread(target=running.run, daemon=True)
    thread.start()
    try:
        yield running
    finally:
        running.listener.shutdown(socket.SHUT_RDWR)
        running.listener.close()
        thread.join()


def test_the_sentinel_that_answered_is_asked_first_the_next_time() -> None:
    with ExitStack() as stack:
        sentinels = [stack.enter_context(sentinel(answer)) for answer in (UNKNOWN, MASTER, MASTER)]
        kind = redis.connection.Connection
        targets = [make_target({"host": "127.0.0.1", "port": one.port}, kind) for one in sentinels]
        address = SentinelAddress("chat", targets, kind, {})
        for _ in range(3):
            assert address.find(False).name.endswith("127.0.0.1:7000")
        assert [one.asked for one in sentinels] == [1, 3, 0]
