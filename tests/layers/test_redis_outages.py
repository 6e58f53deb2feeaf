"""A whole server on Redis through crashes by the clock, a Redis that hangs or becomes a replica, and many outages in a row.

``python -m tests.soak redis-crash redis-hang redis-leak`` does the same for long.
"""

from __future__ import annotations

from pathlib import Path

import pytest

from greendaphne.layers.redis import RedisChannelLayer
from tests.support import outages
from tests.support.bridge import handshake
from tests.support.outages import ServerProcess, crash_every, hang, recorded_load
from tests.support.redis_load import GET, Worker, make_layer, wait_until
from tests.support.redis_server import redis_server, redis_servers
from tests.support.server import RunningServer, serve

MIB = 1024 * 1024


def ask(server: RunningServer | ServerProcess) -> int:
    """The status of a request."""
    with server.connect() as client:
        client.send(GET)
        return client.read_response().status


def test_killed_and_restarted_every_two_seconds() -> None:
    with redis_server() as redis_process, recorded_load(redis_process) as load:
        crash_every(load, seconds=2, rounds=3)


def test_stopped_for_seconds() -> None:
    with redis_server() as redis_process, recorded_load(redis_process) as load:
        hang(load, seconds=3)


def test_connections_are_killed(caplog: pytest.LogCaptureFixture) -> None:
    """Messages in transit are lost; the server closes no WebSocket for it, and nothing counts as an outage."""
    with redis_server() as redis_process, recorded_load(redis_process) as load:
        for _ in range(5):
            outages.break_connections(redis_process)
            load.wait_for_service()
    # A late answer of a busy machine is another matter.
    assert not [line for line in caplog.text.splitlines() if "out of reach" in line and "Timeout reading" not in line]
    assert "are closed, for their clients to come back" not in caplog.text


def test_the_master_is_demoted(caplog: pytest.LogCaptureFixture) -> None:
    """It refuses to store and to let wait, until it is the master again; with the new master's data, which is none."""
    with redis_servers(2) as (master, other), recorded_load(master) as load:
        goal = load.statuses[503] + 5 * load.REQUESTERS
        master.client.replicaof("127.0.0.1", other.port)
        wait_until(lambda: load.statuses[503] >= goal, load)
        wait_until(lambda: master.info("replication")["master_link_status"] == "up")
        master.client.replicaof("NO", "ONE")
    # The server's and the worker's.
    lines = [record.getMessage() for record in caplog.records]
    outages = [line for line in lines if "is out of reach" in line and "a wait ended" not in line]
    # On a loaded machine an answer may be late as well.
    assert sum("Timeout reading" not in line for line in outages) == 2


def test_a_replica_from_the_beginning() -> None:
    """A server in front of a read-only replica refuses politely, and serves as soon as that is the master."""
    with redis_servers(2) as (master, replica):
        replica.client.replicaof("127.0.0.1", master.port)
        wait_until(lambda: replica.info("replication")["master_link_status"] == "up")
        with serve(RedisChannelLayer(hosts=[replica.url])) as server:
            for request in (GET, handshake()):
                with server.connect() as client:
                    client.send(request)
                    response = client.read_response()
                    assert (response.status, response.header("Retry-After")) == (503, "1")
                    assert b"replica" not in response.body
            replica.client.replicaof("NO", "ONE")
            worker = Worker(make_layer(replica))
            wait_until(lambda: ask(server) == 200)
            worker.stop()


def test_nothing_leaks_through_outages(tmp_path: Path) -> None:
    with redis_server() as redis_process:
        server = ServerProcess(tmp_path, redis_process)
        try:
            before = outages.outages(server, redis_process, 1)
            after = outages.outages(server, redis_process, 2)
        finally:
            server.process.stop()
    assert not after.is_more(before, 8 * MIB), (before, after)
    assert "Traceback" not in server.process.output()


def test_redis_hangs_under_asgi_redis(tmp_path: Path) -> None:
    """asgi_redis waits for ever; the server, on the same thread, goes on, and refuses what it cannot send."""
    with redis_server() as redis_process:
        server = ServerProcess(tmp_path, redis_process, is_legacy=True)
        try:
            worker = Worker(make_layer(redis_process))
            wait_until(lambda: ask(server) == 200)
            redis_process.pause()
            # More than may send at a time.
            clients = [server.connect() for _ in range(20)]
            for client in clients:
                client.send(GET)
            with server.connect() as other:
                other.send(b"nonsense\r\n\r\n")
                assert other.read_response().status == 400
            responses = [client.read_response() for client in clients]
            redis_process.resume()
            assert {(response.status, response.header("Retry-After")) for response in responses} == {(503, "1")}
            for client in clients:
                client.close()
            wait_until(lambda: ask(server) == 200)
            worker.stop()
        finally:
            redis_process.resume()
            server.process.stop()
    assert "Traceback" not in server.process.output()
