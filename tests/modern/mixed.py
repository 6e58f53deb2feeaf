"""Asyncio code of many kinds in the greenlets of one patched process, all at once: what a WSGI application does under load.

``python -m tests.modern.mixed CALLS`` makes that many calls, at most :data:`AT_ONCE` at a time, and prints how many of each kind there
were. An exception or a wrong result ends it with an error.
"""

from __future__ import annotations

from greendaphne.cli import patch

patch()

import asyncio  # noqa: E402
import contextvars  # noqa: E402
import gc  # noqa: E402
import os  # noqa: E402
import random  # noqa: E402
import ssl  # noqa: E402
import sys  # noqa: E402
import time  # noqa: E402
from collections import Counter  # noqa: E402
from collections.abc import AsyncIterator, Callable  # noqa: E402
from typing import Any  # noqa: E402

import anyio  # noqa: E402
import anyio.to_thread  # noqa: E402
import django  # noqa: E402
import flask  # noqa: E402
import gevent  # noqa: E402
import httpx  # noqa: E402
import sniffio  # noqa: E402
from asgiref.local import Local  # noqa: E402
from asgiref.sync import async_to_sync, sync_to_async  # noqa: E402
from django.conf import settings  # noqa: E402
from gevent.pool import Pool  # noqa: E402
from sqlalchemy import text  # noqa: E402
from sqlalchemy.ext.asyncio import create_async_engine  # noqa: E402
from sqlalchemy.pool import NullPool  # noqa: E402

from greendaphne.aio.hub import is_isolated  # noqa: E402
from greendaphne.server import Server  # noqa: E402

#: Calls that run at the same time.
AT_ONCE = 200

settings.configure(
    ALLOWED_HOSTS=["*"], SECRET_KEY="secret", ROOT_URLCONF=__name__, MIDDLEWARE=["django.middleware.common.CommonMiddleware"]
)
django.setup()

from django.http import HttpRequest, HttpResponse, StreamingHttpResponse  # noqa: E402
from django.test import Client  # noqa: E402
from django.urls import path  # noqa: E402

# Making one takes much longer than anything else here.
TRUST = ssl.create_default_context()

variable: contextvars.ContextVar[int] = contextvars.ContextVar("variable")
local = Local()
#: Of the server that answers, once there is one.
ADDRESS: list[str] = []


async def pause(n: int) -> None:
    """Wait in one of the ways that code has."""
    if n % 3 == 0:
        await asyncio.sleep(0.001)
    elif n % 3 == 1:
        await asyncio.sleep(0)
    else:
        # Code that is not made for asyncio waits cooperatively in a patched process.
        time.sleep(0.0005)  # noqa: ASYNC251 - on purpose


async def numbers(n: int) -> AsyncIterator[int]:
    for number in range(n % 4 + 2):
        await pause(n)
        yield number


# ---- the kinds of calls; each returns its argument


def run(n: int) -> int:
    async def main() -> int:
        variable.set(n)
        task = asyncio.current_task()
        await pause(n)
        assert asyncio.current_task() is task
        parts = await asyncio.gather(*(asyncio.sleep(0.0005, n) for _ in range(3)))
        assert parts == [n] * 3
        return variable.get()

    return asyncio.run(main())


def generators(n: int) -> int:
    async def main() -> int:
        assert [number async for number in numbers(n)] == list(range(n % 4 + 2))
        async for _ in numbers(n):
            break
        return n

    return asyncio.run(main())


def task_group(n: int) -> int:
    async def part(k: int) -> int:
        await pause(n + k)
        return k

    async def main() -> int:
        if sys.version_info >= (3, 11):
            async with asyncio.TaskGroup() as group:
                tasks = [group.create_task(part(k)) for k in range(3)]
            assert [task.result() for task in tasks] == [0, 1, 2]
            try:
                async with asyncio.timeout(0.0005):
                    await asyncio.sleep(60)
            except TimeoutError:
                pass
        return n

    return asyncio.run(main())


def to_sync(n: int) -> int:
    async def main(value: int) -> int:
        await pause(value)
        return value

    variable.set(n)
    return int(async_to_sync(main)(n))


def nested(n: int) -> int:
    """Sync, async, sync, async, as Django's middlewares nest it."""

    async def inner(value: int) -> int:
        await pause(value)
        assert variable.get() == n
        return value

    def middle(value: int) -> int:
        assert local.value == n
        return int(async_to_sync(inner)(value))

    async def outer(value: int) -> int:
        await pause(value)
        local.value = value
        return int(await sync_to_async(middle)(value))

    variable.set(n)
    return int(async_to_sync(outer)(n))


def thread_insensitive(n: int) -> int:
    def wait() -> int:
        time.sleep(0.001)
        return n

    async def main() -> int:
        return int(await sync_to_async(wait, thread_sensitive=False)())

    return asyncio.run(main())


def with_anyio(n: int) -> int:
    async def main() -> int:
        results: list[int] = []

        async def part(k: int) -> None:
            await anyio.sleep(0.0005 * k)
            results.append(k)

        assert sniffio.current_async_library() == "asyncio"
        async with anyio.create_task_group() as group:
            for k in range(3):
                group.start_soon(part, k)
        with anyio.move_on_after(0.0005) as scope:
            await anyio.sleep(60)
        assert scope.cancelled_caught
        assert sorted(results) == [0, 1, 2]
        return await anyio.to_thread.run_sync(lambda: n)

    return anyio.run(main)


