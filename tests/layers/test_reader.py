"""The reader: every kind of layer is waited for in its own way, and no message is lost on the way to the caller."""

from __future__ import annotations

import subprocess
import sys
import textwrap
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import gevent
import pytest
from asgiref import inmemory
from gevent.event import Event

from greendaphne.layers import reader as reader_module
from greendaphne.layers.capabilities import Ending
from greendaphne.layers.memory import MemoryChannelLayer
from greendaphne.layers.reader import BLOCKING, FIRST_PAUSE, LAST_PAUSE, POLLING, Reader

PATIENCE = 30.0
ROOT = Path(__file__).resolve().parents[2]

Received = tuple[str, dict[str, Any]] | tuple[None, None]


class Wrapped:
    """A layer of others: a real one without the extension, whose calls of ``receive`` are noted and can be disturbed."""

    blocks_natively: bool | None = False

    def __init__(self, layer: Any = None) -> None:
        self.layer = MemoryChannelLayer() if layer is None else layer
        self.send = self.layer.send
        self.calls: list[bool] = []
        #: Called before each ``receive`` with its number, from 1.
        self.before: Callable[[int], None] = lambda number: None

    def receive(self, channels: list[str], block: bool = False) -> Received:
        self.calls.append(block)
        self.before(len(self.calls))
        received: Received = self.layer.receive(channels, block)
        return received


class Blocking(Wrapped):
    """A layer whose ``receive`` stops its whole thread, as a semaphore of the operating system does."""

    blocks_natively = None

    def __init__(self) -> None:
        super().__init__()
        self.ready = threading.Event()
        self.entered = threading.Event()
        self.thread = 0

    def receive(self, channels: list[str], block: bool = False) -> Received:
        self.thread = threading.get_ident()
        if block:
            self.entered.set()
            self.ready.wait(PATIENCE)
        return super().receive(channels)


