"""Few greenlets that write replies: in order, past those that wait, and past those that fail."""

from __future__ import annotations

from collections.abc import Callable

import gevent
import pytest
from gevent.event import Event

from greendaphne.applications.channels.layer_client import LayerClient, LayerDown
from greendaphne.applications.channels.watch import LayerWatch
from greendaphne.applications.channels.writers import Writers
from greendaphne.layers import LayerUnavailable
from greendaphne.layers.memory import MemoryChannelLayer

SECONDS = 10.0


def wait(condition: Callable[[], bool]) -> None:
    with gevent.Timeout(SECONDS):
        while not condition():
            gevent.sleep(0)


def test_jobs_run_in_order() -> None:
    done: list[int] = []
    writers = Writers()
    for number in range(1000):
        writers.add(lambda number=number: done.append(number))  # type: ignore[misc]
    assert done == [], "add() must not switch"
    wait(lambda: len(done) == 1000)
    assert done == list(range(1000))
    writers.close()


def test_a_job_that_waits_holds_up_no_other() -> None:
    release = Event()
    done: list[object] = []
    writers = Writers()

    def slow(number: int) -> None:
        release.wait(SECONDS)
        done.append(number)

    for number in range(40):
        writers.add(lambda number=number: slow(number))  # type: ignore[misc]
    writers.add(lambda: done.append("quick"))
    wait(lambda: bool(done))
    assert done == ["quick"]
    release.set()
    wait(lambda: len(done) == 41)
    # Those that waited work again.
    writers.add(lambda: done.append("again"))
    wait(lambda: done[-1] == "again")
    writers.close()


def test_a_job_that_fails_takes_no_other_along(caplog: pytest.LogCaptureFixture) -> None:
    done: list[str] = []
    writers = Writers()
    writers.add(lambda: 1 / 0)  # type: ignore[arg-type]
    writers.add(lambda: done.append("next"))
    wait(lambda: bool(done))
    writers.add(lambda: done.append("later"))
    wait(lambda: len(done) == 2)
    assert [record.getMessage() for record in caplog.records] == ["Error writing to a WebSocket"]
    writers.close()


def test_a_job_may_add_another() -> None:
    done: list[int] = []
    writers = Writers()

    def count(number: int) -> None:
        done.append(number)
        if number < 300:
            writers.add(lambda: count(number + 1))

    writers.add(lambda: count(0))
    wait(lambda: len(done) == 301)
    writers.close()
    # What comes behind the end is still done, and nothing is kept for it.
    writers.add(lambda: done.append(-1))
    wait(lambda: done[-1] == -1)
    assert writers._idle == []


class Loud(MemoryChannelLayer):
    """A layer that changes what sending means."""

    def send(self, channel: str, message: object) -> None:
        raise OSError("not today")


def test_messages_of_the_bridge_are_not_copied_where_the_layer_allows_it() -> None:
    layer = MemoryChannelLayer()
    message = {"list": [1]}
    LayerClient(layer, LayerWatch(layer, lambda: None)).send("a", message)
    assert layer.receive(["a"])[1] is message
    layer.send("a", message)
    assert layer.receive(["a"])[1] is not message


def test_a_layer_that_overrides_send_is_asked() -> None:
    layer = Loud()
    with pytest.raises(Exception, match=r"^$"):
        LayerClient(layer, LayerWatch(layer, lambda: None)).send("a", {})
    assert layer.receive(["a"]) == (None, None)


@pytest.mark.parametrize("way", ["send", "offer"])
@pytest.mark.parametrize(("error", "stored"), [(OSError("not today"), True), (LayerUnavailable("gone", maybe_stored=False), False)])
def test_a_message_may_have_been_stored_unless_the_layer_knows(way: str, error: Exception, stored: bool) -> None:
    class Failing(MemoryChannelLayer):
        def send(self, channel: str, message: object) -> None:
            raise error

        def offer(self, channel: str, message: object) -> bool:
            raise error

    layer = Failing()
    client = LayerClient(layer, LayerWatch(layer, lambda: None))
    with pytest.raises(LayerDown) as caught:
        getattr(client, way)("a", {})
    assert caught.value.maybe_stored is stored


def test_owned_messages_are_bounded_all_the_same() -> None:
    layer = MemoryChannelLayer(capacity=1, max_message_size=1000)
    with pytest.raises(layer.MessageTooLarge):
        layer.send_owned("a", {"content": b"x" * 2000})
    layer.send_owned("a", {})
    with pytest.raises(layer.ChannelFull):
        layer.send_owned("a", {})
