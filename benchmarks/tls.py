"""TLS on the server's socket against gevent.ssl: work per CPU-second of the server, both in one run.

    python benchmarks/tls.py [--seconds 2] [--rounds 3] [--connections 8]

Two servers run side by side, one with :class:`greendaphne.net.tls.TLSTransport` and one with gevent.ssl, with one certificate and the same
canned answers.  They are measured in turn, round after round, so that whatever else the machine does hits both.  The unit is what the
client completed divided by the CPU time that the server's process used meanwhile; the ratio is the median of the rounds' ratios.
"""

from __future__ import annotations

import argparse
import os
import socket
import ssl
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import NamedTuple

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

MIB = 1024 * 1024
#: What a client asks for, by its first byte.
HELLO, DOWNLOAD, UPLOAD = b"h", b"d", b"u"
REQUEST_SIZE = 100
HELLO_ANSWER = b"HTTP/1.1 200 OK\r\nContent-Type: text/plain\r\nContent-Length: 13\r\n\r\nHello, world!"
MIB_ANSWER = b"x" * MIB


class Target(NamedTuple):
    """A running server."""

    name: str
    pid: int
    port: int

    def cpu(self) -> float:
        """CPU seconds that its process has used (the process's own clock, see clock_getres(2))."""
        return time.clock_gettime((~self.pid << 3) | 2)


def serve(stack: str, pem: str) -> None:
    """Serve in this process for ever; prints the port."""
    import gevent
    from gevent import socket as cooperative

    from greendaphne.core.message import ClientDisconnected
    from greendaphne.net.tls import FileContexts, handshake

    listener = cooperative.socket()
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    listener.bind(("127.0.0.1", 0))
    listener.listen(1024)

    def answer(read: Callable[[int], bytes], write: Callable[[bytes], object]) -> None:
        while kind := read(REQUEST_SIZE)[:1]:
            if kind == HELLO:
                write(HELLO_ANSWER)
            elif kind == DOWNLOAD:
                write(MIB_ANSWER)
            else:
                left = MIB
                while left > 0:
                    left -= len(read(65536))
                write(HELLO_ANSWER)

    if stack == "greendaphne":
        contexts = FileContexts(pem)
        contexts.load()

        def connection(sock: cooperative.socket) -> None:
            transport = handshake(sock, contexts, timeout=10, send_timeout=60)
            try:
                answer(lambda n: transport.recv(n, 60), transport.sendall)
            finally:
                transport.close()
    else:
        from gevent import ssl as cooperative_ssl

        context = cooperative_ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(pem)
        context.set_alpn_protocols(["h2", "http/1.1"])

        def connection(sock: cooperative.socket) -> None:
            sock.settimeout(60)
            tls = context.wrap_socket(sock, server_side=True)
            try:
                answer(tls.recv, tls.sendall)
            finally:
                tls.close()

    def guarded(sock: cooperative.socket) -> None:
        try:
            sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            connection(sock)
        except (OSError, ClientDisconnected):
            sock.close()  # clients close without a close_notify

    print(listener.getsockname()[1], flush=True)
    while True:
        sock, _ = listener.accept()
        gevent.spawn(guarded, sock)


@contextmanager
def running(stack: str, pem: str) -> Iterator[Target]:
    process = subprocess.Popen([sys.executable, __file__, "--serve", stack, "--pem", pem], stdout=subprocess.PIPE, text=True)
    try:
        assert process.stdout is not None
        yield Target(stack, process.pid, int(process.stdout.readline()))
    finally:
        process.kill()
        process.wait()


def client_context() -> ssl.SSLContext:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname = False
    context.verify_mode = ssl.CERT_NONE
    context.set_alpn_protocols(["http/1.1"])
    return context


def connect(target: Target, context: ssl.SSLContext, session: ssl.SSLSession | None = None) -> ssl.SSLSocket:
    plain = socket.create_connection(("127.0.0.1", target.port))
    plain.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    return context.wrap_socket(plain, server_hostname="localhost", session=session)


def receive(tls: ssl.SSLSocket, size: int, buffer: bytearray) -> None:
    while size > 0:
        count = tls.recv_into(buffer)
        if not count:
            raise ConnectionError("the server closed the connection")
        size -= count


