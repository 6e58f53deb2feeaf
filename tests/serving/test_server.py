"""The server's life: starting, accepting, stopping; daphne's constructor; limits of the process."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import gevent.monkey
import pytest

from greendaphne.config import Limits, Timeouts
from greendaphne.layers.memory import MemoryChannelLayer
from greendaphne.net.endpoints import EndpointError
from greendaphne.server import Server
from tests.support.server import PATIENCE, Client, serve

GET = b"GET / HTTP/1.1\r\nHost: a\r\n\r\n"

APPLICATION = """
import gevent.monkey
from greendaphne.layers.memory import MemoryChannelLayer

channel_layer = MemoryChannelLayer()

def request(message):
    path = message.content["path"]
    if path == "/slow":
        message.reply({"status": 200, "content": b"begun", "more_content": True})
        gevent.sleep(float(message.content["query_string"]))
        message.reply({"content": b" and done"})
    else:
        message.reply({"status": 200, "content": b"quick"})

channel_layer.routes = {"http.request": request}
"""


@contextmanager
def command(tmp_path: Path, *options: str, limit_files: int = 0) -> Iterator[subprocess.Popen[str]]:
    """The greendaphne command on the UNIX socket ``s`` in ``tmp_path``, listening."""
    (tmp_path / "app.py").write_text(APPLICATION)
    arguments = [sys.executable, "-m", "greendaphne", "-u", "s", "--inline-workers", "2", *options, "app:channel_layer"]
    if limit_files:
        arguments = ["sh", "-c", f'ulimit -n {limit_files}; exec "$@"', "sh", *arguments]
    process = subprocess.Popen(arguments, cwd=tmp_path, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True)
    try:
        assert process.stderr is not None
        for line in process.stderr:
            if "Listening on channels" in line:
                break
        yield process
    finally:
        if process.poll() is None:
            process.kill()
        process.communicate()


def connect(tmp_path: Path) -> Client:
    sock = socket.socket(socket.AF_UNIX)
    sock.settimeout(PATIENCE)
    sock.connect(str(tmp_path / "s"))
    return Client(sock)


# ---- signals


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_signal_lets_requests_finish(tmp_path: Path, number: signal.Signals) -> None:
    with command(tmp_path) as process, connect(tmp_path) as busy, connect(tmp_path) as idle:
        idle.send(GET)
        idle.read_response()
        busy.send(b"GET /slow?0.5 HTTP/1.1\r\nHost: a\r\n\r\n" + GET * 2)
        busy.read_head()
        assert busy.read_chunk() == b"begun"
        process.send_signal(number)
        assert idle.at_eof()
        assert busy.read_chunk() == b" and done"
        assert busy.read_chunk() == b""
        # Nothing has said yet that the connection ends, so what was sent behind is answered; with that answer it is said.
        last = busy.read_response()
        assert (last.body, last.header("Connection")) == (b"quick", "close")
        assert busy.at_eof()
        assert process.wait(PATIENCE) == 0
        assert not (tmp_path / "s").exists()


def test_second_signal_ends_at_once(tmp_path: Path) -> None:
    with command(tmp_path) as process, connect(tmp_path) as busy:
        busy.send(b"GET /slow?60 HTTP/1.1\r\nHost: a\r\n\r\n")
        busy.read_head()
        process.send_signal(signal.SIGTERM)
        assert process.stderr is not None
        for line in process.stderr:
            if "Stopping" in line:
                break
        process.send_signal(signal.SIGTERM)
        assert process.wait(PATIENCE) == 0


def test_graceful_timeout(tmp_path: Path) -> None:
    with command(tmp_path, "--graceful-timeout", "0.3") as process, connect(tmp_path) as busy:
        busy.send(b"GET /slow?60 HTTP/1.1\r\nHost: a\r\n\r\n")
        busy.read_head()
        process.send_signal(signal.SIGTERM)
        assert process.wait(PATIENCE) == 0


def test_hangup_does_not_end_it(tmp_path: Path) -> None:
    with command(tmp_path) as process, connect(tmp_path) as client:
        process.send_signal(signal.SIGHUP)
        assert process.stderr is not None
        for line in process.stderr:
            if "Reloading certificates" in line:
                break
        client.send(GET)
        assert client.read_response().body == b"quick"


def test_out_of_file_descriptors(tmp_path: Path) -> None:
    """Connections wait until there is room again; one line says so, and nothing spins."""
    with command(tmp_path, limit_files=40) as process:
        clients = [connect(tmp_path) for _ in range(60)]
        assert process.stderr is not None
        for line in process.stderr:
            if "Cannot accept connections for now" in line:
                break
        before = cpu_seconds(process.pid)
        time.sleep(1)  # the time over which the processor time is measured
        assert cpu_seconds(process.pid) - before < 0.5
        for client in clients[:40]:
            client.close()
        clients[-1].send(GET)
        assert clients[-1].read_response().body == b"quick"
        for line in process.stderr:
            assert "Traceback" not in line
            if "Accepting connections again" in line:
                break
        for client in clients[40:]:
            client.close()


def cpu_seconds(pid: int) -> float:
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


# ---- as a library


def test_constructor_is_daphnes() -> None:
    with pytest.warns(DeprecationWarning, match="host/port/unix_socket/file_descriptor keyword arguments to Server are deprecated"):
        server = Server(MemoryChannelLayer(), "127.0.0.1", 0)
    assert server.endpoints == ["tcp:port=0:interface=127.0.0.1"]
    with pytest.raises(UserWarning, match=r"No endpoints\. This server will not listen on anything\."):
        Server(MemoryChannelLayer())
    with pytest.raises(EndpointError):
        Server(MemoryChannelLayer(), endpoints=["nonsense:1"])


def test_server_is_found_where_daphnes_users_look() -> None:
    import greendaphne

    assert greendaphne.Server is Server
    with pytest.raises(AttributeError):
        greendaphne.nothing  # noqa: B018


def test_request_that_meets_the_end_is_answered() -> None:
    """A connection that is idle when the server stops may have a request on its way."""
    with serve() as server, server.connect() as client:
        client.send(GET)
        server.app.answer(b"one")
        client.read_response()
        server.server.stop()
        while server.server.listeners:
            time.sleep(0.001)
        client.send(GET)
        server.app.answer(b"two")
        response = client.read_response()
        assert (response.body, response.header("Connection")) == (b"two", "close")
        assert client.at_eof()


def test_times_that_are_not_given_stay_those_of_the_timeouts() -> None:
    timeouts = Timeouts(http=5, ping_interval=6)
    server = Server(
        MemoryChannelLayer(), endpoints=["tcp:0"], timeouts=timeouts, http_timeout=None, ping_interval=None, ws_protocols="chat"
    )
    assert (server.timeouts.http, server.timeouts.ping_interval, server.timeouts.websocket_connect) == (5, 6, 20)


def test_reply_protocols_under_daphnes_name() -> None:
    with serve() as server, server.connect() as client:
        client.send(GET)
        request = server.app.request()
        assert list(server.server.factory.reply_protocols) == [request["reply_channel"]]
        server.app.reply(request, status=200)
        client.read_response()
        server.app.receive("http.disconnect")
        assert not server.server.factory.reply_protocols


def test_failing_bind_leaves_nothing_open() -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        server = Server(MemoryChannelLayer(), endpoints=["tcp:0:interface=127.0.0.1", f"tcp:{port}:interface=127.0.0.1"])
        with pytest.raises(EndpointError, match="Address already in use"):
            server.start()
        assert server.listeners == []
        with pytest.raises(SystemExit) as ended:
            server.run()
        assert ended.value.code == 1


def test_run_in_the_main_thread_leaves_signals_alone_when_told() -> None:
    """And stop() works from another thread."""
    before = signal.getsignal(signal.SIGTERM)
    server = Server(MemoryChannelLayer(), endpoints=["tcp:0:interface=127.0.0.1"], signal_handlers=False)

    def stop_when_started() -> None:
        deadline = time.monotonic() + PATIENCE
        while not server.listeners and time.monotonic() < deadline:
            time.sleep(0.001)
        assert signal.getsignal(signal.SIGTERM) is before
        server.stop()

    helper = threading.Thread(target=stop_when_started)
    helper.start()
    server.run()
    helper.join()


def test_two_servers_in_one_process() -> None:
    with serve() as one, serve() as two:
        for server in (one, two):
            with server.connect() as client:
                client.send(GET)
                server.app.answer(b"ok")
                assert client.read_response().body == b"ok"


def test_inherited_descriptor() -> None:
    listener = socket.create_server(("127.0.0.1", 0))
    port = listener.getsockname()[1]
    with serve(endpoints=[f"fd:fileno={listener.detach()}"]) as server:
        assert server.port == port
        with server.connect() as client:
            client.send(GET)
            server.app.answer(b"ok")
            assert client.read_response().body == b"ok"


def test_connection_limit() -> None:
    """One connection more than allowed waits until another has gone."""
    with serve(limits=Limits(connections=2)) as server:
        first, second, third = (server.connect() for _ in range(3))
        for client in (first, second):
            client.send(GET)
            server.app.answer(b"ok")
            client.read_response()
        third.send(GET)
        assert server.app.drain("http.request") == []
        first.close()
        server.app.answer(b"now")
        assert third.read_response().body == b"now"
        second.close()
        third.close()


def test_slow_clients_do_not_delay_a_quick_one() -> None:
    """Five hundred connections that never finish their heads, and one that does."""
    with serve(timeouts=Timeouts(graceful=0.1)) as server:
        slow = [server.connect() for _ in range(500)]
        for client in slow:
            client.send(b"GET / HTTP/1.1\r\nX: ")
        with server.connect() as client:
            for _ in range(20):
                client.send(GET)
                server.app.answer(b"ok")
                assert client.read_response().body == b"ok"
        for client in slow:
            client.close()


def test_nothing_is_left_of_clients_that_came_and_went() -> None:
    """Aborted uploads, half heads, vanished readers: no descriptor, no greenlet, no mailbox stays."""
    with serve() as server:

        def visit() -> None:
            for data in (b"GET / HTT", b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 100000\r\n\r\n" + b"x" * 50_000, GET):
                with server.connect() as client:
                    client.send(data)
                    if data is GET:
                        server.app.answer(b"ok")
                        client.read_response()

        visit()
        settle(server.server)
        descriptors = len(os.listdir("/proc/self/fd"))
        for _ in range(50):
            visit()
        settle(server.server)
        assert len(os.listdir("/proc/self/fd")) <= descriptors
        assert not server.server.factory.reply_protocols


def settle(server: Server) -> None:
    """Wait until all connections are gone."""
    deadline = time.monotonic() + PATIENCE
    while server.connections and time.monotonic() < deadline:
        time.sleep(0.005)
    assert server.connections == 0


def test_unpatched_process_is_left_unpatched() -> None:
    assert not gevent.monkey.is_module_patched("socket")
