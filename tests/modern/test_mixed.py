"""Asyncio code of all kinds in the greenlets of one process at once."""

from __future__ import annotations

import asyncio
import random
import subprocess
import sys
from pathlib import Path

import httpx

from tests.modern.serving import command
from tests.support.scripts import PATIENCE, ROOT

#: Enough for two requests of each kind to meet in every way.
CALLS = 10_000
#: Requests over connections, which cost several times as much as calls.
REQUESTS = 2_500
AT_ONCE = 200
#: The kinds of tests.modern.mixed, whose import would patch this process.
NAMES = [
    *("run", "generators", "task_group", "to_sync", "nested", "thread_insensitive", "with_anyio", "with_httpx", "streams", "database"),
    *("with_flask", "with_django", "with_django_stream", "killed", "plain"),
]


def test_ten_thousand_mixed_calls_without_a_failure() -> None:
    command = [sys.executable, "-W", "error", "-m", "tests.modern.mixed", str(CALLS)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=10 * PATIENCE, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    assert not done.stderr
    assert done.stdout.startswith(f"{CALLS} calls, 0 failures")


def test_mixed_requests_without_a_failure(tmp_path: Path) -> None:
    """The same inside the requests of a WSGI application on the command, with as many connections as calls at once."""
    with command("tests.modern.wsgi_mixed", tmp_path / "log", "-v", "0", "--graceful-timeout", "2") as running:
        chosen = random.Random(1)
        numbers = iter(range(REQUESTS))
        failures: list[str] = []

        async def visitor(client: httpx.AsyncClient) -> int:
            count = 0
            for number in numbers:
                answer = await client.get(f"{running.url}/{chosen.choice(NAMES)}/{number}")
                if answer.text != str(number):
                    failures.append(answer.text)
                count += 1
            return count

        async def visit() -> int:
            limits = httpx.Limits(max_connections=AT_ONCE)
            async with httpx.AsyncClient(timeout=10 * PATIENCE, limits=limits) as client:
                return sum(await asyncio.gather(*(visitor(client) for _ in range(AT_ONCE))))

        assert asyncio.run(visit()) == REQUESTS
    assert not failures
    assert not (tmp_path / "log").read_text()
