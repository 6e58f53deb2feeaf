"""HubLoop: asyncio's facilities in one greenlet of the hub, beside other greenlets."""

from __future__ import annotations

import asyncio
import concurrent.futures
import contextvars
import gc
import logging
import os
import signal
import socket
import ssl
import sys
import threading
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any

import gevent
import pytest
from gevent.event import AsyncResult
from gevent.event import Event as GeventEvent
from gevent.monkey import get_original

from greendaphne.aio.hub import AsyncioHub
from greendaphne.aio.loop import SERVER_SIGNALS, HubLoop, wait_for
from greendaphne.core import greenlets
from tests.support import certificates
from tests.support.scripts import PATIENCE

_start_thread = get_original("_thread", "start_new_thread")
_get_ident = get_original("_thread", "get_ident")

since_3_11 = pytest.mark.skipif(sys.version_info < (3, 11), reason="TaskGroup, timeout and Runner came with Python 3.11")


# ---- where it runs


def test_a_loop_runs_a_coroutine_where_it_is_called(loop: HubLoop) -> None:
    async def main() -> tuple[int, bool]:
        await asyncio.sleep(0.001)
        return 1, asyncio.get_running_loop() is loop

    assert loop.run_until_complete(main()) == (1, True)
    assert not loop.is_running()


def test_other_greenlets_run_meanwhile_and_see_no_loop(loop: HubLoop) -> None:
    seen: list[Any] = []

    def look() -> None:
        while len(seen) < 5:
            seen.append(asyncio._get_running_loop())
            gevent.sleep(0)

    greenlet = gevent.spawn(look)
    loop.run_until_complete(asyncio.sleep(0.01))
    assert greenlet.dead
    assert seen == [None] * 5


def test_it_does_not_run_in_the_hub(loop: HubLoop, hub: AsyncioHub) -> None:
    result: AsyncResult[Any] = AsyncResult()

    def call() -> None:
        try:
            loop.run_forever()
        except RuntimeError as error:
            result.set(str(error))

    hub.loop.run_callback(call)
    assert "hub's greenlet" in str(result.get())


def test_it_does_not_run_in_another_thread(loop: HubLoop) -> None:
    found: list[str] = []
    waker = loop._hub.loop.async_()
    done = GeventEvent()
    waker.start(done.set)

    def call() -> None:
        try:
            loop.run_forever()
        except RuntimeError as error:
            found.append(str(error))
        waker.send()

    _start_thread(call, ())
    done.wait()
    waker.close()
    assert "thread" in found[0]


def test_it_does_not_run_after_a_fork(loop: HubLoop) -> None:
    reading, writing = os.pipe()
    pid = get_original("os", "fork")()
    if not pid:
        try:
            loop.run_forever()
        except RuntimeError as error:
            os.write(writing, str(error).encode())
        finally:
            os._exit(0)
    get_original("os", "close")(writing)
    with os.fdopen(reading, "rb") as pipe:
        assert b"fork" in pipe.read()
    get_original("os", "waitpid")(pid, 0)


def test_it_does_not_run_inside_another_loop(loop: HubLoop) -> None:
    async def main() -> None:
        other = HubLoop()
        try:
            with pytest.raises(RuntimeError, match="another loop is running"):
                other.run_forever()
        finally:
            other.close()

    loop.run_until_complete(main())


def test_two_loops_in_two_greenlets(hub: AsyncioHub, limit: None) -> None:
    loops = [HubLoop(), HubLoop()]

    async def count(loop: HubLoop) -> int:
        for n in range(20):
            assert asyncio.get_running_loop() is loop
            await asyncio.sleep(0.0001 * (n % 3))
        return 20

    greenlets = [gevent.spawn(loop.run_until_complete, count(loop)) for loop in loops]
    gevent.joinall(greenlets, raise_error=True)
    assert [greenlet.value for greenlet in greenlets] == [20, 20]
    for loop in loops:
        loop.close()


def test_start_and_shutdown(hub: AsyncioHub, limit: None) -> None:
    loop = HubLoop()
    greenlet = loop.start()
    assert loop.start() is greenlet
    assert loop.run_from_greenlet(asyncio.sleep(0.001, "x")) == "x"
    assert loop.is_running()
    assert loop.shutdown()
    assert greenlet.dead
    assert loop.is_closed()
    assert loop.shutdown()
    loop.close()


