"""The in-memory channel layer: the specification, isolation, waits across greenlets, hubs and threads; nothing is lost, nothing leaks."""

from __future__ import annotations

import collections
import enum
import importlib
import re
import signal
import subprocess
import sys
import textwrap
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import gevent
import pytest
from gevent.hub import get_hub
from hypothesis import example, given, settings
from hypothesis import strategies as st

from greendaphne.layers import channel_store, memory, receiver, values
from greendaphne.layers.memory import MemoryChannelLayer
from greendaphne.layers.values import INT_MAX, INT_MIN, MAX_DEPTH, copy_message, message_size
from tests.support.layers import receive_by_lasting_receivers

#: A wait that is never meant to last: long enough for a loaded machine, short enough to end a broken run.
PATIENCE = 30.0
ROOT = Path(__file__).resolve().parents[2]

HTTP_REQUEST: dict[str, Any] = {
    "reply_channel": "daphne.response.abcdefgh!ijklmnop",
    "http_version": "1.1",
    "method": "GET",
    "scheme": "http",
    "path": "/some/påth",
    "query_string": b"a=1",
    "root_path": "",
    "headers": [(b"host", b"localhost:8000"), (b"accept", b"*/*"), (b"cookie", b"a=b")],
    "body": b"x" * 1000,
    "client": ["127.0.0.1", 55555],
    "server": None,
}


