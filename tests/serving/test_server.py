"""The server's life: starting, accepting, stopping; daphne's constructor; limits of the process."""

from __future__ import annotations

import inspect
import os
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from operator import attrgetter
from pathlib import Path
from typing import Any

import gevent.monkey
import pytest

from greendaphne.config import COMMAND, AddressList, Config, ForwardedFields, Limits, Listening, Timeouts
from greendaphne.http2 import Http2Limits
from greendaphne.layers.memory import MemoryChannelLayer
from greendaphne.net.endpoints import PROXY_PROTOCOL, EndpointError, ListeningOptions
from greendaphne.net.tls import TLSOptions
from greendaphne.server import Server
from greendaphne.settings.keywords import OBJECTS, TARGETS
from tests.support.server import PATIENCE, Client, serve
from tests.support.settling import settle

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
    with command(tmp_path, "--limit-connections", "1000", limit_files=40) as process:
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


#: daphne 1.4.2's own, in its order.
DAPHNE = [
    "channel_layer",
    "host",
    "port",
    "endpoints",
    "unix_socket",
    "file_descriptor",
    "signal_handlers",
    "action_logger",
    "http_timeout",
    "websocket_timeout",
    "websocket_connect_timeout",
    "ping_interval",
    "ping_timeout",
    "ws_protocols",
    "root_path",
    "proxy_forwarded_address_header",
    "proxy_forwarded_port_header",
    "proxy_forwarded_proto_header",
    "force_sync",
    "verbosity",
    "websocket_handshake_timeout",
]


def test_signature_is_daphnes_with_an_application_and_a_configuration() -> None:
    parameters = list(inspect.signature(Server).parameters.values())
    positional = [each.name for each in parameters if each.kind is inspect.Parameter.POSITIONAL_OR_KEYWORD]
    keyword = [each.name for each in parameters if each.kind is inspect.Parameter.KEYWORD_ONLY]
    rest = [each.kind for each in parameters[len(positional) + len(keyword) :]]
    assert (positional, keyword, rest) == (DAPHNE, ["application", "config"], [inspect.Parameter.VAR_KEYWORD])


def server(**keywords: Any) -> Server:
    return Server(MemoryChannelLayer(), endpoints=["tcp:0"], **keywords)


def test_times_that_are_not_given_stay_those_of_the_timeouts() -> None:
    given = Timeouts(http=5, websocket=6, websocket_connect=7, ping_interval=8, ping_timeout=9)
    for made in (server(timeouts=given), server(config=Config(timeouts=given)), server(timeouts=given, http_timeout=None)):
        assert made.timeouts == made.config.timeouts == given
    assert server(timeouts=given, http_timeout=1, ping_timeout=0).timeouts == replace(given, http=1, ping_timeout=0)
    assert server(config=Config(timeouts=Timeouts(http=1)), timeouts=given).timeouts == given


def test_defaults_of_the_times_are_those_of_the_configuration() -> None:
    assert server().config == Config(endpoints=("tcp:0",))
    assert server().timeouts == replace(Timeouts(), websocket=86400)


def test_lifetime_of_websockets_without_a_value_is_the_layers() -> None:
    layer = MemoryChannelLayer(group_expiry=77)
    assert Server(layer, endpoints=["tcp:0"]).timeouts.websocket == 77
    assert Server(layer, endpoints=["tcp:0"], timeouts=Timeouts(websocket=86400)).timeouts.websocket == 86400


@pytest.mark.parametrize("keyword", [*TARGETS, *OBJECTS])
def test_every_keyword_of_version_1_0_is_taken(keyword: str) -> None:
    """``None`` is not given; the value of a configuration is taken as it is."""
    assert server(**{keyword: None}).config == server().config
    if keyword in TARGETS and keyword not in ("certfile", "keyfile", "metrics"):
        value = attrgetter(TARGETS[keyword])(COMMAND)
        assert server(**{keyword: value}).config == server().config.changed({TARGETS[keyword]: value})


LISTENING = Listening(backlog=5, reuse_port=True, proxy_protocol="auto")


@pytest.mark.parametrize(
    ("keywords", "expected"),
    [
        ({"ws_protocols": "chat"}, {"websockets.protocols": ("chat",)}),
        ({"ws_protocols": ["a", "b"]}, {"websockets.protocols": ("a", "b")}),
        ({"force_sync": True, "verbosity": 0}, {"channels.force_sync": True, "logging.verbosity": 0}),
        ({"tls_options": TLSOptions(alpn=("http/1.1",))}, {"tls.alpn": ("http/1.1",)}),
        (
            {"listening": ListeningOptions(5, True, PROXY_PROTOCOL["auto"])},
            {"listening": Listening(None, None, None, None, 5, True, "auto")},
        ),
        ({"listening": ListeningOptions(proxy_protocol=PROXY_PROTOCOL["v2"])}, {"listening.proxy_protocol": "v2"}),
        ({"proxy_allow_from": "*"}, {"proxies.allow_from": AddressList("*")}),
        ({"forwarded_allow_ips": AddressList("unix")}, {"proxies.forwarded_allow_ips": AddressList("unix")}),
        (
            {"proxy_forwarded_address_header": "X-Real-IP", "proxy_forwarded_proto_header": "X-Scheme"},
            {"proxies.headers": True, "proxies.forwarded_headers": ForwardedFields("X-Real-IP", None, "X-Scheme")},
        ),
        # daphne reads these only beside the address.
        ({"proxy_forwarded_port_header": "X-Port"}, {}),
        (
            {"http2_limits": Http2Limits(max_concurrent_streams=2), "http2_cleartext": True},
            {"http2": Http2Limits(max_concurrent_streams=2, cleartext=True)},
        ),
    ],
)
def test_keywords_that_are_converted(keywords: dict[str, Any], expected: dict[str, Any]) -> None:
    assert server(**keywords).config == Config(endpoints=("tcp:0",)).changed(expected)


def test_unknown_keywords() -> None:
    with pytest.raises(TypeError, match=r"unexpected keyword argument 'http_timout'; did you mean 'http_timeout'\?$"):
        server(http_timout=5)
    with pytest.raises(TypeError, match=r"unexpected keyword argument 'xyzzy'$"):
        server(xyzzy=None)


def test_one_thing_is_served() -> None:
    both: dict[str, Any] = {"channel_layer": MemoryChannelLayer(), "application": object()}
    for keywords in ({}, both):
        with pytest.raises(TypeError, match="either a channel layer or an application"):
            Server(endpoints=["tcp:0"], **keywords)


def test_where_a_configuration_listens() -> None:
    config = Config(endpoints=("tcp:2", "tcp:1"))
    assert Server(MemoryChannelLayer(), config=config).endpoints == ["tcp:2", "tcp:1"]
    config = Config(endpoints=("unix:x",), listening=Listening(port=0))
    assert Server(MemoryChannelLayer(), config=config).endpoints == ["tcp:port=0:interface=127.0.0.1", "unix:x"]
    assert Server(MemoryChannelLayer(), config=config, endpoints=["tcp:0"]).endpoints == ["tcp:0"]


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
    """Aborted uploads, half heads, vanished readers: no descriptor, no greenlet, no reply queue stays."""
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


def test_unpatched_process_is_left_unpatched() -> None:
    assert not gevent.monkey.is_module_patched("socket")