def test_shutdown_ends_tasks_generators_and_executors(hub: AsyncioHub, limit: None) -> None:
    loop = HubLoop()
    ended: list[str] = []
    waits = GeventEvent()

    async def generator() -> AsyncIterator[int]:
        try:
            yield 1
        finally:
            await asyncio.sleep(0)
            ended.append("generator")

    kept = generator()

    async def task() -> None:
        await kept.__anext__()
        await asyncio.to_thread(lambda: None)
        waits.set()
        try:
            await asyncio.sleep(PATIENCE)
        finally:
            await asyncio.sleep(0)
            ended.append("task")

    loop.start()
    made = loop.create_task(task())
    assert waits.wait(PATIENCE)
    assert loop.shutdown(PATIENCE)
    assert sorted(ended) == ["generator", "task"]
    assert made.cancelled()


def test_shutdown_names_what_does_not_end(hub: AsyncioHub, limit: None, caplog: pytest.LogCaptureFixture) -> None:
    loop = HubLoop()
    stop = False

    async def stubborn() -> None:
        while not stop:
            try:
                await asyncio.sleep(0.005)
            except asyncio.CancelledError:
                pass

    loop.start()
    task = loop.create_task(stubborn(), name="mule")
    gevent.sleep(0)

    def release() -> None:
        nonlocal stop
        stop = True

    # After the time for tasks, before that for the loop is over.
    gevent.spawn_later(0.15, release)
    assert not loop.shutdown(0.05)
    assert "mule" in caplog.text
    del task
    gc.collect()
    caplog.clear()


def test_a_closed_loop(hub: AsyncioHub, limit: None) -> None:
    loop = HubLoop()
    loop.close()
    loop.close()
    for call in (loop.call_soon, loop.call_soon_threadsafe):
        with pytest.raises(RuntimeError, match="closed"):
            call(print)
    with pytest.raises(RuntimeError, match="closed"):
        loop.call_later(1, print)
    with pytest.raises(RuntimeError, match="closed"):
        loop.run_forever()
    coroutine = asyncio.sleep(0)
    with pytest.raises(RuntimeError, match="closed"):
        _ = loop.create_started_task(coroutine)
    coroutine.close()


def test_close_leaves_no_descriptor_and_no_watcher(hub: AsyncioHub, limit: None) -> None:
    def descriptors() -> int:
        return len(os.listdir("/proc/self/fd"))

    async def main() -> None:
        await asyncio.sleep(0.001)
        await asyncio.to_thread(lambda: None)

    def use() -> None:
        loop = HubLoop()
        loop.run_until_complete(main())
        loop.run_until_complete(loop.shutdown_default_executor())
        loop.close()

    # What the first one makes stays for the others, such as gevent's for wake-ups by threads.
    use()
    gc.collect()
    before = descriptors(), hub.loop.activecnt
    for _ in range(20):
        use()
    gc.collect()
    assert descriptors() <= before[0]
    assert hub.loop.activecnt <= before[1]


# ---- calls from other greenlets and threads


def test_calls_from_other_greenlets_are_noticed_at_once(running: HubLoop) -> None:
    """The loop waits for nothing else, so a call that does not wake it would be lost."""
    calls: list[Callable[[Callable[..., None]], object]] = [
        running.call_soon,
        running.call_soon_threadsafe,
        lambda done: running.call_later(0.001, done),
        lambda done: running.call_at(running.time(), done),
    ]
    for call in calls:
        gevent.sleep(0.002)
        done: AsyncResult[float] = AsyncResult()
        call(lambda *args, done=done: done.set(running.time()))
        done.get()
    future = running.create_future()
    result: AsyncResult[str] = AsyncResult()
    future.add_done_callback(lambda future: result.set(future.result()))
    gevent.sleep(0.002)
    future.set_result("result")
    assert result.get() == "result"


def test_a_timer_before_the_one_that_it_waits_for(running: HubLoop) -> None:
    late = running.call_later(PATIENCE * 2, print)
    gevent.sleep(0.002)
    done: AsyncResult[None] = AsyncResult()
    running.call_later(0.001, done.set, None)
    done.get()
    late.cancel()


