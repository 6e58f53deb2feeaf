"""AsyncioHub: asyncio code in many greenlets at once, each of which has a loop, a task and hooks of its own.

Most tests run a program in a process of its own that is patched as the ``greendaphne`` command patches its process.
"""

from __future__ import annotations

import os
import subprocess
import sys
import textwrap
import time

import gevent
import pytest
from gevent._hub_local import get_hub_if_exists, set_hub

from greendaphne.aio import isolation, private
from greendaphne.aio.hub import AsyncioHub
from greendaphne.aio.isolation import self_test
from tests.support.scripts import PATIENCE, ROOT, run_script

COMMON = """
    import asyncio, contextvars, sys, threading, time
    import gevent
    from gevent import get_hub

    def together(number, function, *arguments):
        greenlets = [gevent.spawn(function, n, *arguments) for n in range(number)]
        with gevent.Timeout(60):
            gevent.joinall(greenlets, raise_error=True)
        return [greenlet.value for greenlet in greenlets]

    def assert_clean():
        assert asyncio._get_running_loop() is None
        assert sys.get_asyncgen_hooks() == (None, None)
        assert sys.get_coroutine_origin_tracking_depth() == 0
"""


def program(source: str) -> str:
    return textwrap.dedent(COMMON) + textwrap.dedent(source)


# ---- installation


def test_the_self_test_passes_and_leaves_nothing() -> None:
    before = len(os.listdir("/proc/self/fd"))
    for _ in range(3):
        self_test()
    assert len(os.listdir("/proc/self/fd")) <= before + 1
    assert get_hub_if_exists() is None


def test_the_self_test_fails_under_a_hub_that_does_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delattr(AsyncioHub, "switch")
    with pytest.raises(isolation.SelfTestError):
        self_test()


