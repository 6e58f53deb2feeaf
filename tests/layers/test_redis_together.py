"""Messages of one pipeline that go to the same list: one command stores them, and each has its own outcome."""

from __future__ import annotations

import select
import time
from collections.abc import Iterator
from random import Random
from typing import Any

import gevent
import pytest
from gevent.event import AsyncResult

from greendaphne.layers import LayerUnavailable
from greendaphne.layers.redis import RedisChannelLayer
from greendaphne.layers.redis.calls import PIPELINE_COMMANDS, TOGETHER_BYTES, Call, Send, combine
from greendaphne.layers.redis.hub_lane import GATHER_CALLERS, POST_DELAY, HubLane
from greendaphne.layers.redis.scripts import SEND, SEND_ALL, pack
from greendaphne.layers.redis.send_commands import SendCommands
from tests.support.redis_load import GET
from tests.support.redis_server import PATIENCE, RedisServer, in_hub, redis_server
from tests.support.server import serve


@pytest.fixture(scope="module")
def server() -> Iterator[RedisServer]:
    with redis_server() as running:
        yield running


@pytest.fixture(autouse=True)
def empty(server: RedisServer) -> None:
    server.client.flushall()
    server.client.config_resetstat()


def send_commands(channel: str) -> SendCommands:
    return SendCommands("asgi:", "asgi-meta:", channel, capacity=10, expiry=60, random=Random(1))


def unexpected(error: object) -> None:
    pytest.fail(f"it was not sent: {error}")


def scripts(calls: Any) -> list[object]:
    return [call.script for call in calls]


def test_messages_for_the_same_list_are_one_command() -> None:
    one, other = send_commands("one"), send_commands("other")
    question = Call(b"question")
    calls = [Send(one, b"first"), question, Send(other, b"second"), Send(one, b"third")]
    first, second, third = combine(calls)
    assert second is question
    assert third is calls[2]
    assert scripts([first, third]) == [SEND_ALL, SEND]
    assert first.data.endswith(b"\r\n$5\r\nfirst\r\n$5\r\nthird\r\n")


def test_what_was_posted_goes_behind_the_rest() -> None:
    """A notice that a client has left does not overtake its request."""
    requests, notices = send_commands("http.request"), send_commands("http.disconnect")
    calls: list[Call] = [Send(notices, b"a"), Send(requests, b"b"), Send(notices, b"b")]
    for call in calls[::2]:
        assert isinstance(call, Send)
        call.posted = True
    assert scripts(combine(calls)) == [SEND, SEND_ALL]


def test_one_command_is_bounded_and_keeps_the_order() -> None:
    one = send_commands("one")
    assert len(combine([Send(one, b"x") for _ in range(2 * PIPELINE_COMMANDS + 1)])) == 3
    large = b"l" * TOGETHER_BYTES
    bodies = [b"1", b"2", large, b"3", b"4"]
    commands = combine([Send(one, body) for body in bodies])
    assert scripts(commands) == [SEND_ALL, SEND, SEND_ALL]
    # So are those that were posted, whatever follows.
    posted = Send(one, b"1")
    posted.posted = True
    first, second = combine([posted, Send(one, large)])
    assert (first, scripts([second])) == (posted, [SEND])


def send_together(layer: RedisChannelLayer, channel: str, number: int, together: int) -> list[int]:
    """Have ``together`` greenlets send a message each, numbered from ``number``; returns those that found the channel full."""
    full: list[int] = []

    def send(n: int) -> None:
        try:
            layer.send(channel, {"n": n})
        except layer.ChannelFull:
            full.append(n)

    gevent.joinall([gevent.spawn(send, n) for n in range(number, number + together)], raise_error=True, timeout=PATIENCE)
    return full


@pytest.mark.parametrize("keys", [None, ["secret"]], ids=["plain", "encrypted"])
def test_as_many_are_stored_as_there_is_room_for(server: RedisServer, keys: list[str] | None) -> None:
    layer = RedisChannelLayer(hosts=[server.url], capacity=5, symmetric_encryption_keys=keys)

    def run() -> tuple[list[int], list[int]]:
        full = send_together(layer, "reply!a", 0, 8)
        stored = [message["n"] for _, message in layer.receive_batch(["reply!"], 10, 1)]
        layer.close()
        return full, stored

    full, stored = in_hub(run)
    # The first one travels alone.
    assert (stored, full) == ([0, 1, 2, 3, 4], [5, 6, 7])
    assert server.calls("evalsha") < 8
    counted = layer.channel_statistics("reply!")
    assert (counted["messages_count"], counted["channel_full_count"]) == (5, 3)
    assert layer.global_statistics()["messages_count"] == 5


