"""The server as a library: started, stopped and waited for from anywhere, several at once, and nothing left behind."""

from __future__ import annotations

import gc
import logging
import os
import signal
import socket
import subprocess
import sys
import textwrap
import threading
from pathlib import Path
from typing import Any

import gevent
import pytest
from gevent import socket as gevent_socket
from gevent.event import Event

from greendaphne import Server
from greendaphne.config import ConfigurationError, Timeouts
from greendaphne.layers.memory import MemoryChannelLayer
from greendaphne.net.endpoints import EndpointError
from greendaphne.threaded import ServerThread
from tests.support.documented import programs

ROOT = Path(__file__).resolve().parents[2]
PATIENCE = 20.0
ANY_PORT = ["tcp:0:interface=127.0.0.1"]
HANDLED = (signal.SIGTERM, signal.SIGINT, signal.SIGHUP, signal.SIGUSR1)


def hello(message: Any) -> None:
    message.reply({"status": 200, "headers": [(b"content-length", b"5")], "content": b"hello"})


def new_layer() -> MemoryChannelLayer:
    layer = MemoryChannelLayer()
    layer.routes = {"http.request": hello}
    return layer


def new_server(layer: Any = None, endpoints: list[str] | None = None, **options: Any) -> Server:
    options.setdefault("inline_workers", 1)
    options.setdefault("timeouts", Timeouts(graceful=2))
    return Server(layer or new_layer(), endpoints=endpoints or ANY_PORT, **options)


def get(port: int, sockets: Any = socket, path: str = "/") -> bytes:
    """The body of a response; ``sockets`` says how to wait."""
    with sockets.create_connection(("127.0.0.1", port), timeout=PATIENCE) as client:
        client.sendall(f"GET {path} HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n".encode())
        response = b""
        while data := client.recv(65536):
            response += data
    head, _, body = bytes(response).partition(b"\r\n\r\n")
    assert head.startswith(b"HTTP/1.1 200 "), head
    return body


def refuses(port: int) -> bool:
    with socket.socket() as client:
        return client.connect_ex(("127.0.0.1", port)) != 0


def descriptors() -> int:
    return len(os.listdir("/proc/self/fd"))


# --- In one hub ---


def test_context_manager() -> None:
    with new_server() as server:
        port = server.port
        assert server.addresses == [("127.0.0.1", port)]
        assert get(port, gevent_socket) == b"hello"
    assert refuses(port)
    assert server.addresses == []
    with pytest.raises(RuntimeError, match="does not listen on a TCP port"):
        _ = server.port


def test_context_manager_waits_for_requests_in_flight() -> None:
    layer = MemoryChannelLayer()
    with new_server(layer, inline_workers=0) as server:
        client = gevent.spawn(get, server.port, gevent_socket)
        [(_, request)] = layer.receive_batch(["http.request"], 1, PATIENCE)
        answer = gevent.spawn_later(0.05, layer.send, request["reply_channel"], {"status": 200, "content": b"late"})
    assert answer.ready()
    assert b"late" in client.get(timeout=PATIENCE)


def test_context_manager_passes_exceptions_on_and_closes() -> None:
    ports = []

    def fail() -> None:
        with new_server() as server:
            ports.append(server.port)
            assert get(server.port, gevent_socket) == b"hello"
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        fail()
    assert refuses(ports[0])


@pytest.mark.parametrize("kind", [KeyboardInterrupt, gevent.GreenletExit, SystemExit])
def test_context_manager_that_is_interrupted_waits_for_nothing(kind: type[BaseException]) -> None:
    layer = MemoryChannelLayer()
    clients = []

    def be_interrupted() -> None:
        with new_server(layer, inline_workers=0, timeouts=Timeouts(graceful=3600)) as server:
            clients.append((server.port, gevent.spawn(try_to_get, server.port)))
            assert layer.receive_batch(["http.request"], 1, PATIENCE)
            raise kind

    with pytest.raises(kind):
        be_interrupted()
    [(port, client)] = clients
    assert refuses(port)
    assert client.get(timeout=PATIENCE) is None


def try_to_get(port: int) -> bytes | None:
    try:
        return get(port, gevent_socket)
    except (AssertionError, OSError):
        return None


def test_context_manager_of_a_server_that_was_stopped_inside() -> None:
    with new_server() as server:
        server.stop()
        assert server.join(PATIENCE)
        server.stop()


