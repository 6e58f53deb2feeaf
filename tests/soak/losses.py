"""Messages through one Redis list while their workers are stopped, started and killed: which are lost, which are handled twice.

``python -m tests.soak.losses [--messages N] [--seconds S] [--workers N] [--reliable]`` runs it for as long as it is told and prints the
figures; ``tests/test_redis_stops.py`` runs a shorter one.
"""

from __future__ import annotations

import argparse
import random
import sys
import time
from collections import Counter
from typing import Any, NamedTuple

import gevent

from greendaphne.layers.redis import RedisChannelLayer
from greendaphne.worker import Message, Worker
from tests.support.redis_server import RedisServer, in_hub, redis_server

#: Seconds between two ends of the same worker.
LIFE = (0.05, 0.2)
#: One end in so many is a kill: of the greenlet that runs the worker, or by an exception that is thrown into it.
KILL_EVERY = 3
#: Seconds for the last messages to be handled.
PATIENCE = 30.0
CAPACITY = 1000


class Figures(NamedTuple):
    """What a run showed."""

    sent: int
    lost: int
    twice: int
    stops: int
    kills: int
    seconds: float


class _Thrown(Exception):
    """What is thrown into a worker."""


def measure(
    url: str, *, messages: int, seconds: float, workers: int = 8, seed: int = 1, channels: int = 1, reliable: bool = False
) -> Figures:
    """Send ``messages`` evenly over ``seconds`` to ``workers``, each of which is ended every 50 to 200 ms.

    :param channels: lists that the workers wait on; the messages go to the first.
    """
    chance = random.Random(seed)
    layer = RedisChannelLayer(hosts=[url], capacity=CAPACITY, reliable=reliable)
    names = ["http.request", *(f"other{number}" for number in range(1, channels))]
    handled: Counter[int] = Counter()
    ends: Counter[str] = Counter()
    running = True

    def consume(message: Message) -> None:
        # It does not switch, so a kill finds the worker waiting, or between two messages.
        handled[message.content["n"]] += 1

    def live() -> None:
        while running:
            worker = Worker(layer, dict.fromkeys(names, consume))
            greenlet = gevent.spawn(_run, worker)
            gevent.sleep(chance.uniform(*LIFE))
            if chance.randrange(KILL_EVERY):
                ends["stop"] += 1
                worker.stop()
                greenlet.join()
            else:
                ends["kill"] += 1
                thrown: list[Any] = [gevent.GreenletExit, _Thrown, gevent.Timeout(None)]
                greenlet.kill(chance.choice(thrown))

    def send() -> None:
        begun = time.monotonic()
        for number in range(messages):
            while True:
                try:
                    layer.send("http.request", {"n": number})
                    break
                except layer.ChannelFull:
                    gevent.sleep(0.001)
            ahead = begun + seconds * number / messages - time.monotonic()
            if ahead > 0:
                gevent.sleep(ahead)

    begun = time.monotonic()
    lives = [gevent.spawn(live) for _ in range(workers)]
    send()
    end = time.monotonic() + PATIENCE
    while len(handled) < messages and time.monotonic() < end:
        gevent.sleep(0.05)
        # Nothing is in the list and nothing comes any more: what is missing is lost.
        if layer.channel_statistics("http.request")["messages_pending"] == 0 and not reliable:
            end = min(end, time.monotonic() + 1)
    running = False
    gevent.joinall(lives)
    layer.close()
    twice = sum(times - 1 for times in handled.values())
    return Figures(messages, messages - len(handled), twice, ends["stop"], ends["kill"], time.monotonic() - begun)


def _run(worker: Worker) -> None:
    try:
        worker.run()
    except (_Thrown, gevent.Timeout):
        pass


def run(redis_process: RedisServer, **options: Any) -> Figures:
    """:func:`measure` in a thread with a hub of its own."""
    return in_hub(lambda: measure(redis_process.url, **options))


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--messages", type=int, default=100_000)
    parser.add_argument("--seconds", type=float, default=120.0)
    parser.add_argument("--workers", type=int, default=8)
    parser.add_argument("--channels", type=int, default=1)
    parser.add_argument("--reliable", action="store_true")
    options = parser.parse_args()
    with redis_server() as redis_process:
        figures = measure(redis_process.url, **vars(options))
    print(figures)
    return 1 if figures.lost or figures.twice else 0


if __name__ == "__main__":
    sys.exit(main())