@pytest.mark.parametrize("name", ["swap_current_task", "set_running_loop", "get_running_loop"])
def test_the_self_test_notices_what_a_new_python_might_do(monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    monkeypatch.setattr(isolation, name, lambda *arguments: None)
    with pytest.raises(isolation.SelfTestError):
        self_test()


def test_a_self_test_that_does_not_end(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(isolation, "SELF_TEST_LIMIT", 0.05)
    monkeypatch.setattr(isolation, "_self_test", lambda: time.sleep(0.2))
    with pytest.raises(isolation.SelfTestError, match=r"within 0\.05 seconds"):
        self_test()


def test_the_command_installs_it() -> None:
    assert run_script("import gevent; print(type(gevent.get_hub()).__name__)") == "AsyncioHub"


def test_it_is_the_hub_of_every_thread() -> None:
    source = """
        import gevent
        from gevent import get_hub
        print(type(get_hub()).__name__, get_hub().threadpool.apply(lambda: type(get_hub()).__name__))
    """
    assert run_script(source) == "AsyncioHub AsyncioHub"


def test_a_hub_that_is_there_becomes_one() -> None:
    source = """
        from gevent import monkey; monkey.patch_all()
        import gevent
        hub = gevent.get_hub()
        gevent.sleep(0)
        from greendaphne.aio.hub import AsyncioHub, install, is_isolated
        assert not is_isolated()
        assert install() and install()
        assert gevent.get_hub() is hub and type(hub) is AsyncioHub and is_isolated()
        import asyncio
        a, b = [gevent.spawn(asyncio.run, asyncio.sleep(0.01, n)) for n in range(2)]
        gevent.joinall([a, b], raise_error=True)
        print(a.value, b.value)
    """
    assert run_script(source, patched=False) == "0 1"


def test_a_thread_that_had_a_hub_gets_one() -> None:
    source = """
        import gevent
        from greendaphne.aio.hub import AsyncioHub, install
        gevent.get_hub().destroy(destroy_loop=True)
        assert install()
        print(type(gevent.get_hub()).__name__)
    """
    assert run_script(source, patched=False) == "AsyncioHub"


@pytest.mark.parametrize(
    ("damage", "reason"),
    [
        ("import asyncio.tasks, asyncio; del asyncio.tasks._current_tasks, asyncio.tasks._swap_current_task", "there is no asyncio.tasks."),
        ("import greendaphne.aio.isolation as hub; hub.swap_current_task = lambda loop, task: None", ""),
        ("import greendaphne.aio.isolation as hub; hub.AsyncioHub.switch = hub.Hub.switch", ""),
    ],
    ids=["name", "behaviour", "switch"],
)
def test_where_it_does_not_work_gevents_hub_stays_and_one_line_says_so(damage: str, reason: str) -> None:
    if "_swap" in damage and sys.version_info < (3, 12):
        damage = damage.replace(", asyncio.tasks._swap_current_task", "")
    source = f"""
from gevent import monkey; monkey.patch_all()
{damage}
from greendaphne.cli import patch
patch()
import gevent
print(type(gevent.get_hub()).__name__)
gevent.sleep(0.001)
"""
    done = subprocess.run([sys.executable, "-c", source], cwd=ROOT, capture_output=True, text=True, timeout=4 * PATIENCE, check=True)
    assert done.stdout == "Hub\n"
    (line,) = done.stderr.splitlines()
    assert line.startswith("asyncio code in greenlets is not supported on Python ")
    assert reason in line


def test_it_costs_nothing_before_asyncio_is_imported() -> None:
    source = """
import sys
from greendaphne.cli import patch
patch()
import gevent, importlib.util
from greendaphne.aio.hub import AsyncioHub
assert type(gevent.get_hub()) is AsyncioHub
# Which looks for it without an import.
assert importlib.util.find_spec("asyncio")
print(sorted({"asyncio", "greendaphne.aio.isolation"} & set(sys.modules)), AsyncioHub.switch is gevent.hub.Hub.switch)
import asyncio
print(AsyncioHub.switch is gevent.hub.Hub.switch)
"""
    assert run_script(source, patched=False) == "[] True\nFalse"


@pytest.mark.parametrize(
    "importing",
    [
        "import asyncio",
        "from asyncio import events",
        "from greendaphne.aio import isolation",
        "gevent.get_hub().threadpool.apply(__import__, ('asyncio',))",
        "gevent.joinall([gevent.spawn(__import__, 'asyncio') for _ in range(3)], raise_error=True)",
    ],
    ids=["module", "part", "own", "thread", "greenlets"],
)
def test_asyncio_imported_later_in_any_thread(importing: str) -> None:
    source = f"""
import sys
from gevent import monkey; monkey.patch_all()
from greendaphne.aio.hub import AsyncioHub, install
assert install()
import gevent
from gevent import get_hub
hubs = [get_hub(), get_hub().threadpool.apply(get_hub)]
gevent.sleep(0)
assert "asyncio" not in sys.modules
finders = len(sys.meta_path)
{importing}
assert len(sys.meta_path) == finders - 1
assert all(type(hub) is AsyncioHub for hub in hubs) and AsyncioHub.switch is not gevent.hub.Hub.switch
import asyncio

async def main(n):
    gevent.sleep(0.01)
    assert asyncio.current_task().get_name() == str(n)
    await asyncio.sleep(0.01)
    return n

async def named(n):
    return await asyncio.get_running_loop().create_task(main(n), name=str(n))

greenlets = [gevent.spawn(lambda n=n: asyncio.run(named(n))) for n in range(5)]
gevent.joinall(greenlets, raise_error=True)
print([greenlet.value for greenlet in greenlets])
"""
    assert run_script(source, patched=False) == "[0, 1, 2, 3, 4]"


def test_one_line_where_it_does_not_work_when_asyncio_is_imported() -> None:
    source = """
from gevent import monkey; monkey.patch_all()
from greendaphne.cli import patch
patch()
import gevent
from greendaphne.aio import gevent_names
gevent_names.MISSING.append("what a new gevent has no more")
import asyncio
from greendaphne.aio.hub import is_isolated
print(is_isolated(), type(gevent.get_hub()).switch is gevent.hub.Hub.switch, asyncio.run(asyncio.sleep(0.001, "works")))
"""
    done = subprocess.run([sys.executable, "-c", source], cwd=ROOT, capture_output=True, text=True, timeout=4 * PATIENCE, check=True)
    assert done.stdout == "False True works\n"
    (line,) = done.stderr.splitlines()
    assert line.startswith("asyncio code in greenlets is not supported on Python ")
    assert "what a new gevent has no more" in line


# ---- what is a greenlet's own


def test_state_is_taken_off_and_put_back() -> None:
    """In one thread, without patches, down to the objects."""
    import asyncio

    set_hub(AsyncioHub())
    seen: list[object] = []

    def look() -> None:
        seen.extend([private.get_running_loop(), sys.get_asyncgen_hooks() == (None, None), sys.get_coroutine_origin_tracking_depth()])

    async def main() -> None:
        loop, task, hooks = asyncio.get_running_loop(), asyncio.current_task(), sys.get_asyncgen_hooks()
        depth = sys.get_coroutine_origin_tracking_depth()
        assert hooks.firstiter is not None
        assert depth > 0
        gevent.spawn(look).join()
        assert asyncio.get_running_loop() is loop
        assert asyncio.current_task() is task
        assert sys.get_asyncgen_hooks() == hooks
        assert sys.get_coroutine_origin_tracking_depth() == depth

    asyncio.run(main(), debug=True)
    assert seen == [None, True, 0]


def test_many_loops_at_once() -> None:
    source = """
        async def main(n):
            loop, task = asyncio.get_running_loop(), asyncio.current_task()
            # In debug mode a loop logs steps that take long, which they do on a busy machine.
            loop.slow_callback_duration = 60
            for _ in range(5):
                await asyncio.sleep(0.001 * (n % 4))
                time.sleep(0.0001)
                assert asyncio.get_running_loop() is loop and asyncio.current_task() is task
            return n

        assert together(200, lambda n: asyncio.run(main(n), debug=n % 10 == 0)) == list(range(200))
        assert_clean()
        print("done")
    """
    assert run_script(program(source)) == "done"


def test_asynchronous_generators() -> None:
    source = """
        ended, left = [], []

        async def numbers(n):
            try:
                for number in range(n % 7 + 3):
                    time.sleep(0)
                    await asyncio.sleep(0)
                    yield number
            finally:
                await asyncio.sleep(0.0005)
                ended.append(n)

        async def main(n):
            if n % 3 == 0:
                return [number async for number in numbers(n)]
            kept = numbers(n)
            async for number in kept:
                break
            if n % 3 == 1:
                # The finalizer ends it, a callback of the loop that has begun it.
                del kept
                while n not in ended:
                    await asyncio.sleep(0.001)
            else:
                # shutdown_asyncgens ends it.
                left.append(kept)
            return []

        results = together(150, lambda n: asyncio.run(main(n)))
        assert sorted(ended) == list(range(150)), len(ended)
        assert results[6] == list(range(9))
        assert_clean()
        print("done")
    """
    assert run_script(program(source)) == "done"


@pytest.mark.skipif(sys.version_info < (3, 11), reason="TaskGroup and timeout came with Python 3.11")
def test_task_groups_and_timeouts() -> None:
    source = """
        async def part(n):
            await asyncio.sleep(0.001)
            time.sleep(0)
            if n == 13:
                raise ZeroDivisionError
            return n

        async def main(n):
            try:
                async with asyncio.TaskGroup() as group:
                    tasks = [group.create_task(part(n + m)) for m in range(3)]
            except* ZeroDivisionError:
                tasks = None
            if tasks is None:
                return "failed"
            try:
                async with asyncio.timeout(0.002):
                    await asyncio.sleep(60)
            except TimeoutError:
                return sum(task.result() for task in tasks)

        results = together(100, lambda n: asyncio.run(main(n)))
        assert results == ["failed" if 11 <= n <= 13 else 3 * n + 3 for n in range(100)]
        assert_clean()
        print("done")
    """
    assert run_script(program(source)) == "done"


def test_context_variables() -> None:
    source = """
        variable = contextvars.ContextVar("variable", default="nothing")

        async def inner(n):
            assert variable.get() == n
            variable.set(("inner", n))
            await asyncio.sleep(0.001)
            return await asyncio.to_thread(variable.get)

        async def main(n):
            assert variable.get() == n
            assert await asyncio.create_task(inner(n)) == ("inner", n)
            assert variable.get() == n
            return n

        def call(n):
            variable.set(n)
            result = asyncio.run(main(n))
            assert variable.get() == n
            return result

        assert together(100, call) == list(range(100))
        assert variable.get() == "nothing"
        print("done")
    """
    assert run_script(program(source)) == "done"


def test_greenlets_that_are_killed_or_have_a_time_limit() -> None:
    source = """
        begun, ended = [], []

        async def main(n):
            begun.append(n)
            try:
                if n % 2:
                    time.sleep(60)
                else:
                    await asyncio.sleep(60)
            finally:
                ended.append(n)

        def limited(n):
            with gevent.Timeout(0.05, False):
                asyncio.run(main(n))
            assert_clean()

        greenlets = [gevent.spawn(asyncio.run, main(n)) for n in range(50)]
        while len(begun) < 50:
            gevent.sleep(0.001)
        gevent.killall(greenlets)
        assert len(ended) == 50
        together(50, limited)
        assert len(ended) == len(begun)
        assert_clean()
        print("done")
    """
    assert run_script(program(source)) == "done"


def test_a_loop_inside_a_loop_is_refused_as_ever() -> None:
    source = """
        async def main():
            coroutine = asyncio.sleep(0)
            try:
                asyncio.run(coroutine)
            except RuntimeError as error:
                coroutine.close()
                return "running event loop" in str(error)

        print(asyncio.run(main()))
    """
    assert run_script(program(source)) == "True"


def test_a_greenlet_started_by_a_coroutine_may_have_a_loop() -> None:
    source = """
        async def main(n):
            if n:
                return 1 + gevent.spawn(asyncio.run, main(n - 1)).get()
            await asyncio.sleep(0.001)
            return 0

        print(together(10, lambda n: asyncio.run(main(n))))
    """
    assert run_script(program(source)) == str(list(range(10)))


def test_threads_and_executors() -> None:
    source = """
        async def main(n):
            loop = asyncio.get_running_loop()
            first = await loop.run_in_executor(None, lambda: asyncio.run(asyncio.sleep(0.001, n)))
            return await asyncio.to_thread(lambda: asyncio.run(asyncio.sleep(0.001, first)))

        assert together(30, lambda n: asyncio.run(main(n))) == list(range(30))
        # Native threads have hubs of their own.
        pool = get_hub().threadpool
        native = [pool.spawn(asyncio.run, main(n)) for n in range(5)]
        assert [result.get() for result in native] == list(range(5))
        print("done")
    """
    assert run_script(program(source)) == "done"


def test_a_greenlet_switched_by_hand_shares_the_loop() -> None:
    """As SQLAlchemy's asynchronous engine does: its greenlets belong to the task that starts them, also while they wait in the hub."""
    source = """
        from greenlet import greenlet

        def inside():
            loop, task = asyncio.get_running_loop(), asyncio.current_task()
            time.sleep(0.001)
            assert asyncio.get_running_loop() is loop and asyncio.current_task() is task
            return "inside"

        async def main(n):
            await asyncio.sleep(0)
            result = greenlet(inside).switch()
            await asyncio.sleep(0)
            return result

        assert together(50, lambda n: asyncio.run(main(n))) == ["inside"] * 50
        print("done")
    """
    assert run_script(program(source)) == "done"


def test_asyncio_in_inline_workers() -> None:
    """Consumers of a channel layer, many at once, each with a loop of its own."""
    source = """
        import requests
        from greendaphne.layers.memory import MemoryChannelLayer
        from greendaphne.server import Server

        async def answer(n):
            await asyncio.sleep(0.002)
            return n * 2

        def consumer(message):
            n = int(message.content["query_string"])
            content = str(asyncio.run(answer(n))).encode()
            message.reply({"status": 200, "content": content, "headers": []})

        layer = MemoryChannelLayer()
        layer.routes = {"http.request": consumer}
        server = Server(layer, endpoints=["tcp:port=0:interface=127.0.0.1"], inline_workers=8)
        with server:
            url = f"http://127.0.0.1:{server.listeners[0].getHost().port}/?"
            assert together(100, lambda n: int(requests.get(f"{url}{n}", timeout=60).text)) == [2 * n for n in range(100)]
        print("done")
    """
    assert run_script(program(source)) == "done"
