"""The event loop's lag in the metrics."""

from __future__ import annotations

import asyncio
import re
import time
from typing import Any

from tests.support.asgi import ASGIServer, answer, serve_asgi
from tests.support.monitoring import wait_until


async def application(scope: Any, receive: Any, send: Any) -> None:
    if scope["path"] == "/block":
        time.sleep(1.2)  # noqa: ASYNC251 - the mistake that the metric shows
    elif scope["path"] == "/crowd":
        # Tasks that each take little, so that no greenlet waits long, but a task waits for all others.
        async def busy() -> None:
            end = time.monotonic() + 0.002
            while time.monotonic() < end:
                pass

        for _ in range(2):
            await asyncio.gather(*(busy() for _ in range(400)))
    await answer(send)


def value(server: ASGIServer, name: str) -> float:
    found = re.search(rf"^greendaphne_{name} (\S+)$", server.get("/metrics").body.decode(), re.MULTILINE)
    assert found is not None, name
    return float(found[1])


def test_a_loop_that_is_blocked_or_crowded_is_late() -> None:
    with serve_asgi(application, metrics_path="/metrics") as server:
        wait_until(lambda: value(server, "asgi_lag_seconds_count") >= 1)
        quiet = value(server, "asgi_lag_max_seconds")
        assert server.get("/crowd").status == 200
        wait_until(lambda: value(server, "asgi_lag_max_seconds") > max(quiet, 0.1))
        assert server.get("/block").status == 200
        wait_until(lambda: value(server, "asgi_lag_max_seconds") >= 0.5)
        assert value(server, "asgi_lag_seconds_count") >= 3


def test_without_metrics_nothing_is_sampled() -> None:
    with serve_asgi(application) as server:
        assert server.get().status == 200
        assert server.application._lag is None
        loop: Any = server.application._loop
        assert not loop._scheduled
