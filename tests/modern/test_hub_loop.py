"""Libraries of today on a HubLoop, patched and not, with first steps in the calling greenlets."""

from __future__ import annotations

import pytest

from tests.support.scripts import run_script

COMMON = """
    import asyncio
    import anyio, anyio.to_thread, gevent, httpx, sniffio
    from asgiref.sync import async_to_sync, sync_to_async
    from gevent.pywsgi import WSGIServer
    from greendaphne.aio.hub import install
    assert install()
    from greendaphne.aio.loop import HubLoop, wait_for
    from greendaphne.aio.tasks import Tasks

    loop = HubLoop()
    loop.start()
    tasks = Tasks(loop)

    def call(coroutine, first_step):
        task = tasks.create(coroutine, first_step=first_step)
        assert wait_for(task, 60)
        return task.result()

    def together(function, number=60):
        greenlets = [gevent.spawn(call, function(n), n % 2 == 0) for n in range(number)]
        with gevent.Timeout(120):
            gevent.joinall(greenlets, raise_error=True)
        assert [greenlet.value for greenlet in greenlets] == list(range(number))
"""
END = """
    assert len(tasks) == 0 and not asyncio.all_tasks(loop)
    assert loop.shutdown(30)
    print("done")
"""
PROGRAMS = {
    "anyio": """
    async def main(n):
        assert sniffio.current_async_library() == "asyncio"
        results = []
        async def part(k):
            await anyio.sleep(0.0005 * k)
            results.append(k)
        async with anyio.create_task_group() as group:
            for k in range(3):
                group.start_soon(part, k)
        with anyio.move_on_after(0.001) as scope:
            await anyio.sleep(60)
        assert scope.cancelled_caught and sorted(results) == [0, 1, 2]
        send, receive = anyio.create_memory_object_stream(1)
        async with send, receive, anyio.create_task_group() as group:
            group.start_soon(send.send, n)
            assert await receive.receive() == n
        return await anyio.to_thread.run_sync(lambda: n)

    together(main)
    """,
    "httpx": """
    def answer(environ, start_response):
        gevent.sleep(0.001)
        start_response("200 OK", [])
        return [environ["PATH_INFO"].removeprefix("/").encode()]

    server = WSGIServer(("127.0.0.1", 0), answer, log=None)
    server.start()
    clients = []

    async def main(n):
        if not clients:
            clients.append(httpx.AsyncClient(trust_env=False, timeout=60))
        return int((await clients[0].get(f"http://127.0.0.1:{server.server_port}/{n}")).text)

    together(main)
    loop.run_from_greenlet(clients[0].aclose())
    server.stop()
    """,
    "asgiref": """
    async def inner(n):
        await asyncio.sleep(0.001)
        return n

    async def main(n):
        first = await sync_to_async(async_to_sync(inner))(n)
        return await sync_to_async(lambda: first, thread_sensitive=False)()

    together(main)
    """,
    "sqlalchemy": """
    from sqlalchemy import text
    from sqlalchemy.ext.asyncio import create_async_engine
    from sqlalchemy.pool import NullPool

    async def main(n):
        engine = create_async_engine("sqlite+aiosqlite:///:memory:", poolclass=NullPool)
        try:
            async with engine.connect() as connection:
                return (await connection.execute(text("select :n"), {"n": n})).scalar_one()
        finally:
            await engine.dispose()

    together(main)
    """,
}


@pytest.mark.parametrize("patched", [False, True], ids=["unpatched", "patched"])
@pytest.mark.parametrize("name", PROGRAMS)
def test_library(name: str, patched: bool) -> None:
    assert run_script(COMMON + PROGRAMS[name] + END, patched=patched) == "done"