def test_calls_from_native_threads(running: HubLoop) -> None:
    count = 200
    done = GeventEvent()
    calls: list[int] = []

    def note(n: int) -> None:
        calls.append(_get_ident())
        if len(calls) == 4 * count:
            done.set()

    def call() -> None:
        for n in range(count):
            running.call_soon_threadsafe(note, n)

    for _ in range(4):
        _start_thread(call, ())
    done.wait()
    assert set(calls) == {running.native_thread}


def test_coroutines_from_native_threads(running: HubLoop) -> None:
    async def double(n: int) -> int:
        await asyncio.sleep(0.001)
        return 2 * n

    pool = gevent.get_hub().threadpool
    # The concurrent future is asked for in the thread's own way of waiting.
    futures = [pool.apply(asyncio.run_coroutine_threadsafe, (double(n), running)) for n in range(10)]
    while not all(future.done() for future in futures):
        gevent.sleep(0.001)
    assert [future.result() for future in futures] == [2 * n for n in range(10)]


def test_stop_from_another_greenlet(loop: HubLoop) -> None:
    gevent.spawn_later(0.002, loop.stop)
    loop.run_forever()
    assert not loop.is_running()


def test_run_from_greenlet_gives_results_and_exceptions(running: HubLoop) -> None:
    async def fails() -> None:
        await asyncio.sleep(0)
        raise ZeroDivisionError

    assert running.run_from_greenlet(asyncio.sleep(0.001, 5)) == 5
    with pytest.raises(ZeroDivisionError):
        running.run_from_greenlet(fails())


def test_run_from_greenlet_has_a_time_limit(running: HubLoop) -> None:
    with pytest.raises(TimeoutError, match="sleep"):
        running.run_from_greenlet(asyncio.sleep(PATIENCE), 0.005)
    gevent.sleep(0.005)
    assert not asyncio.all_tasks(running)


def test_a_greenlet_that_is_killed_cancels_what_it_waits_for(running: HubLoop) -> None:
    greenlet = gevent.spawn(running.run_from_greenlet, asyncio.sleep(PATIENCE))
    gevent.sleep(0.002)
    (task,) = asyncio.all_tasks(running)
    greenlet.kill()
    assert wait_for(task, PATIENCE)
    assert task.cancelled()


def test_run_from_greenlet_inside_the_loop_is_an_error(running: HubLoop) -> None:
    async def main() -> None:
        with pytest.raises(RuntimeError, match="use await"):
            running.run_from_greenlet(asyncio.sleep(0))

    running.run_from_greenlet(main())


def test_sockets_do_not_starve_while_tasks_are_ready(running: HubLoop) -> None:
    """Neither those of other greenlets nor the loop's own."""
    stop = False

    async def busy() -> None:
        while not stop:  # noqa: ASYNC110 - the loop has to be busy
            await asyncio.sleep(0)

    task = running.create_task(busy())
    left, right = socket.socketpair()
    from gevent.socket import wait_read

    with left, right:

        async def inside() -> bytes:
            left.setblocking(False)
            return await running.sock_recv(left, 10)

        for _ in range(20):
            gevent.spawn(left.send, b"x")
            wait_read(right.fileno())
            assert right.recv(1) == b"x"
            gevent.spawn(right.send, b"y")
            assert running.run_from_greenlet(inside()) == b"y"
    stop = True
    assert wait_for(task, PATIENCE)


def test_greenlets_do_not_starve_while_tasks_are_ready(running: HubLoop) -> None:
    rounds = 0

    async def busy() -> None:
        nonlocal rounds
        while rounds < 20_000:
            rounds += 1
            await asyncio.sleep(0)

    task = running.create_task(busy())
    turns = 0
    while not task.done():
        turns += 1
        gevent.sleep(0)
    # One at least in every half millisecond, in which tasks of this kind have a hundred rounds.
    assert turns >= 20


# ---- the first step at once


@pytest.fixture
def waiting(running: HubLoop) -> HubLoop:
    """A loop that has begun to wait for events."""
    running.run_from_greenlet(asyncio.sleep(0))
    gevent.sleep(0.001)
    return running