@pytest.fixture(autouse=True, params=["each wait for itself", "lasting receivers"])
def way(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """Both ways in which the layer waits; every test of this module holds for either."""
    if request.param == "lasting receivers":
        receive_by_lasting_receivers(monkeypatch)


@pytest.fixture
def layer() -> MemoryChannelLayer:
    return MemoryChannelLayer()


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    clock = Clock()
    for module in (memory, channel_store, receiver):
        monkeypatch.setattr(module, "monotonic", clock.monotonic)
    return clock


class Clock:
    """The time as the layer sees it, for tests of expiry."""

    def __init__(self) -> None:
        self.now = 1000.0

    def monotonic(self) -> float:
        return self.now


def in_thread(function: Callable[[], None]) -> threading.Thread:
    thread = threading.Thread(target=function, daemon=True)
    thread.start()
    return thread


def in_hub_thread(function: Callable[[], None]) -> threading.Thread:
    """Run ``function`` in the main greenlet of a thread with a hub of its own."""

    def run() -> None:
        get_hub()
        try:
            function()
        finally:
            get_hub().destroy(destroy_loop=True)

    return in_thread(run)


def waiters(layer: MemoryChannelLayer, channel: str) -> int:
    found = layer._channels.get(channel)
    return 0 if found is None else sum(not waiter.signalled for waiter in found.waiters)


def until(condition: Callable[[], bool]) -> None:
    """Wait for what another greenlet or thread is about to do and cannot signal."""
    with gevent.Timeout(PATIENCE):
        while not condition():
            gevent.sleep(0.001)


# Messages


def test_receiver_gets_its_own_containers(layer: MemoryChannelLayer) -> None:
    message = {**HTTP_REQUEST, "nested": {"list": [[1], {"a": [b"x"]}], "tuple": ([1], 2)}}
    layer.send("http.request", message)
    channel, received = layer.receive(["http.request"])
    assert channel == "http.request"
    assert received == message
    assert received is not None
    assert received["headers"] is not message["headers"]
    assert received["nested"]["list"][1] is not message["nested"]["list"][1]
    assert received["nested"]["tuple"][0] is not message["nested"]["tuple"][0]
    assert received["body"] is message["body"]


def test_tuples_stay_tuples(layer: MemoryChannelLayer) -> None:
    layer.send("a", HTTP_REQUEST)
    _, received = layer.receive(["a"])
    assert received is not None
    assert [type(pair) for pair in received["headers"]] == [tuple] * 3


class Colour(enum.IntEnum):
    RED = 1


class Text(str):
    __slots__ = ()


class Raw(bytes):
    __slots__ = ()


class Ratio(float):
    __slots__ = ()


class Pair(NamedTuple):
    left: object
    right: object


def test_subclasses_become_plain_types_as_on_a_wire() -> None:
    copy = copy_message(
        collections.OrderedDict(
            [
                ("int", Colour.RED),
                (Text("str"), Text("text")),
                ("bytes", Raw(b"raw")),
                ("bytearray", bytearray(b"array")),
                ("memoryview", memoryview(b"view")),
                ("float", Ratio(0.5)),
                ("dict", collections.defaultdict(list, {Text("key"): [Text("x")]})),
                ("tuple", Pair(Text("l"), [1])),
                ("list", collections.UserList([1]).data),
            ]
        )
    )
    assert copy == {
        "int": 1,
        "str": "text",
        "bytes": b"raw",
        "bytearray": b"array",
        "memoryview": b"view",
        "float": 0.5,
        "dict": {"key": ["x"]},
        "tuple": ("l", [1]),
        "list": [1],
    }
    assert type(copy) is dict
    assert {type(key) for key in copy} == {str}
    assert [type(value) for value in copy.values()] == [int, str, bytes, bytes, bytes, float, dict, tuple, list]
    assert type(copy["dict"]["key"][0]) is str  # type: ignore[index]
    assert type(copy["tuple"][0]) is str  # type: ignore[index]


def test_a_view_of_changing_bytes_is_copied_wherever_it_is() -> None:
    view = memoryview(bytearray(b"value"))
    assert copy_message({"a": view, "b": [view], "c": [(b"name", view)]}) == {"a": b"value", "b": [b"value"], "c": [(b"name", b"value")]}


@pytest.mark.parametrize("how", ["send", "send_owned", "receive"])
def test_what_ends_the_wait_for_the_lock_is_raised(how: str) -> None:
    """A signal handler may raise an exception while another thread holds the lock."""

    class Alarm(Exception):
        pass

    def ring(number: int, frame: object) -> None:
        raise Alarm

    def hold() -> None:
        with layer._lock:
            held.set()
            done.wait(PATIENCE)

    layer = MemoryChannelLayer()
    get_hub()
    lasting = layer.receiver(["a"])
    assert lasting is not None
    calls: dict[str, Callable[[], object]] = {
        "send": lambda: layer.send("a", {}),
        "send_owned": lambda: layer.send_owned("a", {}),
        "receive": lambda: lasting.receive(1, PATIENCE),
    }
    held, done = threading.Event(), threading.Event()
    thread = threading.Thread(target=hold)
    thread.start()
    previous = signal.signal(signal.SIGALRM, ring)
    try:
        assert held.wait(PATIENCE)
        signal.setitimer(signal.ITIMER_REAL, 0.02)
        with pytest.raises(Alarm):
            calls[how]()
    finally:
        done.set()
        thread.join()
        signal.signal(signal.SIGALRM, previous)
    # The lock is free.
    layer.send("a", {"b": 1})
    assert lasting.receive(1, PATIENCE) == [("a", {"b": 1})]
    lasting.close()


@pytest.mark.parametrize(
    ("message", "error", "text"),
    [
        ({"when": {1}}, TypeError, "message key 'when' holds a set"),
        ({"a": [{"b": (1, object())}]}, TypeError, "message key 'a.b' holds a object"),
        ({"a": {"b": {"c": 1j}}}, TypeError, "message key 'a.b.c' holds a complex"),
        ({b"a": 1}, TypeError, "message key b'a' is a bytes; keys must be str"),
        ({"a": {1: 2}}, TypeError, "message key 1 in 'a' is a int"),
        ([], TypeError, "a message must be a dict, not list"),
        ({"n": INT_MAX + 1}, ValueError, "'n' holds an int of more than 64 bits"),
        ({"n": [INT_MIN - 1]}, ValueError, "'n' holds an int of more than 64 bits"),
        ({"s": "\ud800"}, ValueError, "'s' holds a str that is not valid Unicode"),
        ({"s": ["a", "\udfff"]}, ValueError, "'s' holds a str that is not valid Unicode"),
        ({"__asgi_channel__": "x"}, ValueError, "reserved"),
    ],
)
def test_what_no_layer_carries_is_refused(layer: MemoryChannelLayer, message: Any, error: type[Exception], text: str) -> None:
    with pytest.raises(error, match=re.escape(text)):
        layer.send("a", message)
    with pytest.raises(error, match=re.escape(text)):
        layer.send_group("nobody", message)
    assert layer.receive(["a"]) == (None, None)


def test_cycles_end() -> None:
    endless: list[object] = []
    endless.append(endless)
    with pytest.raises(ValueError, match=f"nested more than {MAX_DEPTH} levels deep"):
        copy_message({"a": endless})
    cycle: dict[str, object] = {}
    cycle["a"] = cycle
    with pytest.raises(ValueError, match=f"nested more than {MAX_DEPTH} levels deep"):
        copy_message(cycle)


VALUES = st.recursive(
    st.none() | st.booleans() | st.integers(INT_MIN, INT_MAX) | st.floats(allow_nan=False) | st.text() | st.binary(),
    lambda children: st.lists(children) | st.lists(children).map(tuple) | st.dictionaries(st.text(), children),
    max_leaves=20,
)


def containers(value: object) -> Iterator[int]:
    if isinstance(value, (list, dict)):
        yield id(value)
    if isinstance(value, dict):
        value = list(value.values())
    if isinstance(value, (list, tuple)):
        for item in value:
            yield from containers(item)


@given(st.dictionaries(st.text(), VALUES))
def test_copies_are_equal_and_share_no_container(message: dict[str, object]) -> None:
    copy = copy_message(message)
    assert repr(copy) == repr(message)
    assert not set(containers(copy)) & set(containers(message))


@given(st.dictionaries(st.text(), VALUES))
def test_size_bounds_messagepack(message: dict[str, object]) -> None:
    msgpack = importlib.import_module("msgpack")
    assert message_size(copy_message(message)) >= len(msgpack.packb(message))


def test_message_too_large() -> None:
    layer = MemoryChannelLayer(max_message_size=1000)
    layer.send("a", {"body": b"x" * 900})
    with pytest.raises(layer.MessageTooLarge):
        layer.send("a", {"body": b"x" * 1000})
    with pytest.raises(layer.MessageTooLarge):
        layer.send("a", {"text": "å" * 500})


# Names


@pytest.mark.parametrize("name", ["a", "http.request", "A-z_0.9", "http.request.body?a-_.9", "daphne.response.x!y", "x!", "n" * 99])
def test_good_channel_names(layer: MemoryChannelLayer, name: str) -> None:
    layer.send(name, {})
    reader = name[: name.index("!") + 1] if "!" in name else name
    assert layer.receive([reader]) == (name, {})


@pytest.mark.parametrize(
    "name", ["", "a b", "a\n", "å", "a٣", "a?", "a?b?c", "a!b!c", "a?b!c", "a!b?c", "!", "?a", "a/b", "n" * 100, b"a", None, 5]
)
def test_bad_channel_names(layer: MemoryChannelLayer, name: Any) -> None:
    for call in (
        lambda: layer.send(name, {}),
        lambda: layer.receive([name]),
        lambda: layer.receive([name], block=True),
        lambda: layer.receive_batch([name], 1, 1),
        lambda: layer.group_add("g", name),
        lambda: layer.group_discard("g", name),
        lambda: layer.channel_statistics(name),
    ):
        with pytest.raises(TypeError, match="not a channel name"):
            call()


@pytest.mark.parametrize("group", ["", "a?", "a!", "g\n", "å", "g" * 100, b"g", None])
def test_bad_group_names(layer: MemoryChannelLayer, group: Any) -> None:
    for call in (
        lambda: layer.group_add(group, "a"),
        lambda: layer.group_discard(group, "a"),
        lambda: layer.group_channels(group),
        lambda: layer.send_group(group, {}),
    ):
        with pytest.raises(TypeError, match="not a group name"):
            call()


def test_receive_takes_any_collection_of_names_but_not_one_name(layer: MemoryChannelLayer) -> None:
    layer.send("abc", {"n": 1})
    layer.send("abc", {"n": 2})
    assert layer.receive({"abc"}) == ("abc", {"n": 1})
    assert layer.receive(("x", "abc")) == ("abc", {"n": 2})
    with pytest.raises(TypeError, match="must be a list of names"):
        layer.receive("abc")
    with pytest.raises(TypeError, match="no channel"):
        layer.receive([])
    with pytest.raises(ValueError, match="limit"):
        layer.receive_batch(["abc"], 0)


def test_new_channel(layer: MemoryChannelLayer) -> None:
    names = {layer.new_channel("http.request.body?") for _ in range(100)}
    assert len(names) == 100
    for name in names:
        assert layer.valid_channel_name(name)
    for bad in ("a", "a!", "a?b", "n" * 90 + "?", b"a?", None):
        with pytest.raises(TypeError):
            layer.new_channel(bad)


def test_receive_many_does_not_warn(layer: MemoryChannelLayer) -> None:
    layer.send("a", {})
    assert layer.receive_many(["a"], block=True) == ("a", {})  # a warning would be an error


# Order and fairness


def test_order_within_a_channel(layer: MemoryChannelLayer) -> None:
    for n in range(50):
        layer.send("a?b", {"n": n})
    assert [message["n"] for _, message in layer.receive_batch(["a?b"], 20)] == list(range(20))
    assert [layer.receive(["a?b"])[1] for _ in range(30)] == [{"n": n} for n in range(20, 50)]


def test_no_channel_starves(layer: MemoryChannelLayer) -> None:
    channels = [f"c{n}" for n in range(5)]
    for channel in channels:
        for _ in range(50):
            layer.send(channel, {})
    taken = collections.Counter(layer.receive(channels)[0] for _ in range(100))
    assert taken == dict.fromkeys(channels, 20)


def test_batches_come_from_all_channels(layer: MemoryChannelLayer) -> None:
    layer.send("a", {"n": 1})
    layer.send("p!x", {"n": 2})
    layer.send("p!y", {"n": 3})
    batch = layer.receive_batch(["a", "p!"], 10, 0)
    assert sorted(batch) == [("a", {"n": 1}), ("p!x", {"n": 2}), ("p!y", {"n": 3})]
    assert layer.receive_batch(["a", "p!"], 10, 0) == []


# Capacity


def test_capacity_by_pattern() -> None:
    patterns: dict[Any, int] = {"http.*": 2, re.compile(r"^ws\..+"): 3, "p!": 1}
    layer = MemoryChannelLayer(capacity=4, channel_capacity=patterns)
    for channel, capacity in (("http.request", 2), ("ws.receive", 3), ("p!x", 1), ("other", 4)):
        for _ in range(capacity):
            layer.send(channel, {})
        with pytest.raises(layer.ChannelFull):
            layer.send(channel, {})


def test_capacity_may_change(layer: MemoryChannelLayer) -> None:
    layer.send("a", {})
    layer.capacity = 1
    with pytest.raises(layer.ChannelFull):
        layer.send("a", {})
    layer.capacity = 2
    layer.send("a", {})


def test_a_refused_message_is_counted_and_leaves_no_trace() -> None:
    layer = MemoryChannelLayer(capacity=1)
    layer.send("p!a", {"n": 1})
    with pytest.raises(layer.ChannelFull):
        layer.send("p!b", {"n": 2})
    assert layer.receive_batch(["p!"], 10) == [("p!a", {"n": 1})]
    layer.send("p!b", {"n": 3})
    assert layer.receive_batch(["p!"], 10) == [("p!b", {"n": 3})]


def test_expired_messages_make_room(clock: Clock) -> None:
    layer = MemoryChannelLayer(capacity=2, expiry=10)
    layer.send("a", {"n": 1})
    clock.now += 6
    layer.send("a", {"n": 2})
    clock.now += 6
    layer.send("a", {"n": 3})
    with pytest.raises(layer.ChannelFull):
        layer.send("a", {"n": 4})
    assert [message for _, message in layer.receive_batch(["a"], 9, 0)] == [{"n": 2}, {"n": 3}]


# Groups


def test_a_group_larger_than_the_capacity_is_served(layer: MemoryChannelLayer) -> None:
    members = {f"daphne.response.x!{n}" for n in range(1000)}
    for member in members:
        layer.group_add("all", member)
    for n in range(layer.group_headroom):
        layer.send_group("all", {"text": str(n)})
    received = layer.receive_batch(["daphne.response.x!"], 100_000)
    assert collections.Counter(received[n][0] for n in range(len(received))) == dict.fromkeys(members, layer.group_headroom)


def test_a_group_nobody_drains_is_bounded() -> None:
    layer = MemoryChannelLayer(capacity=10)
    layer.group_add("all", "p!a")
    layer.group_add("all", "p!b")
    layer.group_add("all", "normal")
    for _ in range(1000):
        layer.send_group("all", {})
    assert layer.channel_statistics("p!")["messages_pending"] == 10 + 3 * layer.group_headroom
    assert layer.channel_statistics("normal")["messages_pending"] == 10


def test_group_members_share_nothing(layer: MemoryChannelLayer) -> None:
    layer.group_add("all", "a")
    layer.group_add("all", "b")
    message = {"list": [1]}
    layer.send_group("all", message)
    (_, first), (_, second) = layer.receive_batch(["a", "b"], 2)
    first["list"].append(2)
    message["list"].append(3)
    assert second == {"list": [1]}


def test_group_expiry_and_renewal(clock: Clock) -> None:
    layer = MemoryChannelLayer(group_expiry=100)
    layer.group_add("g", "a")
    layer.group_add("g", "b")
    clock.now += 60
    layer.group_add("g", "a")
    clock.now += 60
    assert layer.group_channels("g") == ["a"]
    clock.now += 60
    assert layer.group_channels("g") == []
    assert not layer._groups._memberships


def test_a_channel_nobody_reads_leaves_its_groups(clock: Clock) -> None:
    layer = MemoryChannelLayer(expiry=10)
    for group in ("g", "h"):
        layer.group_add(group, "p!gone")
        layer.group_add(group, "p!here")
    layer.send("p!gone", {})
    clock.now += 11
    layer.send("p!here", {})
    assert layer.receive(["p!"]) == ("p!here", {})
    assert layer.group_channels("g") == ["p!here"]
    assert layer.group_channels("h") == ["p!here"]


def test_discard_of_what_is_not_there(layer: MemoryChannelLayer) -> None:
    layer.group_discard("g", "a")
    layer.group_add("g", "a")
    layer.group_discard("g", "b")
    assert layer.group_channels("g") == ["a"]
    layer.group_discard("g", "a")
    assert not len(layer._groups)


# Statistics and flush


def test_statistics(clock: Clock) -> None:
    layer = MemoryChannelLayer(capacity=2, expiry=60)
    empty = {"messages_count": 0, "messages_pending": 0, "messages_max_age": 0, "channel_full_count": 0}
    assert layer.global_statistics() == empty
    assert layer.channel_statistics("a") == empty
    layer.send("a", {})
    clock.now += 5
    layer.send("a", {})
    layer.send("p!x", {})
    with pytest.raises(layer.ChannelFull):
        layer.send("a", {})
    clock.now += 2
    assert layer.channel_statistics("a") == {
        "messages_count": 2,
        "messages_pending": 2,
        "messages_max_age": 7,
        "channel_full_count": 1,
    }
    assert layer.channel_statistics("p!x") == layer.channel_statistics("p!")
    assert layer.channel_statistics("p!")["messages_max_age"] == 2
    expected = {"messages_count": 3, "messages_pending": 3, "messages_max_age": 7, "channel_full_count": 1}
    assert layer.global_statistics() == expected
    layer.flush()
    assert layer.global_statistics() == {**expected, "messages_pending": 0, "messages_max_age": 0}


def test_flush_leaves_waiters_in_place(layer: MemoryChannelLayer) -> None:
    waiting = gevent.spawn(layer.receive_batch, ["a"], 1, PATIENCE)
    until(lambda: waiters(layer, "a") == 1)
    layer.flush()
    layer.send("a", {"n": 1})
    assert waiting.get(timeout=PATIENCE) == [("a", {"n": 1})]


# Waiting


def test_block_returns_nothing_after_a_while(layer: MemoryChannelLayer, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(memory, "BLOCK_LIMIT", 0.05)
    assert layer.receive(["a", "p!"], block=True) == (None, None)
    assert layer.receive_batch(["a", "p!"], 5, 0.01) == []
    assert layer.receive_batch(["a", "p!"], 5, 0) == []
    assert waiters(layer, "a") == waiters(layer, "p!") == 0


def test_a_greenlet_is_woken_and_its_neighbours_run(layer: MemoryChannelLayer) -> None:
    waiting = [gevent.spawn(layer.receive, ["a", "b"], True) for _ in range(3)]
    until(lambda: waiters(layer, "a") == 3)
    for n in range(3):
        layer.send("ab"[n % 2], {"n": n})
    received = [greenlet.get(timeout=PATIENCE) for greenlet in waiting]
    assert sorted(message["n"] for _, message in received if message is not None) == [0, 1, 2]
    assert waiters(layer, "a") == waiters(layer, "b") == 0


def test_waiters_are_served_in_the_order_of_their_coming(layer: MemoryChannelLayer) -> None:
    order: list[int] = []

    def wait(n: int) -> None:
        layer.receive(["a"], block=True)
        order.append(n)

    waiting = []
    for n in range(5):
        waiting.append(gevent.spawn(wait, n))
        until(lambda: waiters(layer, "a") == len(waiting))
    for _ in range(5):
        layer.send("a", {})
    gevent.joinall(waiting, timeout=PATIENCE, raise_error=True)
    assert order == list(range(5))


def test_a_native_thread_without_a_hub_waits_without_one(layer: MemoryChannelLayer) -> None:
    from gevent._hub_local import get_hub_if_exists

    results: list[object] = []

    def wait() -> None:
        results.append(layer.receive(["a"], block=True))
        results.append(get_hub_if_exists())

    thread = in_thread(wait)
    until(lambda: waiters(layer, "a") == 1)
    layer.send("a", {"n": 1})
    thread.join(PATIENCE)
    assert results == [("a", {"n": 1}), None]


def test_a_native_thread_times_out(layer: MemoryChannelLayer) -> None:
    results: list[object] = []
    thread = in_thread(lambda: results.append(layer.receive_batch(["a"], 1, 0.02)))
    thread.join(PATIENCE)
    assert results == [[]]
    assert waiters(layer, "a") == 0


def test_a_greenlet_of_another_hub_is_woken(layer: MemoryChannelLayer) -> None:
    results: list[object] = []
    thread = in_hub_thread(lambda: results.append(gevent.spawn(layer.receive_batch, ["a"], 10, None).get()))
    until(lambda: waiters(layer, "a") == 1)
    layer.send("a", {"n": 1})
    thread.join(PATIENCE)
    assert results == [[("a", {"n": 1})]]


def test_the_main_greenlet_may_wait_with_nothing_else_to_do(layer: MemoryChannelLayer) -> None:
    # A hub without timers or sockets would think that it can never be woken.
    def send() -> None:
        while not waiters(layer, "a"):
            time.sleep(0.001)
        layer.send("a", {})

    thread = in_thread(send)
    assert layer.receive_batch(["a"], 1, None) == [("a", {})]
    thread.join(PATIENCE)


def test_a_waiter_whose_hub_is_gone_is_passed_over(layer: MemoryChannelLayer) -> None:
    def abandon() -> None:
        gevent.spawn(layer.receive_batch, ["a"], 1, None)
        until(lambda: waiters(layer, "a") == 1)

    in_hub_thread(abandon).join(PATIENCE)
    second = gevent.spawn(layer.receive, ["a"], True)
    until(lambda: waiters(layer, "a") == 2)
    layer.send("a", {"n": 1})
    assert second.get(timeout=PATIENCE) == ("a", {"n": 1})


def test_a_kill_at_the_moment_of_delivery_passes_the_message_on(layer: MemoryChannelLayer) -> None:
    # Without a time limit of their own, or the end of the second wait would find what nobody told it of.
    first = gevent.spawn(layer.receive_batch, ["a"], 1, None)
    until(lambda: waiters(layer, "a") == 1)
    second = gevent.spawn(layer.receive_batch, ["a", "b"], 1, None)
    until(lambda: waiters(layer, "a") == 2)
    first.kill(block=False)
    layer.send("a", {"n": 1})  # wakes the first, for which the kill comes before the message
    assert second.get(timeout=PATIENCE) == [("a", {"n": 1})]
    assert isinstance(first.get(timeout=PATIENCE), gevent.GreenletExit)


def test_a_woken_waiter_that_takes_another_channels_message_passes_the_word_on(layer: MemoryChannelLayer) -> None:
    # The waiter's turn begins with one of the two names; whichever it is, one of the two orders makes it take the other's message.
    for first in ("a", "b"):
        both = gevent.spawn(layer.receive_batch, ["a", "b"], 1, None)
        until(lambda: waiters(layer, "a") == waiters(layer, "b") == 1)
        only = [gevent.spawn(layer.receive_batch, [name], 1, None) for name in ("a", "b")]
        until(lambda: waiters(layer, "a") == waiters(layer, "b") == 2)
        layer.send(first, {})  # wakes "both"
        layer.send("b" if first == "a" else "a", {})  # wakes the other name's own waiter, for "both" has been told already
        assert both.get(timeout=PATIENCE)
        assert len(gevent.wait(only, timeout=PATIENCE, count=1)) == 1
        gevent.killall(only)


def test_a_timeout_around_receive_is_raised_and_loses_nothing(layer: MemoryChannelLayer) -> None:
    with pytest.raises(gevent.Timeout), gevent.Timeout(0.01):
        layer.receive_batch(["a"], 1, None)
    assert waiters(layer, "a") == 0
    layer.send("a", {"n": 1})
    assert layer.receive(["a"], block=True) == ("a", {"n": 1})


# Nothing is lost, under any interleaving

STEPS = st.lists(
    st.one_of(
        st.tuples(st.just("send"), st.sampled_from("ab")),
        st.tuples(st.just("wait"), st.sampled_from(["a", "b", "ab"])),
        st.tuples(st.just("batch"), st.sampled_from(["a", "b", "ab"])),
        st.tuples(st.just("kill"), st.integers(0, 5)),
        st.tuples(st.just("expire"), st.integers(0, 5)),
        st.tuples(st.just("take"), st.sampled_from(["a", "b", "ab"])),
        st.tuples(st.just("switch"), st.just(0)),
    ),
    max_size=40,
)


class Expired(BaseException):
    """What a time limit throws into a waiting greenlet."""


@settings(max_examples=500, deadline=None)
@given(STEPS)
@example([("wait", "a"), ("wait", "a"), ("switch", 0), ("kill", 0), ("send", "a")])
@example([("wait", "ab"), ("switch", 0), ("wait", "a"), ("wait", "b"), ("switch", 0), ("send", "a"), ("send", "b")])
@example([("wait", "ab"), ("switch", 0), ("wait", "a"), ("wait", "b"), ("switch", 0), ("send", "b"), ("send", "a")])
def test_every_message_is_received_once_whatever_happens_to_the_waiters(steps: list[tuple[str, Any]]) -> None:
    layer = MemoryChannelLayer()
    received: list[int] = []
    waiting: list[gevent.Greenlet[Any, Any]] = []

    def wait(channels: str, limit: int) -> None:
        try:
            received.extend(message["n"] for _, message in layer.receive_batch(list(channels), limit, PATIENCE))
        except Expired:
            pass

    sent = 0
    with gevent.Timeout(PATIENCE):
        for action, argument in steps:
            if action == "send":
                layer.send(argument, {"n": sent})
                sent += 1
            elif action in ("wait", "batch"):
                waiting.append(gevent.spawn(wait, argument, 1 if action == "wait" else 3))
            elif action in ("kill", "expire"):
                alive = [greenlet for greenlet in waiting if greenlet and not greenlet.ready()]
                if alive:
                    alive[argument % len(alive)].kill(gevent.GreenletExit if action == "kill" else Expired, block=False)
            elif action == "take":
                received.extend(message["n"] for _, message in layer.receive_batch(list(argument), 1, 0))
            elif action == "switch":
                gevent.sleep(0)
        # Whoever still waits once everything has settled has an empty channel.
        for _ in range(5):
            gevent.sleep(0)
        for name in "ab":
            assert not (waiters(layer, name) and layer._channels[name].queue)
        gevent.killall(waiting)
    received.extend(message["n"] for _, message in layer.receive_batch(["a", "b"], 1000, 0))
    assert sorted(received) == list(range(sent))
    assert waiters(layer, "a") == waiters(layer, "b") == 0


STRESS_MESSAGES = 3000


def test_nothing_is_lost_between_threads_and_hubs() -> None:
    """Senders and receivers in native threads and in two hubs, where waits end by timeouts and kills at any moment."""
    layer = MemoryChannelLayer(capacity=50)
    received: list[int] = []
    done = threading.Event()

    def send(first: int) -> None:
        for n in range(first, first + STRESS_MESSAGES):
            while True:
                try:
                    layer.send("ab"[n % 2], {"n": n})
                    break
                except layer.ChannelFull:
                    time.sleep(0.0005)

    def take(channels: list[str], limit: int, timeout: float) -> None:
        received.extend(message["n"] for _, message in layer.receive_batch(channels, limit, timeout))

    def receive_natively() -> None:
        while not done.is_set():
            take(["a", "b"], 3, 0.002)

    def receive_in_a_hub() -> None:
        def loop(channels: list[str]) -> None:
            while not done.is_set():
                with gevent.Timeout(0.002, False):  # type: ignore[arg-type]  # as documented by gevent
                    take(channels, 1, 1)

        def killer() -> None:
            while not done.is_set():
                victim = gevent.spawn(take, ["a"], 1, 1)
                gevent.sleep(0.001)
                victim.kill()

        greenlets: list[gevent.Greenlet[Any, Any]] = [gevent.spawn(loop, ["a"]), gevent.spawn(loop, ["b", "a"]), gevent.spawn(killer)]
        gevent.joinall(greenlets, raise_error=True)

    receivers = [in_thread(receive_natively), in_hub_thread(receive_in_a_hub), in_hub_thread(receive_in_a_hub)]
    senders = [in_thread(lambda first=first: send(first)) for first in (0, STRESS_MESSAGES)]  # type: ignore[misc]
    for thread in senders:
        thread.join(PATIENCE)
        assert not thread.is_alive()
    until(lambda: len(received) >= 2 * STRESS_MESSAGES)
    done.set()
    for thread in receivers:
        thread.join(PATIENCE)
        assert not thread.is_alive()
    assert sorted(received) == list(range(2 * STRESS_MESSAGES))


def test_ping_pong_between_hubs_never_waits_for_a_timeout() -> None:
    # A lost wake-up would end in the time limit: every wait here is longer than the patience of the test.
    layer = MemoryChannelLayer()
    rounds = 2000

    def answer() -> None:
        for _ in range(rounds):
            for _, message in layer.receive_batch(["ping"], 1, None):
                layer.send("pong", message)

    thread = in_hub_thread(answer)
    with gevent.Timeout(PATIENCE):
        for n in range(rounds):
            layer.send("ping", {"n": n})
            assert layer.receive_batch(["pong"], 1, None) == [("pong", {"n": n})]
    thread.join(PATIENCE)
    assert not thread.is_alive()


def test_in_a_monkey_patched_process() -> None:
    """Greenlets that the standard library calls threads, its real threads and another hub, in one process."""
    script = """
        from gevent import monkey
        monkey.patch_all()
        import threading
        import gevent
        from gevent.hub import get_hub
        from gevent.threadpool import ThreadPool
        from greendaphne.layers.memory import channel_layer as layer

        got = []

        def take(name):
            got.append((name, layer.receive([name], block=True)))

        def take_in_a_hub(name):
            gevent.spawn(take, name).join()
            get_hub().destroy(destroy_loop=True)

        green = threading.Thread(target=take, args=("green",))
        green.start()
        pool = ThreadPool(3)
        native = pool.spawn(take, "native")
        hub = pool.spawn(take_in_a_hub, "hub")
        with gevent.Timeout(60):
            while any(name not in layer._channels or not layer._channels[name].waiters for name in ("green", "native", "hub")):
                gevent.sleep(0.001)
            for name in ("green", "native"):
                layer.send(name, {"from": "main"})
            pool.apply(layer.send, ("hub", {"from": "thread"}))
            green.join()
            native.get()
            hub.get()
        for name, (channel, message) in sorted(got):
            print(name, channel, message["from"])
        print(type(layer._lock).__module__)
    """
    output = subprocess.run(
        [sys.executable, "-W", "error", "-c", textwrap.dedent(script)],
        capture_output=True,
        text=True,
        timeout=120,
        cwd=ROOT,
        check=False,
    )
    assert output.stderr == ""
    assert output.stdout.splitlines() == ["green green main", "hub hub thread", "native native main", "_thread"]


# Nothing is leaked


def test_abandoned_channels_are_swept(clock: Clock) -> None:
    layer = MemoryChannelLayer(expiry=60)
    count = 100_000
    for n in range(count):
        layer.send(f"abandoned.{n}", {})
    assert len(layer._channels) == count
    clock.now += 61
    sends = 0
    while len(layer._channels) > 1:
        layer.send("busy", {})
        assert layer.receive(["busy"]) == ("busy", {})
        clock.now += channel_store.SWEEP_INTERVAL
        sends += 1
    assert sends <= count / channel_store.SWEEP_BATCH + 2
    statistics = layer.global_statistics()
    assert statistics["messages_count"] == count + sends
    assert statistics["messages_pending"] == 0


def test_abandoned_groups_are_swept(clock: Clock) -> None:
    layer = MemoryChannelLayer(group_expiry=100)
    for n in range(1000):
        layer.group_add(f"g{n}", f"c{n}")
    clock.now += 101
    for _ in range(1000 // channel_store.SWEEP_BATCH + 1):
        layer.receive(["x"])
        clock.now += channel_store.SWEEP_INTERVAL
    assert not len(layer._groups)
    assert not layer._groups._memberships


def test_a_sweep_keeps_what_is_in_use(clock: Clock) -> None:
    layer = MemoryChannelLayer(expiry=60)
    waiting = gevent.spawn(layer.receive_batch, ["awaited"], 1, PATIENCE)
    until(lambda: waiters(layer, "awaited") == 1)
    layer.send("old", {})
    clock.now += 30
    layer.send("old", {"n": 1})
    clock.now += 31
    layer.send("x", {})
    clock.now += 1
    layer.send("x", {})
    assert set(layer._channels) == {"awaited", "old", "x"}
    assert layer.receive(["old"]) == ("old", {"n": 1})
    layer.send("awaited", {})
    assert waiting.get(timeout=PATIENCE) == [("awaited", {})]


def test_single_reader_channels_vanish_when_empty(layer: MemoryChannelLayer) -> None:
    for _ in range(100):
        name = layer.new_channel("http.request.body?")
        layer.send(name, {"n": 1})
        layer.send(name, {"n": 2})
        assert layer.receive([name]) == (name, {"n": 1})
        assert layer.receive([name]) == (name, {"n": 2})
        assert layer.receive_batch([name], 1, 0.0001) == []
    assert not layer._channels
    assert layer.global_statistics()["messages_count"] == 200


def test_expired_single_reader_channels_vanish(clock: Clock) -> None:
    layer = MemoryChannelLayer(expiry=10)
    layer.send("body?x", {})
    clock.now += 11
    assert layer.receive(["body?x"]) == (None, None)
    assert not layer._channels


# ---- lists of header fields that are remembered


def test_remembered_fields_are_plain_and_belong_to_each_receiver(layer: MemoryChannelLayer) -> None:
    class Word(bytes):
        pass

    class Pair(NamedTuple):
        name: bytes
        value: bytes

    fields = [(b"remembered", b"1"), (b"fields", b"2")]
    for headers in (fields, [(Word(b"remembered"), Word(b"1")), Pair(b"fields", b"2")], fields[:]):
        layer.send("a", {"headers": headers})
    copies = [layer.receive(["a"])[1]["headers"] for _ in range(3)]  # type: ignore[index]
    for copy in copies:
        assert copy == fields
        assert copy is not fields
        assert {type(pair) for pair in copy} == {tuple}
        assert {type(part) for pair in copy for part in pair} == {bytes}
        copy.append((b"mine", b"3"))
    assert fields == [(b"remembered", b"1"), (b"fields", b"2")]
    assert copy_message({"headers": fields}) == {"headers": fields}


def test_what_is_remembered_is_bounded() -> None:
    for n in range(3 * values._REMEMBERED):
        copy_message({"headers": [(b"x", b"%d" % n)]})
    assert len(values._known_fields) <= values._REMEMBERED
    for headers in ([(b"cookie", b"x" * 1000)], [(b"x", b"")] * 100, [[b"a", b"b"]], [(b"a", 1)], [(b"a", "b")], [("a", "b")]):
        assert copy_message({"headers": headers}) == {"headers": headers}
        assert all(tuple(known) != tuple(map(tuple, headers)) for known in values._known_fields)