def test_keys_expire_as_those_of_lone_messages(server: RedisServer) -> None:
    layer = RedisChannelLayer(hosts=[server.url], expiry=50)

    def run() -> None:
        send_together(layer, "n", 0, 4)
        layer.close()

    in_hub(run)
    keys = server.client.lrange("asgi:n", 0, -1)
    assert len(set(keys)) == 4
    assert {len(key) for key in keys} == {len("asgi:") + 32}
    assert all(45 < server.client.ttl(key) <= 50 for key in keys)
    assert 46 < server.client.ttl("asgi:n") <= 51
    assert 3500 < server.client.ttl("asgi-meta:n:messages_count") <= 3600
    assert 86300 < server.client.ttl("asgi-meta:#global#:messages_count") <= 86400


def test_a_redis_that_forgot_the_scripts_stores_each_message_once(server: RedisServer) -> None:
    layer = RedisChannelLayer(hosts=[server.url])

    def run() -> list[int]:
        send_together(layer, "n", 0, 3)
        server.client.script_flush()
        send_together(layer, "n", 3, 4)
        found = [message["n"] for _, message in layer.receive_batch(["n"], 20, 1)]
        layer.close()
        return found

    assert sorted(in_hub(run)) == list(range(7))


def test_messages_that_are_to_be_acknowledged_are_known(server: RedisServer) -> None:
    layer = RedisChannelLayer(hosts=[server.url], reliable=True)

    def run() -> None:
        send_together(layer, "http.request", 0, 5)
        unclaimed = server.client.hgetall("asgi::unclaimed")
        assert sorted(unclaimed) == sorted(server.client.lrange("asgi:http.request", 0, -1))
        assert set(unclaimed.values()) == {b"asgi:http.request"}
        assert 0 < server.client.ttl("asgi::unclaimed") <= 61
        # The first takes go along with others.
        [lane] = layer._lanes()
        assert isinstance(lane, HubLane)
        assert lane.is_busy
        for _ in range(5):
            assert layer.receive(["http.request"])[0] == "http.request"
        assert server.client.keys("asgi:" + "?" * 32)
        layer.acknowledge()
        layer.settle()
        layer.close()

    in_hub(run)
    assert server.client.keys("asgi:" + "?" * 32) == []
    assert server.client.hgetall("asgi::unclaimed") == {}


def test_a_list_that_is_none_fails_them_all(server: RedisServer) -> None:
    layer = RedisChannelLayer(hosts=[server.url])
    server.client.set("asgi:n", "no list")

    def run() -> list[str]:
        found: list[str] = []

        def send() -> None:
            with pytest.raises(LayerUnavailable) as caught:
                layer.send("n", {})
            found.append(str(caught.value))

        gevent.joinall([gevent.spawn(send) for _ in range(4)], raise_error=True, timeout=PATIENCE)
        layer.close()
        return found

    errors = in_hub(run)
    assert len(errors) == 4
    assert all("WRONGTYPE" in error for error in errors)


def test_a_flusher_that_is_killed_wakes_every_caller(server: RedisServer) -> None:
    """Also the callers whose replies have come, the errors among them."""
    layer = RedisChannelLayer(hosts=[server.url])

    def run() -> list[Any]:
        [lane] = layer._lanes()
        assert isinstance(lane, HubLane)
        calls = [Call(pack("PING")), Call(pack("NONSENSE")), Call(pack("BLPOP", "nothing", 0)), Call(pack("PING"))]
        flushers: list[gevent.Greenlet[..., Any]] = []

        def spawn(*arguments: Any) -> None:
            flushers.append(gevent.spawn(*arguments))

        lane._spawn = spawn  # type: ignore[assignment]
        # All are there when the flusher begins.
        callers = [gevent.spawn(lane._join_others, [call]) for call in calls]
        while not calls[1].result:
            gevent.sleep(0.001)
        flushers[0].kill()
        gevent.joinall(callers, raise_error=True, timeout=PATIENCE)
        assert all(caller.successful() for caller in callers)
        layer.send("n", {})
        layer.close()
        return calls

    answered, refused, waiting, behind = in_hub(run)
    assert (answered.result, answered.error) == ([b"PONG"], None)
    assert "NONSENSE" in str(refused.error)
    for call in (waiting, behind):
        assert str(call.error).endswith("interrupted")


# When a pipeline goes