def test_a_task_that_does_not_wait_has_ended(waiting: HubLoop) -> None:
    running = waiting
    greenlet = running.start()
    other: list[int] = []
    gevent.spawn(other.append, 1)

    async def step() -> tuple[bool, bool, bool]:
        task = asyncio.current_task()
        return gevent.getcurrent() is greenlet, asyncio.get_running_loop() is running, task is not None and task in asyncio.all_tasks()

    task = running.create_started_task(step(), name="first")
    assert task.done()
    assert task.result() == (True, True, True)
    assert task.get_name() == "first"
    # No other greenlet had a turn.
    assert other == []
    for _ in range(3):
        assert running.create_started_task(step()).done()
    assert other == []
    assert asyncio._get_running_loop() is None


def test_kept_greenlets_that_begin_tasks_are_used_again(waiting: HubLoop, monkeypatch: pytest.MonkeyPatch) -> None:
    made: list[int] = []

    class Counted(greenlets._Worker):
        __slots__ = ()

        def __init__(self, owner: greenlets.Greenlets) -> None:
            super().__init__(owner)
            made.append(1)

    async def nothing() -> None:
        pass

    monkeypatch.setattr(greenlets, "_Worker", Counted)
    kept = greenlets.enter()
    try:
        for _ in range(5):
            for begun in [kept.spawn(lambda: waiting.create_started_task(nothing())) for _ in range(20)]:
                begun.join()
    finally:
        greenlets.leave(kept)
    assert len(made) <= 2


def test_all_steps_run_in_the_loops_greenlet(waiting: HubLoop) -> None:
    where: list[object] = []

    async def steps() -> int:
        for _ in range(3):
            where.append(gevent.getcurrent())
            await asyncio.sleep(0)
        return 3

    task = waiting.create_started_task(steps())
    assert len(where) == 1
    assert wait_for(task, PATIENCE)
    assert where == [waiting.start()] * 3
    assert task.result() == 3


def test_a_first_step_before_the_loop_runs(loop: HubLoop) -> None:
    async def step() -> int:
        return 1

    task = loop.create_started_task(step())
    assert not task.done()
    assert loop.run_until_complete(task) == 1


def test_first_steps_and_timers(waiting: HubLoop) -> None:
    """What the step asks the loop for is noticed, though the loop was not called back."""
    task = waiting.create_started_task(asyncio.sleep(0.002, "slept"))
    assert wait_for(task, PATIENCE)
    assert task.result() == "slept"
    late = waiting.call_later(PATIENCE * 2, print)
    assert wait_for(waiting.create_started_task(asyncio.sleep(0.002)), PATIENCE)
    late.cancel()


def test_a_first_step_with_a_wake_up_before_it(waiting: HubLoop) -> None:
    called: list[int] = []
    waiting.call_soon(called.append, 1)

    async def step() -> list[int]:
        return list(called)

    assert waiting.create_started_task(step()).result() == []
    gevent.sleep(0.002)
    assert called == [1]


def test_a_greenlet_that_is_killed_during_the_first_step(waiting: HubLoop) -> None:
    """The step waits cooperatively; the greenlet that has started it is not switched to afterwards."""

    started, killed, stepped = GeventEvent(), GeventEvent(), GeventEvent()

    async def step() -> int:
        started.set()
        killed.wait()
        stepped.set()
        await asyncio.sleep(0.001)
        return 1

    made: list[asyncio.Task[int]] = []

    def call() -> None:
        try:
            _ = waiting.create_started_task(step())
        except gevent.GreenletExit:
            made.extend(asyncio.all_tasks(waiting))
            killed.set()
            # It goes on while the step and what follows it run.
            assert stepped.wait(PATIENCE)
            gevent.sleep(0.02)
            made.append(made[0])

    greenlet = gevent.spawn(call)
    assert started.wait(PATIENCE)
    greenlet.kill()
    assert len(made) == 2
    assert wait_for(made[0], PATIENCE)
    assert made[0].result() == 1


def test_system_exit_in_a_first_step_reaches_the_caller(waiting: HubLoop) -> None:
    async def step() -> None:
        sys.exit(7)

    with pytest.raises(SystemExit):
        _ = waiting.create_started_task(step())
    gc.collect()
    assert waiting.run_from_greenlet(asyncio.sleep(0, 1)) == 1