def test_several_servers_share_a_layer() -> None:
    layer = new_layer()
    with new_server(layer) as first, new_server(layer, inline_workers=0) as second, new_server() as third:
        assert len({first.port, second.port, third.port}) == 3
        jobs = [gevent.spawn(get, server.port, gevent_socket) for _ in range(20) for server in (first, second, third)]
        gevent.joinall(jobs, timeout=PATIENCE, raise_error=True)
        assert {job.value for job in jobs} == {b"hello"}


def test_addresses_of_all_kinds(tmp_path: Path) -> None:
    path = str(tmp_path / "x")
    name = f"@{tmp_path}"
    endpoints = [f"unix:{path}", f"unix:{name}", r"tcp:0:interface=\:\:1", *ANY_PORT]
    with new_server(endpoints=endpoints) as server:
        first, second, third, fourth = server.addresses
        assert (first, second) == (path, name)
        assert third == ("::1", server.port)
        assert fourth[0] == "127.0.0.1"
        assert get(int(fourth[1]), gevent_socket) == b"hello"
    with new_server(endpoints=[f"unix:{path}"]) as server, pytest.raises(RuntimeError, match="TCP port"):
        _ = server.port


def test_starting_twice_stopping_twice_and_starting_again() -> None:
    server = new_server()
    ports = set()
    for _ in range(3):
        server.start()
        ports.add(server.port)
        with pytest.raises(RuntimeError, match="started already"):
            server.start()
        assert get(server.port, gevent_socket) == b"hello"
        server.stop()
        server.stop()
        with pytest.raises(RuntimeError, match="started already"):
            server.start()
        assert server.join(PATIENCE)
        server.stop()
        assert server.join()
    assert ports


def test_stop_ends_a_server_that_nobody_waits_for() -> None:
    server = new_server()
    server.start()
    port = server.port
    assert not server.join(0.01)
    server.stop()
    assert server.join(PATIENCE)
    assert refuses(port)
    # What it returns to when it is late.
    server.serve_forever()


def test_serve_forever_needs_a_start_and_join_does_not() -> None:
    server = new_server()
    with pytest.raises(RuntimeError, match=r"start\(\) has to be called first"):
        server.serve_forever()
    assert server.join()


def test_stop_before_the_first_start_counts_and_later_ones_do_not() -> None:
    server = new_server()
    server.stop()
    server.start()
    assert server.join(PATIENCE)
    server.stop()
    with server:
        assert not server.join(0.01)
        assert get(server.port, gevent_socket) == b"hello"


def test_killing_the_greenlet_that_serves_closes_everything() -> None:
    listening = Event()
    server = new_server()

    def serve() -> None:
        server.start()
        listening.set()
        server.serve_forever()

    greenlet = gevent.spawn(serve)
    assert listening.wait(PATIENCE)
    port = server.port
    greenlet.kill(timeout=PATIENCE)
    assert greenlet.ready()
    assert refuses(port)
    assert server.join(0)


# --- What fails at the start ---


def test_nothing_stays_open_when_an_endpoint_cannot_be_had(tmp_path: Path) -> None:
    path = tmp_path / "x"
    with socket.create_server(("127.0.0.1", 0)) as taken:
        server = new_server(endpoints=[f"unix:{path}", *ANY_PORT, f"tcp:{taken.getsockname()[1]}:interface=127.0.0.1"])
        for _ in range(2):
            before = descriptors()
            with pytest.raises(EndpointError, match="Address already in use"):
                server.start()
            assert (server.addresses, path.exists()) == ([], False)
            assert descriptors() <= before + HUB_DESCRIPTORS
    # It is free now.
    with server:
        assert path.exists()


#: What the hub's loop and its resolver open once.
HUB_DESCRIPTORS = 6


def test_nothing_stays_open_when_workers_cannot_be_had() -> None:
    server = new_server(MemoryChannelLayer())
    with pytest.raises(ConfigurationError), server:
        raise AssertionError
    assert server.addresses == []
    assert server.join(0)


def test_an_exception_of_the_start_reaches_whoever_starts_a_thread() -> None:
    thread = ServerThread(new_server(MemoryChannelLayer()))
    for _ in range(2):
        with pytest.raises(ConfigurationError):
            thread.start()
        thread.stop()
    assert "greendaphne" not in [each.name for each in threading.enumerate()]


# --- In threads ---


def test_a_thread_of_its_own() -> None:
    thread = ServerThread(new_server())
    thread.stop()
    for _ in range(3):
        thread.start()
        with pytest.raises(RuntimeError, match="started already"):
            thread.start()
        port = thread.server.port
        assert get(port) == b"hello"
        thread.stop()
        thread.stop()
        assert refuses(port)