def test_a_pipeline_takes_no_longer_than_it_does(server: RedisServer) -> None:
    """Its seconds bound the time for which the next one waits for others."""
    layer = RedisChannelLayer(hosts=[server.url])

    def run() -> tuple[float, float]:
        begun = time.monotonic()
        send_together(layer, "n", 0, 2 * GATHER_CALLERS)
        [lane] = layer._lanes()
        assert isinstance(lane, HubLane)
        taken = lane._seconds
        layer.close()
        return taken, time.monotonic() - begun

    taken, elapsed = in_hub(run)
    assert 0 < taken <= elapsed


def test_what_was_posted_waits_no_longer_behind_an_exchange(server: RedisServer, monkeypatch: pytest.MonkeyPatch) -> None:
    """However late the exchange ends."""
    layer = RedisChannelLayer(hosts=[server.url])
    waits: list[float] = []
    start_timer = HubLane._start_timer

    def note(self: HubLane, seconds: float) -> None:
        waits.append(seconds)
        start_timer(self, seconds)

    monkeypatch.setattr(HubLane, "_start_timer", note)

    def run() -> None:
        layer.send("n", {})
        server.pause()
        try:
            sender = gevent.spawn(layer.send, "n", {})
            gevent.sleep(0)
            layer.send_later("later", {})
            gevent.sleep(2 * POST_DELAY)
            assert not waits
        finally:
            server.resume()
        sender.get(timeout=PATIENCE)
        while layer.channel_statistics("later")["messages_count"] == 0:
            gevent.sleep(0.005)
        layer.close()

    in_hub(run)
    assert waits[0] == 0


# Sending along


def busy(layer: RedisChannelLayer) -> HubLane:
    """Have commands travel together from now on."""
    [lane] = layer._lanes()
    assert isinstance(lane, HubLane)
    layer.set_patience(0.02)
    send_together(layer, "others", 0, 2 * GATHER_CALLERS)
    assert lane.is_busy
    return lane


def test_a_lone_message_is_not_sent_along(server: RedisServer) -> None:
    layer = RedisChannelLayer(hosts=[server.url])

    def run() -> bool:
        try:
            return layer.send_along("n", {}, unexpected)
        finally:
            layer.close()

    assert not in_hub(run)
    # Plain threads share no pipeline.
    assert not layer.send_along("n", {}, unexpected)
    assert not server.client.exists("asgi:n")


def test_the_outcome_of_what_is_sent_along(server: RedisServer) -> None:
    layer = RedisChannelLayer(hosts=[server.url], capacity=2, channel_capacity={"others": 100})

    def run() -> None:
        busy(layer)
        failures: list[object] = []
        for number in range(3):
            assert layer.send_along("n", {"n": number}, failures.append)
        # One pipeline has all of them.
        layer.send("others", {})
        gevent.sleep(0)
        assert failures == [None]
        assert [message["n"] for _, message in layer.receive_batch(["n"], 10, 1)] == [0, 1]
        layer.close()

    in_hub(run)


def test_an_outage_fails_what_is_sent_along() -> None:
    with redis_server() as mine:
        layer = RedisChannelLayer(hosts=[mine.url])

        def run() -> None:
            busy(layer)
            mine.kill()
            results: list[AsyncResult[object]] = [AsyncResult() for _ in range(3)]
            for result in results:
                assert layer.send_along("n", {}, result.set)
            for result in results:
                assert isinstance(result.get(timeout=PATIENCE), LayerUnavailable)
            layer.close()

        in_hub(run)


def test_close_sends_what_is_on_its_way(server: RedisServer) -> None:
    layer = RedisChannelLayer(hosts=[server.url])

    def run() -> None:
        busy(layer)
        assert layer.send_along("n", {}, unexpected)
        layer.close()

    in_hub(run)
    assert server.client.llen("asgi:n") == 1


def test_requests_that_find_their_channel_full_get_503_and_have_no_disconnect(server: RedisServer) -> None:
    clients, room = 30, 4
    layer = RedisChannelLayer(hosts=[server.url], channel_capacity={"http.request": room})
    layer.set_patience(0.01)
    with serve(layer) as running:
        connections = [running.connect() for _ in range(clients)]
        try:
            for client in connections:
                client.send(GET)
            waiting = {client.sock: client for client in connections}
            while len(waiting) > room:
                answered, _, _ = select.select(list(waiting), [], [], PATIENCE)
                assert answered
                for sock in answered:
                    response = waiting.pop(sock).read_response()
                    assert response.status == 503
                    assert b"Request queue full" in response.body
        finally:
            for client in connections:
                client.close()
    counted = layer.channel_statistics("http.request")
    assert (counted["messages_count"], counted["channel_full_count"]) == (room, clients - room)
    # Of those that workers would have learnt of.
    assert layer.channel_statistics("http.disconnect")["messages_count"] == room