def test_a_first_step_may_wait_cooperatively(running: HubLoop) -> None:
    """Other greenlets run meanwhile; their tasks have to wait, as in asyncio."""
    others: list[str] = []

    async def other(name: str) -> None:
        others.append(name)
        task = asyncio.current_task()
        assert task is not None
        assert task.get_name() == name
        await asyncio.sleep(0.001)
        assert asyncio.current_task() is task

    async def step(n: int) -> str:
        task = asyncio.current_task()
        _ = running.create_task(other(f"other{n}"), name=f"other{n}")
        gevent.sleep(0.002)
        assert asyncio.current_task() is task
        assert asyncio.get_running_loop() is running
        await asyncio.sleep(0)
        assert asyncio.current_task() is task
        return f"step{n}"

    def call(n: int) -> Any:
        task = running.create_started_task(step(n))
        assert wait_for(task, PATIENCE)
        return task.result()

    greenlets = [gevent.spawn(call, n) for n in range(20)]
    gevent.joinall(greenlets, raise_error=True)
    assert [greenlet.value for greenlet in greenlets] == [f"step{n}" for n in range(20)]
    assert sorted(others) == sorted(f"other{n}" for n in range(20))


def test_an_exception_in_the_first_step_is_the_tasks(waiting: HubLoop) -> None:
    async def fails() -> None:
        raise ZeroDivisionError

    task = waiting.create_started_task(fails())
    with pytest.raises(ZeroDivisionError):
        task.result()
    assert asyncio._get_running_loop() is None
    assert sys.get_asyncgen_hooks() == (None, None)


def test_generators_of_a_first_step_belong_to_the_loop(hub: AsyncioHub, limit: None) -> None:
    loop = HubLoop()
    ended: list[bool] = []

    async def generator() -> AsyncIterator[int]:
        try:
            yield 1
        finally:
            await asyncio.sleep(0)
            ended.append(True)

    kept = generator()

    async def begin() -> int:
        return await kept.__anext__()

    loop.start()
    loop.run_from_greenlet(asyncio.sleep(0))
    assert loop.run_from_greenlet(_result(loop.create_started_task(begin()))) == 1
    assert loop.shutdown(PATIENCE)
    assert ended == [True]


def test_a_started_task_inside_the_loop_is_a_usual_one(running: HubLoop) -> None:
    async def inner() -> int:
        return 1

    async def outer() -> int:
        task = running.create_started_task(inner())
        assert not task.done()
        return await task

    assert running.run_from_greenlet(outer()) == 1


async def _result(task: asyncio.Task[Any]) -> Any:
    return await task


def test_a_started_task_with_a_task_factory(waiting: HubLoop) -> None:
    made: list[Any] = []

    def factory(loop: Any, coroutine: Any, **options: Any) -> Any:
        made.append(coroutine)
        return asyncio.Task(coroutine, loop=loop, **options)

    async def step() -> int:
        return 1

    waiting.set_task_factory(factory)
    task = waiting.create_started_task(step())
    assert task.result() == 1
    assert len(made) == 1


@pytest.mark.skipif(sys.version_info < (3, 12), reason="eager tasks came with Python 3.12")
def test_a_started_task_with_the_eager_factory(running: HubLoop) -> None:
    async def step() -> int:
        await asyncio.sleep(0.001)
        return 1

    running.set_task_factory(getattr(asyncio, "eager_task_factory"))  # noqa: B009 - not in Python 3.10
    assert running.run_from_greenlet(_result(running.create_started_task(step()))) == 1


# ---- asyncio's facilities


def test_signals(loop: HubLoop) -> None:
    async def main() -> int:
        received = asyncio.Event()
        loop.add_signal_handler(signal.SIGUSR2, received.set)
        os.kill(os.getpid(), signal.SIGUSR2)
        await received.wait()
        assert loop.remove_signal_handler(signal.SIGUSR2)
        assert not loop.remove_signal_handler(signal.SIGUSR2)
        return 1

    assert loop.run_until_complete(main()) == 1


@pytest.mark.parametrize("number", sorted(SERVER_SIGNALS))
def test_signals_of_the_server_are_refused(hub: AsyncioHub, limit: None, number: signal.Signals, caplog: pytest.LogCaptureFixture) -> None:
    loop = HubLoop(owned_signals=SERVER_SIGNALS)
    before = signal.getsignal(number)
    try:
        loop.add_signal_handler(number, print)
        assert not loop.remove_signal_handler(number)
    finally:
        loop.close()
    assert signal.getsignal(number) is before
    (record,) = caplog.records
    assert record.levelno == logging.WARNING
    assert number.name in record.getMessage()


