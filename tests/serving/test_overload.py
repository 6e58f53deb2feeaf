"""The overload policy and the bounds of trust: shares, evictions, idle connections, addresses, origins and hosts."""

from __future__ import annotations

from contextlib import ExitStack
from time import sleep

import pytest

from greendaphne.config import KIB, MIB, Config, ConfigurationError, HostList, Limits, OriginList, WebSockets
from greendaphne.core.accounts import Account, Allowance
from greendaphne.net.endpoints import parse
from greendaphne.net.endpoints.tcp import TCPEndpoint
from greendaphne.running.assembly import on_loopback
from greendaphne.serving.addresses import AddressCounts, TooManyConnections
from greendaphne.serving.memory import available, resident
from greendaphne.serving.overload import Overload, connections_limit
from greendaphne.settings.check import check_options
from tests.support.redis_server import in_hub
from tests.support.server import serve

GET = b"GET / HTTP/1.1\r\nHost: a\r\n\r\n"


def websocket(origin: bytes | None, host: bytes = b"example.com") -> bytes:
    lines = [b"GET /ws HTTP/1.1", b"Host: " + host, b"Connection: Upgrade", b"Upgrade: websocket", b"Sec-WebSocket-Version: 13"]
    lines.append(b"Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==")
    if origin is not None:
        lines.append(b"Origin: " + origin)
    return b"\r\n".join([*lines, b"", b""])


# ---- accounts


def test_accounts_give_back_what_they_took_whenever_they_end() -> None:
    memory = Allowance(1000)
    account = Account(memory)
    account.take(300)
    assert (memory.left, account.memory) == (700, 300)
    account.settle()
    assert memory.left == 1000
    account.give(300)
    assert memory.left == 1000


def test_what_is_asked_for_is_refused_where_nothing_is_left() -> None:
    account = Account(Allowance(1000))
    assert account.ask(900)
    assert not account.ask(200)
    assert account.memory == 900


def test_the_connection_that_holds_most_for_longest_lets_go() -> None:
    class Holder:
        def __init__(self, account: Account) -> None:
            self.account = account
            self.told = 0

        def evict(self) -> None:
            self.told += 1
            self.account.give(self.account.memory)

    def run() -> None:
        overload = Overload(Limits(memory=48 * MIB))
        holders = []
        for size in (20 * MIB, 2 * MIB, 9 * MIB):
            holder = Holder(overload.open())
            holder.account.enter(holder)
            holder.account.take(size)
            holder.account.since -= 100
            holders.append(holder)
        newcomer = overload.open()
        # A request of ordinary size, and a large one for which there is room then.
        assert newcomer.ask(10 * KIB)
        assert newcomer.ask(4 * MIB)
        assert [holder.told for holder in holders] == [1, 0, 0]
        assert overload.number == 1
        assert overload.since
        overload.stop()

    in_hub(run)


def test_nothing_younger_than_the_grace_lets_go_and_small_requests_are_served_all_the_same() -> None:
    def run() -> None:
        overload = Overload(Limits(memory=48 * MIB))
        first = overload.open()
        assert first.ask(overload.memory.left)
        newcomer = overload.open()
        assert not newcomer.ask(1 * MIB)
        assert newcomer.ask(10 * KIB)
        overload.stop()

    in_hub(run)


def test_memory_of_the_machine() -> None:
    assert 10 * MIB < resident() < available()


def test_connections_leave_descriptors_for_files() -> None:
    assert connections_limit(Limits(connections=7)) == 7
    assert connections_limit(Limits()) >= 1


# ---- descriptors


def test_the_connection_that_is_idle_for_longest_makes_room() -> None:
    with serve(limits=Limits(connections=3)) as server, ExitStack() as stack:
        idle = [stack.enter_context(server.connect()) for _ in range(2)]
        for client in idle:
            client.send(GET)
            server.app.answer(b"ok")
            assert client.read_response().body == b"ok"
        busy = stack.enter_context(server.connect())
        busy.send(GET)
        message = server.app.request()
        late = stack.enter_context(server.connect())
        late.send(GET)
        server.app.answer(b"late")
        assert late.read_response().body == b"late"
        assert idle[0].at_eof()
        server.app.reply(message, status=200, content=b"busy")
        assert busy.read_response().body == b"busy"
        idle[1].send(GET)
        server.app.answer(b"still there")
        assert idle[1].read_response().body == b"still there"


# ---- addresses