def test_servers_in_several_threads_share_a_layer() -> None:
    layer = new_layer()
    with ServerThread(new_server(layer)) as first, ServerThread(new_server(layer, inline_workers=0)) as second:
        for _ in range(10):
            assert get(first.port) == get(second.port) == b"hello"


def test_stopping_and_waiting_in_other_threads() -> None:
    """Natively, and in a thread that has a hub of its own, which goes on meanwhile."""
    thread = ServerThread(new_server())
    with thread as server:
        assert not server.join(0.01)
        ticks: list[int] = []
        ended: list[bool] = []

        def with_a_hub() -> None:
            ticking = gevent.spawn(tick)
            gevent.sleep(0)
            ended.append(server.join(PATIENCE))
            ticking.kill()
            gevent.get_hub().threadpool.kill()
            gevent.get_hub().destroy(destroy_loop=True)

        def tick() -> None:
            while True:
                ticks.append(1)
                if len(ticks) == 3:
                    server.stop()
                gevent.sleep(0.001)

        other = threading.Thread(target=with_a_hub)
        serving = threading.Thread(target=server.serve_forever)
        serving.start()
        other.start()
        assert server.join(PATIENCE)
        other.join(PATIENCE)
        serving.join(PATIENCE)
        assert not serving.is_alive()
        assert ended == [True]
        assert len(ticks) >= 3
        # Its hub is gone, or soon will be.
        server.stop()


def test_stop_while_it_starts_is_not_lost() -> None:
    for _ in range(20):
        server = new_server(inline_workers=0)
        begin = threading.Barrier(2)

        def stop(server: Server = server, begin: threading.Barrier = begin) -> None:
            begin.wait(PATIENCE)
            server.stop()

        stopping = threading.Thread(target=stop)
        stopping.start()

        def run(server: Server = server, begin: threading.Barrier = begin) -> None:
            begin.wait(PATIENCE)
            server.run()
            gevent.get_hub().threadpool.kill()
            gevent.get_hub().destroy(destroy_loop=True)

        running = threading.Thread(target=run, daemon=True)
        running.start()
        running.join(PATIENCE)
        assert not running.is_alive()
        stopping.join(PATIENCE)


# --- What it leaves alone ---


def test_neither_signals_nor_logging_are_touched() -> None:
    handlers = [signal.getsignal(number) for number in HANDLED]
    loggers = log_settings()
    server = new_server(signal_handlers=True)
    with server:
        assert [signal.getsignal(number) for number in HANDLED] == handlers
    server.start()
    server.stop()
    server.serve_forever()
    assert [signal.getsignal(number) for number in HANDLED] == handlers
    assert log_settings() == loggers


def log_settings() -> list[tuple[list[logging.Handler], int]]:
    loggers = [logging.getLogger(name) for name in ("", "daphne", "daphne.server", "greendaphne")]
    return [(each.handlers[:], each.level) for each in loggers]


def python(source: str, *arguments: str) -> str:
    """Run ``source`` in a process of its own, patched before all else when ``patched`` is among the arguments."""
    process = subprocess.run(
        [sys.executable, "-W", "error", "-c", PREAMBLE + textwrap.dedent(source), *arguments],
        capture_output=True,
        text=True,
        timeout=120,
        cwd=ROOT,
        check=False,
    )
    assert (process.returncode, process.stderr) == (0, "")
    return process.stdout


PREAMBLE = """
import sys
if "patched" in sys.argv:
    from gevent import monkey
    monkey.patch_all()
import gevent, os, signal, socket, threading, time
import tests.serving.test_library as shared
from greendaphne.threaded import ServerThread
"""


@pytest.mark.parametrize("arguments", [("patched",), ("unpatched",)], ids=" ".join)
def test_run_handles_signals_and_gives_them_back(arguments: tuple[str, ...]) -> None:
    source = """
        # Whoever starts the tests in the background of a shell has SIGINT ignored.
        signal.signal(signal.SIGINT, signal.default_int_handler)
        server = shared.new_server()
        before = [signal.getsignal(number) for number in shared.HANDLED]

        def kill(number):
            while not server.addresses:
                gevent.sleep(0.001)
            shared.get(server.port, shared.gevent_socket)
            os.kill(os.getpid(), number)

        for number in (signal.SIGTERM, signal.SIGINT):
            gevent.spawn(kill, number)
            server.run()
            print("ended")
        assert [signal.getsignal(number) for number in shared.HANDLED] == before, before
        try:
            os.kill(os.getpid(), signal.SIGINT)
            time.sleep(60)
        except KeyboardInterrupt:
            print("interrupted")
    """
    assert python(source, *arguments) == "ended\nended\ninterrupted\n"