def with_httpx(n: int) -> int:
    async def main() -> int:
        async with httpx.AsyncClient(trust_env=False, verify=TRUST) as client:
            first, second = await asyncio.gather(client.get(f"{ADDRESS[0]}/{n}"), client.get(f"{ADDRESS[0]}/{n + 1}"))
            assert int(second.text) == n + 1
            return int(first.text)

    return asyncio.run(main())


def streams(n: int) -> int:
    async def echo(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(await reader.readline())
        await writer.drain()
        writer.close()

    async def main() -> int:
        server = await asyncio.start_server(echo, "127.0.0.1", 0)
        reader, writer = await asyncio.open_connection(*server.sockets[0].getsockname())
        writer.write(b"%d\n" % n)
        line = await reader.read()
        writer.close()
        await writer.wait_closed()
        server.close()
        await server.wait_closed()
        return int(line)

    return asyncio.run(main())


def database(n: int) -> int:
    async def main() -> int:
        engine = create_async_engine("sqlite+aiosqlite:///:memory:", poolclass=NullPool)
        try:
            async with engine.connect() as connection:
                result = await connection.execute(text("select :n"), {"n": n})
                return int(result.scalar_one())
        finally:
            await engine.dispose()

    return asyncio.run(main())


flask_application = flask.Flask(__name__)


async def flask_view(n: int) -> str:
    await pause(n)
    await asyncio.gather(*(asyncio.sleep(0.0005) for _ in range(2)))
    return str(n)


flask_application.add_url_rule("/<int:n>", view_func=flask_view)


def with_flask(n: int) -> int:
    return int(flask_application.test_client().get(f"/{n}").text)


async def django_view(request: HttpRequest, n: int) -> HttpResponse:
    await pause(n)
    task = asyncio.current_task()
    value = await sync_to_async(lambda: n)()
    assert asyncio.current_task() is task
    return HttpResponse(str(value))


async def django_stream(request: HttpRequest, n: int) -> StreamingHttpResponse:
    async def parts() -> AsyncIterator[bytes]:
        async for number in numbers(n):
            yield b"%d," % number

    return StreamingHttpResponse([part async for part in parts()])


urlpatterns = [path("view/<int:n>", django_view), path("stream/<int:n>", django_stream)]


def with_django(n: int) -> int:
    return int(Client().get(f"/view/{n}").content)


def with_django_stream(n: int) -> int:
    response = Client().get(f"/stream/{n}")
    content = b"".join(response.streaming_content)
    assert content == b"".join(b"%d," % number for number in range(n % 4 + 2))
    return n


def killed(n: int) -> int:
    """A request whose time is over while it waits."""

    async def main() -> None:
        await asyncio.sleep(60)

    limit = gevent.Timeout(0.002)
    try:
        with limit:
            asyncio.run(main())
    except gevent.Timeout as error:
        return n if error is limit else -1
    return -1


def plain(n: int) -> int:
    """A request without asyncio, which must not notice the others."""
    for _ in range(3):
        assert asyncio._get_running_loop() is None
        assert sys.get_asyncgen_hooks() == (None, None)
        time.sleep(0.0005)
    return n


KINDS: list[Callable[[int], int]] = [
    run,
    generators,
    task_group,
    to_sync,
    nested,
    thread_insensitive,
    with_anyio,
    with_httpx,
    streams,
    database,
    with_flask,
    with_django,
    with_django_stream,
    killed,
    plain,
]


def main(calls: int) -> None:
    assert is_isolated()

    def answer(environ: dict[str, Any], start_response: Any) -> list[bytes]:
        gevent.sleep(0.0005)
        start_response("200 OK", [])
        return [environ["PATH_INFO"].removeprefix("/").encode()]

    server = Server(application=answer, endpoints=["tcp:0:interface=127.0.0.1"], signal_handlers=False)
    server.start()
    ADDRESS.append(f"http://127.0.0.1:{server.port}")
    chosen = random.Random(1)
    made: Counter[str] = Counter()
    pool = Pool(AT_ONCE)

    def call(kind: Callable[[int], int], n: int) -> None:
        result = kind(n)
        assert result == n, (kind, n, result)
        made[kind.__name__] += 1

    def batch(size: int) -> None:
        greenlets = [pool.spawn(call, chosen.choice(KINDS), n) for n in range(size)]
        gevent.joinall(greenlets, raise_error=True)

    # What stays for good is there after the first calls.
    batch(calls // 10)
    gc.collect()
    before = len(os.listdir("/proc/self/fd"))
    batch(calls - calls // 10)
    gc.collect()
    after = len(os.listdir("/proc/self/fd"))
    server.stop()
    assert after <= before + 10, (before, after)
    assert made.total() == calls
    assert set(made) == {kind.__name__ for kind in KINDS}
    assert asyncio._get_running_loop() is None
    print(made.total(), "calls, 0 failures:", *sorted(made.items()))


if __name__ == "__main__":
    main(int(sys.argv[1]))