@pytest.fixture
def pauses(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """The pauses of a reader, which then takes no time."""
    pauses: list[float] = []
    clock = [0.0]

    class Gevent:
        spawn: Any = staticmethod(gevent.spawn)

        @staticmethod
        def sleep(seconds: float) -> None:
            pauses.append(seconds)
            clock[0] += seconds
            gevent.sleep(0)

    class Time:
        @staticmethod
        def monotonic() -> float:
            return clock[0]

    monkeypatch.setattr(reader_module, "gevent", Gevent)
    monkeypatch.setattr(reader_module, "time", Time)
    return pauses


@pytest.fixture(autouse=True)
def patience() -> Iterator[None]:
    with gevent.Timeout(PATIENCE):
        yield


def fill(layer: Any, count: int, channel: str = "a") -> None:
    for n in range(count):
        layer.send(channel, {"n": n})


def numbers(batch: list[tuple[str, dict[str, Any]]]) -> list[int]:
    return [message["n"] for _, message in batch]


def test_a_layer_with_batches_is_asked_for_them() -> None:
    layer = MemoryChannelLayer(capacity=1000)
    reader = Reader(layer, ["a", "p!"])
    assert reader.mode == BLOCKING
    assert reader.ending is Ending.WAKE
    fill(layer, 150)
    assert numbers(reader.receive()) == list(range(100))
    assert numbers(reader.receive(20)) == list(range(100, 120))
    assert numbers(reader.receive()) == list(range(120, 150))
    waiting = gevent.spawn(reader.receive)
    gevent.sleep(0)
    layer.send("p!x", {"n": 1})
    assert waiting.get() == [("p!x", {"n": 1})]


def test_a_layer_that_waits_is_waited_for_and_then_drained() -> None:
    layer = Wrapped()
    reader = Reader(layer, ["a"], limit=5)
    assert reader.mode == BLOCKING
    waiting = gevent.spawn(reader.receive)
    while not layer.calls:
        gevent.sleep(0)
    assert layer.calls == [True]
    fill(layer, 7)
    assert numbers(waiting.get()) == [0, 1, 2, 3, 4]
    assert layer.calls == [True] + [False] * 4
    assert numbers(reader.receive()) == [5, 6]
    assert layer.calls[5:] == [True, False, False]
    assert reader.mode == BLOCKING


def test_a_layer_that_returns_at_once_is_polled(pauses: list[float]) -> None:
    layer = inmemory.ChannelLayer()
    reader = Reader(layer, ["a"])
    assert reader.mode == POLLING
    waiting = gevent.spawn(reader.receive)
    while len(pauses) < 10:
        gevent.sleep(0)
    assert pauses[:8] == pytest.approx([FIRST_PAUSE * 2**n for n in range(6)] + [LAST_PAUSE] * 2)
    fill(layer, 3)
    assert numbers(waiting.get()) == [0, 1, 2]
    pauses.clear()
    waiting = gevent.spawn(reader.receive)
    while not pauses:
        gevent.sleep(0)
    assert pauses[0] == FIRST_PAUSE
    fill(layer, 1)
    assert numbers(waiting.get()) == [0]


def test_an_idle_receive_returns_nothing_after_a_while(pauses: list[float]) -> None:
    assert Reader(inmemory.ChannelLayer(), ["a"]).receive() == []
    assert sum(pauses) == pytest.approx(reader_module.IDLE_LIMIT, abs=2 * LAST_PAUSE)


def test_an_idle_receive_of_a_layer_with_batches_returns_nothing_after_a_while(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(reader_module, "IDLE_LIMIT", 0.01)
    assert Reader(MemoryChannelLayer(), ["a"]).receive() == []


def test_the_mode_tells_what_was_found_out(pauses: list[float]) -> None:
    reader = Reader(Wrapped(inmemory.ChannelLayer()), ["a"])
    assert reader.mode == BLOCKING
    assert reader.receive() == []
    assert reader.mode == POLLING


def test_a_layer_that_waits_without_success_is_not_polled(monkeypatch: pytest.MonkeyPatch, pauses: list[float]) -> None:
    layer = Wrapped(inmemory.ChannelLayer())
    layer.before = lambda number: vars(reader_module)["gevent"].sleep(1)
    reader = Reader(layer, ["a"])
    assert reader.receive() == []
    assert set(pauses) == {1}
    assert reader.mode == BLOCKING


def test_force_sync_never_waits_in_the_layer(pauses: list[float]) -> None:
    layer = Wrapped()
    reader = Reader(layer, ["a"], force_sync=True)
    assert reader.mode == POLLING
    waiting = gevent.spawn(reader.receive)
    while len(pauses) < 5:
        gevent.sleep(0)
    fill(layer, 2)
    assert numbers(waiting.get()) == [0, 1]
    assert not any(layer.calls)


def test_what_the_layer_raises_reaches_the_caller() -> None:
    layer = Wrapped()

    def fail(number: int) -> None:
        raise ConnectionError("gone")

    layer.before = fail
    reader = Reader(layer, ["a"])
    with pytest.raises(ConnectionError, match="gone"):
        reader.receive()


def test_an_error_while_draining_loses_nothing() -> None:
    layer = Wrapped()
    fill(layer, 3)

    def fail(number: int) -> None:
        if number in (3, 4):
            raise ConnectionError("gone")

    layer.before = fail
    reader = Reader(layer, ["a"])
    assert numbers(reader.receive()) == [0, 1]
    with pytest.raises(ConnectionError, match="gone"):
        reader.receive()
    assert numbers(reader.receive()) == [2]


def test_a_time_limit_while_draining_loses_nothing() -> None:
    layer = Wrapped()
    fill(layer, 3)
    answered = Event()

    def hang(number: int) -> None:
        if number == 3:
            answered.wait()

    layer.before = hang
    reader = Reader(layer, ["a"])
    with pytest.raises(gevent.Timeout) as caught, gevent.Timeout(0.01) as limit:
        reader.receive()
    assert caught.value is limit
    answered.set()
    assert numbers(reader.receive()) == [0, 1, 2]


def test_what_comes_after_the_end_of_a_reader_is_sent_again() -> None:
    layer = Wrapped()
    answered = Event()

    def hang(number: int) -> None:
        if number == 1:
            answered.wait()

    layer.before = hang
    reader = Reader(layer, ["a"], limit=1)
    with pytest.raises(gevent.Timeout), gevent.Timeout(0.01):
        reader.receive()
    reader.close()
    fill(layer, 1)
    answered.set()
    other = Reader(layer, ["a"], limit=1)
    assert numbers(other.receive()) == [0]


# Layers that block their thread


def test_a_layer_that_blocks_its_thread_leaves_the_others_alone() -> None:
    layer = Blocking()
    reader = Reader(layer, ["a"])  # this process is not monkey-patched, so a strange layer gets a thread
    assert reader.ending is Ending.LIMIT
    assert reader.mode == BLOCKING
    waiting = gevent.spawn(reader.receive)
    while not layer.entered.is_set():
        gevent.sleep(0.001)  # which ends only where the hub is free
    fill(layer, 3)
    layer.ready.set()
    assert numbers(waiting.get()) == [0, 1, 2]
    assert layer.thread in sys._current_frames()
    reader.close()
    reader.close()
    with gevent.Timeout(PATIENCE):
        while layer.thread in sys._current_frames():
            gevent.sleep(0.001)


def test_an_interrupted_wait_in_a_thread_loses_nothing() -> None:
    layer = Blocking()
    reader = Reader(layer, ["a"], threaded=True)
    with pytest.raises(gevent.Timeout), gevent.Timeout(0.01):
        reader.receive()
    fill(layer, 2)
    layer.ready.set()
    assert numbers(reader.receive()) == [0, 1]
    reader.close()


def test_an_error_in_a_thread_reaches_the_caller_quietly(capfd: pytest.CaptureFixture[str]) -> None:
    layer = Wrapped()
    layer.before = lambda number: gevent.sleep("never")  # type: ignore[arg-type]
    reader = Reader(layer, ["a"], threaded=True)
    for _ in range(2):
        with pytest.raises(TypeError):
            reader.receive()
    reader.close()
    assert capfd.readouterr() == ("", "")


def test_who_gets_a_thread() -> None:
    class Ipc(Wrapped):
        blocks_natively = None

    Ipc.__module__ = "asgi_ipc.core"

    class Declared(Wrapped):
        blocks_natively = True

    class Cooperative(Wrapped):
        blocks_natively = False

    class Strange(Wrapped):
        blocks_natively = None

    def threaded(layer: Any, **options: Any) -> bool:
        return Reader(layer, ["a"], **options)._threaded

    class Wrapper:
        """As Channels gives it to a server."""

        def __init__(self, channel_layer: Any) -> None:
            self.channel_layer = channel_layer

        def __getattr__(self, name: str) -> Any:
            return getattr(self.channel_layer, name)

    assert threaded(Ipc())
    assert threaded(Wrapper(Ipc()))
    assert not threaded(Wrapper(inmemory.ChannelLayer()))
    assert threaded(Declared())
    assert threaded(Strange())
    assert not threaded(Cooperative())
    assert threaded(Cooperative(), threaded=True)
    assert not threaded(Declared(), threaded=False)
    assert not threaded(Declared(), force_sync=True)
    assert not threaded(MemoryChannelLayer())
    assert not threaded(inmemory.ChannelLayer())


def test_in_a_monkey_patched_process_strange_layers_are_trusted_to_wait() -> None:
    script = """
        from gevent import monkey
        monkey.patch_all()
        from tests.layers.test_reader import Wrapped
        from greendaphne.layers.reader import Reader

        for module in ("asgi_redis.core", "asgi_ipc.core"):
            Wrapped.__module__ = module
            Wrapped.blocks_natively = None
            print(module, Reader(Wrapped(), ["a"])._threaded)
    """
    output = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(script)], capture_output=True, text=True, timeout=120, cwd=ROOT, check=False
    )
    assert output.stderr == ""
    assert output.stdout.splitlines() == ["asgi_redis.core False", "asgi_ipc.core True"]