def test_beside_the_greenlets_of_a_patched_application() -> None:
    """Everything in the one hub: the application's greenlets, its clients, several servers, and a native thread that stops one."""
    source = """
        import urllib.request
        ticks = []

        def tick():
            while True:
                ticks.append(1)
                time.sleep(0.001)

        ticking = gevent.spawn(tick)
        layer = shared.new_layer()
        with shared.new_server(layer) as first, shared.new_server(layer) as second, ServerThread(shared.new_server()) as third:
            for server in (first, second, third):
                print(urllib.request.urlopen(f"http://127.0.0.1:{server.port}/").read().decode())
            gevent.get_hub().threadpool.apply(second.stop)
            print(second.join(20), shared.refuses(first.port))
            # Natively, in a thread without a hub.
            first.stop()
            print(gevent.get_hub().threadpool.apply(first.join, (20,)))
        assert ticks
        ticking.kill()
    """
    assert python(source, "patched") == "hello\nhello\nhello\nTrue False\nTrue\n"


LEAKS = """
    import gc
    import greenlet
    from gevent.hub import Hub

    def once():
        server = shared.new_server()
        if "threads" in sys.argv:
            with ServerThread(server):
                assert shared.get(server.port) == b"hello"
        else:
            with server:
                assert shared.get(server.port, shared.gevent_socket) == b"hello"

    def count():
        if "threads" not in sys.argv:
            gevent.sleep(0.01)
        gc.collect()
        objects = gc.get_objects()
        kinds = [sum(isinstance(each, kind) for each in objects) for kind in (Hub, greenlet.greenlet, threading.Thread, shared.Server)]
        return [len(os.listdir("/proc/self/fd")), len(os.listdir("/proc/self/task")), *kinds]

    for _ in range(5):
        once()
    before = count()
    for _ in range(50):
        once()
    after = count()
    # One more is the garbage of the last; a leak is fifty.
    print("leaks" if any(b > a + 2 for a, b in zip(before, after)) else "none", before, after)
"""


@pytest.mark.parametrize("arguments", [("patched",), ("unpatched",), ("threads",), ("threads", "patched")], ids=" ".join)
def test_fifty_starts_leave_nothing_behind(arguments: tuple[str, ...]) -> None:
    """Neither descriptors, native threads, hubs, greenlets, threads nor servers."""
    assert python(LEAKS, *arguments).startswith("none")


def test_a_failed_start_leaves_no_greenlet_behind() -> None:
    server = new_server(MemoryChannelLayer())
    # Other tests' threads have ended, with what their hubs had still to do.
    before = living_greenlets()
    with pytest.raises(ConfigurationError):
        server.start()
    gevent.sleep(0.01)
    gc.collect()
    assert [each for each in living_greenlets() if each not in before] == []


def living_greenlets() -> list[Any]:
    return [each for each in gc.get_objects() if issubclass(type(each), gevent.Greenlet) and not each.dead]


# --- The documentation ---

EXAMPLES = ROOT / "examples" / "library"


def test_the_examples_are_those_of_the_documentation() -> None:
    documented = programs("library.rst")
    for path in EXAMPLES.glob("*.py"):
        assert documented[path.name] == path.read_text(encoding="utf-8")


@pytest.mark.parametrize("name", ["beside.py", "thread.py"])
def test_example(name: str) -> None:
    command = [sys.executable, "-W", "error", str(EXAMPLES / name)]
    process = subprocess.run(command, capture_output=True, text=True, timeout=60, env=example_environment(), check=False)
    assert (process.returncode, process.stdout, process.stderr) == (0, "Hello\n", "")


def test_example_that_serves() -> None:
    command = [sys.executable, "-W", "error", str(EXAMPLES / "serve.py")]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=example_environment()) as process:
        try:
            assert process.stdout is not None
            url = process.stdout.readline()
            assert b"Hello" in get(int(url.strip().strip("/").rpartition(":")[2]))
            process.terminate()
            assert process.communicate(timeout=60) == ("ended\n", "")
        finally:
            process.kill()
    assert process.returncode == 0


def example_environment() -> dict[str, str]:
    return {**os.environ, "PYTHONPATH": str(ROOT)}