def test_executors(running: HubLoop) -> None:
    async def main() -> list[Any]:
        names = [running.run_in_executor(None, lambda: threading.current_thread().name) for _ in range(5)]
        with concurrent.futures.ThreadPoolExecutor(1) as own:
            mine = await running.run_in_executor(own, abs, -1)
        context = contextvars.ContextVar[str]("context")
        context.set("kept")
        return [len(await asyncio.gather(*names)), mine, await asyncio.to_thread(context.get)]

    assert running.run_from_greenlet(main()) == [5, 1, "kept"]


def test_an_exception_in_an_executor(running: HubLoop) -> None:
    async def main() -> None:
        with pytest.raises(ZeroDivisionError):
            await running.run_in_executor(None, lambda: 1 // 0)

    running.run_from_greenlet(main())


async def _echo(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    while data := await reader.read(65536):
        writer.write(data)
        await writer.drain()
    writer.close()
    await writer.wait_closed()


async def _end(server: asyncio.AbstractServer) -> None:
    """Close ``server`` after its connections have ended."""
    if others := asyncio.all_tasks() - {asyncio.current_task()}:
        await asyncio.wait(others)
    server.close()
    await server.wait_closed()


async def _exchange(reader: asyncio.StreamReader, writer: asyncio.StreamWriter, size: int) -> int:
    data = os.urandom(1024) * (size // 1024)

    async def write() -> None:
        for start in range(0, size, 16384):
            writer.write(data[start : start + 16384])
            await writer.drain()

    sending = asyncio.ensure_future(write())
    received = await reader.readexactly(size)
    await sending
    writer.close()
    try:
        await writer.wait_closed()
    except ssl.SSLError:
        # The peer closes its side of TLS at the same time.
        pass
    assert received == data
    return size


def test_streams(running: HubLoop) -> None:
    async def main() -> list[int]:
        server = await asyncio.start_server(_echo, "127.0.0.1", 0)
        address = server.sockets[0].getsockname()
        try:
            streams = [await asyncio.open_connection(*address) for _ in range(5)]
            return await asyncio.gather(*(_exchange(*pair, 1 << 20) for pair in streams))
        finally:
            await _end(server)

    assert running.run_from_greenlet(main()) == [1 << 20] * 5


def test_streams_over_a_unix_socket(running: HubLoop, tmp_path: Path) -> None:
    async def main() -> int:
        path = str(tmp_path / "socket")
        server = await asyncio.start_unix_server(_echo, path)
        try:
            return await _exchange(*await asyncio.open_unix_connection(path), 1 << 16)
        finally:
            await _end(server)

    assert running.run_from_greenlet(main()) == 1 << 16


def test_streams_over_tls(running: HubLoop, tmp_path: Path) -> None:
    authority = certificates.issue("authority", authority=True)
    file = certificates.issue("localhost", authority, names=["localhost"]).write(tmp_path / "server.pem")
    serving = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    serving.load_cert_chain(file)
    asking = ssl.create_default_context(cadata=authority.pem.decode())

    async def main() -> int:
        server = await asyncio.start_server(_echo, "127.0.0.1", 0, ssl=serving)
        host, port = server.sockets[0].getsockname()
        try:
            streams = await asyncio.open_connection(host, port, ssl=asking, server_hostname="localhost")
            return await _exchange(*streams, 1 << 18)
        finally:
            await _end(server)

    assert running.run_from_greenlet(main()) == 1 << 18


def test_datagrams(running: HubLoop) -> None:
    received: asyncio.Future[bytes] = running.create_future()

    class Protocol(asyncio.DatagramProtocol):
        def datagram_received(self, data: bytes, addr: Any) -> None:
            received.set_result(data)

    async def main() -> bytes:
        transport, _ = await running.create_datagram_endpoint(Protocol, local_addr=("127.0.0.1", 0))
        address = transport.get_extra_info("sockname")
        sender, _ = await running.create_datagram_endpoint(asyncio.DatagramProtocol, remote_addr=address)
        sender.sendto(b"hello")
        data = await received
        transport.close()
        sender.close()
        await asyncio.sleep(0)
        return data

    assert running.run_from_greenlet(main()) == b"hello"


def test_socket_methods(running: HubLoop) -> None:
    async def main() -> bytes:
        left, right = socket.socketpair()
        left.setblocking(False)
        right.setblocking(False)
        with left, right:
            # More than the socket takes at once.
            sending = asyncio.ensure_future(running.sock_sendall(left, b"x" * 1_000_000))
            received = b""
            while len(received) < 1_000_000:
                received += await running.sock_recv(right, 65536)
            await sending
            return received

    assert running.run_from_greenlet(main()) == b"x" * 1_000_000


def test_pipes(running: HubLoop) -> None:
    async def main() -> bytes:
        reading, writing = os.pipe()
        reader = asyncio.StreamReader()
        source, _ = await running.connect_read_pipe(lambda: asyncio.StreamReaderProtocol(reader), os.fdopen(reading, "rb", 0))
        sink, _ = await running.connect_write_pipe(asyncio.BaseProtocol, os.fdopen(writing, "wb", 0))
        sink.write(b"hello")
        sink.close()
        data = await reader.read()
        source.close()
        await asyncio.sleep(0)
        return data

    assert running.run_from_greenlet(main()) == b"hello"


def test_names_are_resolved(running: HubLoop) -> None:
    async def main() -> Any:
        return (await running.getaddrinfo("localhost", 80, family=socket.AF_INET))[0][4]

    assert running.run_from_greenlet(main()) == ("127.0.0.1", 80)


def test_locks_queues_and_conditions(running: HubLoop) -> None:
    async def main() -> list[int]:
        queue: asyncio.Queue[int] = asyncio.Queue(2)
        lock = asyncio.Lock()
        taken: list[int] = []

        async def take() -> None:
            for _ in range(10):
                async with lock:
                    taken.append(await queue.get())

        takers = [asyncio.ensure_future(take()) for _ in range(3)]
        for n in range(30):
            await queue.put(n)
        await asyncio.gather(*takers)
        return taken

    assert running.run_from_greenlet(main()) == list(range(30))


def test_wait_for_and_cancellation(running: HubLoop) -> None:
    async def main() -> None:
        with pytest.raises(asyncio.TimeoutError):
            await asyncio.wait_for(asyncio.sleep(PATIENCE), 0.001)
        with pytest.raises(asyncio.TimeoutError):
            await asyncio.wait_for(asyncio.shield(asyncio.sleep(0.005)), 0.001)
        await asyncio.sleep(0.01)

    running.run_from_greenlet(main())


@since_3_11
def test_task_groups_and_timeouts(running: HubLoop) -> None:
    async def fails() -> None:
        await asyncio.sleep(0.001)
        raise ZeroDivisionError

    async def main() -> list[BaseException]:
        any_asyncio: Any = asyncio
        cancelled: list[BaseException] = []
        failed: list[type[BaseException]] = []

        async def waits() -> None:
            try:
                await asyncio.sleep(PATIENCE)
            except asyncio.CancelledError as error:
                cancelled.append(error)
                raise

        try:
            async with any_asyncio.TaskGroup() as group:
                group.create_task(fails())
                group.create_task(waits())
        except BaseException as error:  # noqa: BLE001 - ExceptionGroup came with Python 3.11
            failed.extend(type(one) for one in getattr(error, "exceptions", ()))
        assert failed == [ZeroDivisionError]
        with pytest.raises(TimeoutError):
            async with any_asyncio.timeout(0.001):
                await asyncio.sleep(PATIENCE)
        return cancelled

    assert len(running.run_from_greenlet(main())) == 1


@since_3_11
def test_a_runner_with_it_as_its_loop(hub: AsyncioHub, limit: None) -> None:
    runner: Any = getattr(asyncio, "Runner")  # noqa: B009
    with runner(loop_factory=HubLoop) as runner:
        assert runner.run(asyncio.sleep(0.001, 3)) == 3


def test_all_tasks(running: HubLoop) -> None:
    made = {running.create_task(asyncio.sleep(PATIENCE)) for _ in range(3)}
    assert asyncio.all_tasks(running) == made
    for task in made:
        task.cancel()
    assert all(wait_for(task, PATIENCE) for task in made)
    assert asyncio.all_tasks(running) == set()


def test_debug_mode_reports_callbacks_that_block(loop: HubLoop, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.WARNING, "asyncio")
    loop.set_debug(True)
    loop.slow_callback_duration = 0.01
    sleep = get_original("time", "sleep")

    async def blocks() -> None:
        sleep(0.02)

    loop.run_until_complete(blocks())
    assert any("blocks" in record.getMessage() and "took" in record.getMessage() for record in caplog.records)


def test_debug_mode_knows_threads_from_greenlets(running: HubLoop) -> None:
    running.set_debug(True)
    done: AsyncResult[None] = AsyncResult()
    running.call_soon(done.set, None)
    done.get()
    found: list[str] = []

    def call() -> None:
        try:
            running.call_soon(print)
        except RuntimeError as error:
            found.append(str(error))
        running.call_soon_threadsafe(ended.set)

    ended = GeventEvent()
    _start_thread(call, ())
    ended.wait()
    assert "Non-thread-safe" in found[0]


def test_debug_mode_stays_with_its_greenlet(loop: HubLoop) -> None:
    loop.set_debug(True)
    depths: list[int] = []

    async def main() -> int:
        gevent.spawn(lambda: depths.append(sys.get_coroutine_origin_tracking_depth())).join()
        await asyncio.sleep(0)
        return sys.get_coroutine_origin_tracking_depth()

    assert loop.run_until_complete(main()) > 0
    assert depths == [0]
    assert sys.get_coroutine_origin_tracking_depth() == 0


def test_exceptions_of_callbacks_are_logged(loop: HubLoop, caplog: pytest.LogCaptureFixture) -> None:
    loop.call_soon(lambda: 1 // 0)
    loop.run_until_complete(asyncio.sleep(0.001))
    (record,) = caplog.records
    assert record.name == "asyncio"
    assert record.exc_info is not None
    assert record.exc_info[0] is ZeroDivisionError


def test_system_exit_ends_the_loop(loop: HubLoop) -> None:
    async def main() -> None:
        sys.exit(7)

    with pytest.raises(SystemExit) as caught:
        loop.run_until_complete(main())
    assert caught.value.code == 7
    assert asyncio._get_running_loop() is None
    assert loop.run_until_complete(asyncio.sleep(0, 1)) == 1


def test_a_loop_that_survives_system_exit(loop: HubLoop) -> None:
    async def leave() -> None:
        await asyncio.sleep(0)
        raise SystemExit

    def leave_now() -> None:
        raise SystemExit

    greenlet = loop.start()
    for _ in range(2):
        task = loop.create_task(leave())
        assert wait_for(task, PATIENCE)
        assert isinstance(task.exception(), SystemExit)
        assert loop.run_from_greenlet(asyncio.sleep(0, 1)) == 1
    # An end that was asked for in the same round is not forgotten.
    loop.call_soon(loop.stop)
    loop.call_soon(leave_now)
    greenlet.join(PATIENCE)
    assert greenlet.dead


def test_timers_of_many_lengths(running: HubLoop) -> None:
    """Longer and shorter ones in any order, and those that are cancelled."""
    late: list[float] = []

    def ring(due: float) -> None:
        late.append(running.time() - due)

    cancelled = [running.call_later(0.001 * n, ring, 0) for n in range(50)]
    for n in (5, 1, 9, 3, 7, 0, 2, 8, 6, 4):
        running.call_later(0.002 * n, ring, running.time() + 0.002 * n)
        gevent.sleep(0)
        for handle in cancelled[n * 5 : n * 5 + 5]:
            handle.cancel()
    while len(late) < 10:
        gevent.sleep(0.001)
    assert min(late) > -0.001


def test_cooperative_waiting_in_a_coroutine_lets_greenlets_run(running: HubLoop) -> None:
    """It holds up the loop's other tasks, as in asyncio, but nothing else of the process."""
    seen: list[Any] = []

    async def main() -> None:
        task = asyncio.current_task()
        greenlet = gevent.spawn(lambda: seen.append(asyncio._get_running_loop()))
        gevent.sleep(0.002)
        assert greenlet.dead
        assert asyncio.current_task() is task

    running.run_from_greenlet(main())
    assert seen == [None]