def exchange(kind: bytes) -> Callable[[Target, Callable[[], bool]], int]:
    """Ask one connection over and over again."""
    answer = len(MIB_ANSWER if kind == DOWNLOAD else HELLO_ANSWER)
    request = kind * REQUEST_SIZE

    def work(target: Target, running: Callable[[], bool]) -> int:
        done = 0
        buffer = bytearray(65536)
        with connect(target, client_context()) as tls:
            while running():
                tls.sendall(request)
                if kind == UPLOAD:
                    tls.sendall(MIB_ANSWER)
                receive(tls, answer, buffer)
                done += 1
        return done

    return work


def handshakes(*, resumed: bool, version: ssl.TLSVersion) -> Callable[[Target, Callable[[], bool]], int]:
    """Connect over and over again, with one exchange so that the session ticket arrives."""

    def work(target: Target, running: Callable[[], bool]) -> int:
        context = client_context()
        context.minimum_version = context.maximum_version = version
        session = None
        done = 0
        buffer = bytearray(65536)
        while running():
            with connect(target, context, session) as tls:
                tls.sendall(HELLO * REQUEST_SIZE)
                receive(tls, len(HELLO_ANSWER), buffer)
                if resumed:
                    if session is not None and not tls.session_reused:
                        raise RuntimeError(f"{target.name} does not resume sessions")
                    session = tls.session
            done += 1
        return done

    return work


WORKLOADS = {
    "hello": exchange(HELLO),
    "1 MiB down": exchange(DOWNLOAD),
    "1 MiB up": exchange(UPLOAD),
    "TLS 1.3 full": handshakes(resumed=False, version=ssl.TLSVersion.TLSv1_3),
    "TLS 1.3 resumed": handshakes(resumed=True, version=ssl.TLSVersion.TLSv1_3),
    "TLS 1.2 full": handshakes(resumed=False, version=ssl.TLSVersion.TLSv1_2),
    "TLS 1.2 resumed": handshakes(resumed=True, version=ssl.TLSVersion.TLSv1_2),
}


def measure(target: Target, work: Callable[[Target, Callable[[], bool]], int], seconds: float, connections: int) -> float:
    """What was done per CPU-second of the server."""
    counts: list[int] = []
    end = time.monotonic() + seconds

    def client() -> None:
        counts.append(work(target, lambda: time.monotonic() < end))

    threads = [threading.Thread(target=client) for _ in range(connections)]
    before = target.cpu()
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    if len(counts) != connections:
        raise RuntimeError(f"a client of {target.name} failed")
    return sum(counts) / (target.cpu() - before)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seconds", type=float, default=2, help="for each measurement")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--connections", type=int, default=8)
    parser.add_argument("--only", action="append", choices=list(WORKLOADS), help="a workload; may be repeated")
    parser.add_argument("--serve", help=argparse.SUPPRESS)
    parser.add_argument("--pem", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.serve:
        serve(options.serve, options.pem)
    from greendaphne.net.tls.devcert import make_self_signed

    with ExitStack() as stack:
        directory = stack.enter_context(tempfile.TemporaryDirectory())
        pem = os.path.join(directory, "server.pem")
        Path(pem).write_bytes(make_self_signed())
        ours = stack.enter_context(running("greendaphne", pem))
        theirs = stack.enter_context(running("gevent.ssl", pem))
        print(f"{'per CPU-second':18}{ours.name:>14}{theirs.name:>14}{'ratio':>8}")
        for name in options.only or WORKLOADS:
            results = [
                (
                    measure(ours, WORKLOADS[name], options.seconds, options.connections),
                    measure(theirs, WORKLOADS[name], options.seconds, options.connections),
                )
                for _ in range(options.rounds)
            ]
            mine, other = (statistics.median(column) for column in zip(*results, strict=True))
            ratio = statistics.median(one / another for one, another in results)
            print(f"{name:18}{mine:14.0f}{other:14.0f}{ratio:8.2f}", flush=True)
    return 0


if __name__ == "__main__":
    sys.exit(main())