def test_connections_of_one_address() -> None:
    with serve(limits=Limits(connections_per_address=2)) as server, ExitStack() as stack:
        clients = [stack.enter_context(server.connect()) for _ in range(2)]
        for client in clients:
            client.send(GET)
            server.app.answer(b"ok")
            assert client.read_response().body == b"ok"
        with server.connect() as third:
            assert third.at_eof()
        addresses = server.server._connections.addresses
        assert addresses is not None
        clients.pop().close()
        while addresses._counts["127.0.0.1"] > 1:
            sleep(0.01)
        with server.connect() as third:
            third.send(GET)
            server.app.answer(b"third")
            assert third.read_response().body == b"third"


def test_ipv6_networks_count_as_one_client() -> None:
    counts = AddressCounts(1)
    key = counts.enter(["2001:db8::1", 1])
    assert key == "2001:db8::/64"
    with pytest.raises(TooManyConnections):
        counts.enter(["2001:db8::2", 1])
    assert counts.enter(["2001:db8:0:1::1", 1])
    assert counts.enter(["::ffff:192.0.2.1", 1]) == "192.0.2.1"
    with pytest.raises(TooManyConnections):
        counts.enter(["192.0.2.1", 9])
    assert counts.enter(None) is None
    assert counts.refused == 2
    counts.leave(key)
    assert counts.enter(["2001:db8::2", 1])


def test_addresses_of_all_clients_need_a_list_of_proxies() -> None:
    config = Config().changed({"limits.connections_per_address": 5, "proxies.headers": True})
    with pytest.raises(ConfigurationError, match="forwarded-allow-ips"):
        check_options(config)


# ---- origins and hosts


@pytest.mark.parametrize(
    ("allowed", "origin", "accepted"),
    [
        ("same-host", b"https://example.com", True),
        ("same-host", b"http://example.com:80", True),
        ("same-host", b"http://example.com:8080", False),
        ("same-host", b"https://example.com.evil.example", False),
        ("same-host", b"null", False),
        ("same-host", None, True),
        ("https://*.example.org", b"https://www.example.org", True),
        ("https://*.example.org", b"https://example.org", False),
        ("https://*.example.org", b"http://www.example.org", False),
        ("https://a.example,null", b"null", True),
        ("https://a.example", b"https://a.example:443", True),
        ("https://a.example", b"https://a.example:444", False),
    ],
)
def test_pages_that_may_open_websockets(allowed: str, origin: bytes | None, accepted: bool) -> None:
    config = Config(websockets=WebSockets(allow_origin=OriginList(allowed)))
    with serve(config=config) as server, server.connect() as client:
        client.send(websocket(origin))
        if accepted:
            message = server.app.receive("websocket.connect")[1]
            server.app.reply(message, accept=True)
            assert client.read_head().status == 101
        else:
            assert client.read_response().status == 403
            # What follows may be frames.
            assert client.at_eof()
            assert server.app.drain("websocket.connect") == []


@pytest.mark.parametrize("text", ["", "example.com", "https://", "https://a b", "https://*.*.example"])
def test_origins_that_are_none(text: str) -> None:
    with pytest.raises(ValueError, match="must"):
        OriginList(text)


@pytest.mark.parametrize(
    ("host", "allowed"),
    [
        (b"example.com", True),
        (b"EXAMPLE.com:8000", True),
        (b"example.com.", True),
        (b"www.example.com", False),
        (b"a.example.org", True),
        (b"example.org", True),
        (b"badexample.org", False),
        (b"[::1]:80", True),
    ],
)
def test_hosts_that_requests_may_be_for(host: bytes, allowed: bool) -> None:
    config = Config(allowed_hosts=HostList("example.com, .example.org, [::1]")).changed({"monitoring.health_path": "/health"})
    with serve(config=config) as server, server.connect() as client:
        client.send(b"GET /health HTTP/1.1\r\nHost: 192.0.2.1\r\n\r\n")
        assert client.read_response().status == 200
        client.send(b"GET / HTTP/1.1\r\nHost: %b\r\n\r\n" % host)
        if allowed:
            server.app.answer(b"ok")
        assert client.read_response().status == (200 if allowed else 421)


# ---- metrics


@pytest.mark.parametrize(
    ("text", "interface"), [("tcp:9100", "127.0.0.1"), ("tcp:9100:interface=0.0.0.0", "0.0.0.0"), ("tcp:9100:interface=\\:\\:", "::")]
)
def test_metrics_are_on_loopback_unless_an_interface_is_named(text: str, interface: str) -> None:
    endpoint = on_loopback(parse(text))
    assert isinstance(endpoint, TCPEndpoint)
    assert endpoint.interface == interface
