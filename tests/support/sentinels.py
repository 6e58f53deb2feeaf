"""A Redis with replicas and sentinels."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

import gevent
import redis

from tests.support.redis_server import PATIENCE, RedisServer


def wait_until(condition: Callable[[], bool], subject: object = None) -> None:
    end = time.monotonic() + PATIENCE
    while not condition():
        assert time.monotonic() < end, f"waited in vain: {subject}"
        if gevent.getcurrent().parent is None:
            time.sleep(0.01)
        else:
            gevent.sleep(0.01)


class Sentinels:
    """A master, its replica, and a sentinel for them."""

    def __init__(self, master: RedisServer, replica: RedisServer) -> None:
        self.master = master
        self.replica = replica
        replica.client.replicaof("127.0.0.1", master.port)
        wait_until(lambda: replica.info("replication")["master_link_status"] == "up")
        wait_until(lambda: bool(master.info("replication")["connected_slaves"]))
        options = {
            "sentinel monitor chat": f"127.0.0.1 {master.port} 1",
            "sentinel down-after-milliseconds chat": "500",
            "sentinel failover-timeout chat": "5000",
        }
        self.sentinel = RedisServer(options, sentinel=True)
        # Otherwise it looks at its servers every ten seconds only, and demotes a former master after eight.
        self.ask("SENTINEL", "DEBUG", "INFO-PERIOD", "200")
        self.ask("SENTINEL", "DEBUG", "PUBLISH-PERIOD", "200")
        wait_until(lambda: len(self.ask("SENTINEL", "REPLICAS", "chat")) == 1)

    def ask(self, *command: str) -> Any:
        return self.sentinel.client.execute_command(*command)  # type: ignore[no-untyped-call]

    def fail_over(self) -> None:
        """Order a failover as soon as the sentinel knows enough of the replica."""

        def ordered() -> bool:
            try:
                self.ask("SENTINEL", "FAILOVER", "chat")
            except redis.ResponseError:
                return False
            return True

        wait_until(ordered)
