"""TLS with real peers: OpenSSL's s_client, Python's ssl, curl; over an echo server in a thread with its own hub."""

from __future__ import annotations

import gc
import logging
import os
import queue
import socket
import ssl
import struct
import subprocess
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import gevent
import pytest
from gevent import get_hub
from OpenSSL import SSL

from greendaphne.core.message import ClientDisconnected
from greendaphne.net import batch
from greendaphne.net.tls import Contexts, FileContexts, HandshakeFailed, HandshakeTimeout, PlainHTTP, TLSError, TLSOptions, TLSTransport
from greendaphne.net.tls.transport import _MODE_AUTO_RETRY
from tests.support.certificates import Authority
from tests.support.tls import (
    MIB,
    PATIENCE,
    EchoServer,
    MemoryClient,
    client_context,
    connect,
    exchange,
    loaded,
    pump,
    read,
    read_to_end,
    s_client,
    s_client_pipes,
    s_client_talk,
    skip_a_second,
)


@pytest.fixture(scope="session")
def authority(tmp_path_factory: pytest.TempPathFactory) -> Authority:
    return Authority.make(tmp_path_factory.mktemp("authority"))


@pytest.fixture(scope="session")
def stranger(tmp_path_factory: pytest.TempPathFactory) -> Authority:
    """An authority that nobody trusts."""
    return Authority.make(tmp_path_factory.mktemp("stranger"), "Stranger")


@pytest.fixture(scope="session")
def server_pem(authority: Authority, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return authority.server("localhost", "127.0.0.1").write(tmp_path_factory.mktemp("server") / "server.pem")


@pytest.fixture
def certificates(server_pem: Path) -> Contexts:
    return loaded(FileContexts(str(server_pem)))


@pytest.fixture
def echo_server(certificates: Contexts) -> Iterator[EchoServer]:
    with EchoServer(certificates) as server:
        yield server


# Handshakes


@pytest.mark.parametrize("version", [ssl.TLSVersion.TLSv1_2, ssl.TLSVersion.TLSv1_3])
def test_versions(echo_server: EchoServer, authority: Authority, version: ssl.TLSVersion) -> None:
    with connect(echo_server, client_context(authority, version=version)) as tls:
        assert exchange(tls) == b"ping"
        transport = echo_server.accepted.get(timeout=PATIENCE)
        assert transport.info.version == tls.version() == version.name.replace("_", ".")
        assert (transport.info.cipher, transport.server_name, transport.alpn) == (tls.cipher()[0], "localhost", "")  # type: ignore[index]
        assert tls.compression() is None


@pytest.mark.parametrize("option", ["-tls1", "-tls1_1"])
def test_old_versions_are_refused(echo_server: EchoServer, option: str) -> None:
    # Security level 0 has the client offer them at all.
    output = s_client(echo_server, option, "-cipher", "ALL:@SECLEVEL=0")
    assert "alert protocol version" in output, output
    assert isinstance(echo_server.ended.get(timeout=PATIENCE), HandshakeFailed)


def test_weak_ciphers_are_refused(echo_server: EchoServer) -> None:
    output = s_client(echo_server, "-tls1_2", "-cipher", "AES128-SHA:ECDHE-ECDSA-AES128-SHA:@SECLEVEL=0")
    assert "handshake failure" in output, output


def test_the_server_prefers_its_own_order(echo_server: EchoServer) -> None:
    output = s_client(echo_server, "-tls1_2", "-cipher", "ECDHE-ECDSA-AES256-GCM-SHA384:ECDHE-ECDSA-AES128-GCM-SHA256")
    assert "Cipher is ECDHE-ECDSA-AES128-GCM-SHA256" in output, output


def test_renegotiation_is_refused(echo_server: EchoServer) -> None:
    output = s_client(echo_server, "-tls1_2", data=b"R\n")
    assert "no renegotiation" in output, output


@pytest.mark.parametrize(
    ("offered", "configured", "chosen"),
    [
        (("http/1.1", "h2"), ("h2", "http/1.1"), "h2"),
        (("http/1.1",), ("h2", "http/1.1"), "http/1.1"),
        (("http/1.0",), ("h2", "http/1.1"), "http/1.0"),
        (("h2", "http/1.1"), ("http/1.1",), "http/1.1"),
        ((), ("h2", "http/1.1"), None),
        (("h2",), (), None),
    ],
)
def test_alpn(server_pem: Path, authority: Authority, offered: tuple[str, ...], configured: tuple[str, ...], chosen: str | None) -> None:
    certificates = loaded(FileContexts(str(server_pem), options=TLSOptions(alpn=configured)))
    with EchoServer(certificates) as server, connect(server, client_context(authority, alpn=offered)) as tls:
        assert tls.selected_alpn_protocol() == chosen
        assert server.accepted.get(timeout=PATIENCE).alpn == (chosen or "")


def test_a_long_list_of_protocols_is_fatal(echo_server: EchoServer, authority: Authority) -> None:
    """pyOpenSSL takes tens of milliseconds to split 64 KiB of short names, so they are refused before."""
    with pytest.raises(ssl.SSLError, match=r"(?i)no.application.protocol"):
        connect(echo_server, client_context(authority, alpn=tuple(f"p{number}" for number in range(400))))
    with connect(echo_server, client_context(authority, alpn=(*(f"p{number}" for number in range(100)), "h2"))) as tls:
        assert tls.selected_alpn_protocol() == "h2"


def test_alpn_without_overlap_is_fatal(echo_server: EchoServer, authority: Authority) -> None:
    with pytest.raises(ssl.SSLError, match=r"(?i)no.application.protocol"):
        connect(echo_server, client_context(authority, alpn=("spdy/3", "ftp")))
    assert isinstance(echo_server.ended.get(timeout=PATIENCE), HandshakeFailed)
    # Nothing of that failure is left in OpenSSL's error queue for the next connection.
    with connect(echo_server, client_context(authority, alpn=("h2",))) as tls:
        assert exchange(tls) == b"ping"


@pytest.mark.parametrize("arguments", [("-tls1_2",), ("-tls1_2", "-no_ticket"), ("-tls1_3",)], ids=["1.2 ticket", "1.2 id", "1.3"])
def test_sessions_are_resumed(echo_server: EchoServer, tmp_path: Path, arguments: tuple[str, ...]) -> None:
    session = tmp_path / "session"
    # With TLS 1.3 the ticket comes with the first data: the echo must be back before the client leaves.
    first = s_client_talk(echo_server, *arguments, "-sess_out", str(session))
    assert "New, TLSv1" in first, first
    second = s_client_talk(echo_server, *arguments, "-sess_in", str(session))
    assert "Reused, TLSv1" in second, second


def test_sessions_are_resumed_after_a_reload(authority: Authority, tmp_path: Path) -> None:
    path = authority.server("localhost").write(tmp_path / "server.pem")
    certificates = loaded(FileContexts(str(path)))
    context = client_context(authority, version=ssl.TLSVersion.TLSv1_3)
    with EchoServer(certificates) as server:
        with connect(server, context) as tls:
            exchange(tls)
            session = tls.session
        authority.server("localhost").write(path)
        skip_a_second(certificates)
        with connect(server, context, session=session) as tls:
            assert tls.session_reused


def test_ticket_keys_are_replaced(echo_server: EchoServer, certificates: Contexts, authority: Authority) -> None:
    context = client_context(authority, version=ssl.TLSVersion.TLSv1_3)
    with connect(echo_server, context) as tls:
        exchange(tls)
        session = tls.session
    with connect(echo_server, context, session=session) as tls:
        assert tls.session_reused
    certificates._front_expires = 0.0
    skip_a_second(certificates)
    with connect(echo_server, context, session=session) as tls:
        assert not tls.session_reused
        assert exchange(tls) == b"ping"


def test_curl(echo_server: EchoServer, server_pem: Path, authority: Authority) -> None:
    def hello(transport: TLSTransport) -> None:
        request = b""
        while b"\r\n\r\n" not in request:
            request += transport.recv(4096, PATIENCE)
        transport.sendall(b"HTTP/1.1 200 OK\r\nConnection: close\r\n\r\nhello over " + transport.alpn.encode())
        transport.close()

    with EchoServer(loaded(FileContexts(str(server_pem), options=TLSOptions(alpn=("http/1.1",)))), hello) as server:
        result = subprocess.run(
            ["curl", "-sS", "--cacert", str(authority.file), f"https://127.0.0.1:{server.port}/"],
            capture_output=True,
            timeout=PATIENCE,
            check=False,
        )
    assert (result.stdout, result.stderr) == (b"hello over http/1.1", b"")


# Handshakes that fail


@pytest.mark.parametrize("request_line", [b"GET / HTTP/1.1\r\n", b"DELETE /x HTTP/1.1\r\n", b"PRI * HTTP/2.0\r\n", b"p"])
def test_plain_http_gets_a_400(echo_server: EchoServer, request_line: bytes) -> None:
    with echo_server.connect() as sock:
        sock.sendall(request_line + b"Host: localhost\r\n\r\n")
        sock.shutdown(socket.SHUT_WR)
        answer = b""
        while chunk := sock.recv(4096):
            answer += chunk
    head, _, body = answer.partition(b"\r\n\r\n")
    assert head.startswith(b"HTTP/1.1 400 Bad Request\r\n")
    assert b"Content-Length: %d" % len(body) in head
    assert b"Connection: close" in head
    assert b"This port speaks https" in body
    assert isinstance(echo_server.ended.get(timeout=PATIENCE), PlainHTTP)


def test_a_large_plain_request_still_reads_the_answer(echo_server: EchoServer) -> None:
    # Closed at once, the unread request would make the kernel reset the connection and the answer might be lost.
    with echo_server.connect() as sock:
        sock.sendall(b"POST / HTTP/1.1\r\n\r\n" + b"x" * MIB)
        answer = b""
        while chunk := sock.recv(4096):
            answer += chunk
    assert answer.endswith(b"https://.\n")


@pytest.mark.parametrize("first", [b"", b"\x16", b"\x16\x03\x01"])
def test_a_silent_client_is_dropped(certificates: Contexts, first: bytes) -> None:
    with EchoServer(certificates, timeout=0.05) as server, server.connect() as sock:
        sock.sendall(first)
        assert isinstance(server.ended.get(timeout=PATIENCE), HandshakeTimeout)
        assert is_gone(sock)


def is_gone(sock: socket.socket) -> bool:
    """Whether the server closed or reset the connection without a word."""
    try:
        return sock.recv(1) == b""
    except ConnectionResetError:
        return True


def test_a_drip_does_not_extend_the_time_limit(certificates: Contexts) -> None:
    hello = client_hello()
    with EchoServer(certificates, timeout=0.3) as server, server.connect() as sock:
        sock.settimeout(0.1)
        sent = 0
        # All of it takes many times the limit.
        while server.ended.empty() and sent < len(hello) - 1:
            try:
                sock.send(hello[sent : sent + 1])
                sent += 1
                sock.recv(1)
            except TimeoutError:
                continue
            except OSError:
                break
        assert isinstance(server.ended.get(timeout=PATIENCE), HandshakeTimeout)
        assert sent < len(hello) - 1


def client_hello() -> bytes:
    """What a TLS client says first."""
    outgoing = ssl.MemoryBIO()
    client = ssl.create_default_context().wrap_bio(ssl.MemoryBIO(), outgoing, server_hostname="localhost")
    with pytest.raises(ssl.SSLWantReadError):
        client.do_handshake()
    return outgoing.read()


@pytest.mark.parametrize(
    "garbage", [b"\x00" * 100, b"\x80\x2e\x01\x00\x02" + b"\x00" * 50, b"\x16\x03\x01\xff\xff" + b"x" * 100, bytes(range(128, 256))]
)
def test_garbage(echo_server: EchoServer, garbage: bytes, caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.DEBUG, logger="greendaphne.net.tls"), echo_server.connect() as sock:
        sock.sendall(garbage)
        with suppress(OSError):
            sock.shutdown(socket.SHUT_WR)
        assert isinstance(echo_server.ended.get(timeout=PATIENCE), HandshakeFailed)
    lines = [record.getMessage() for record in caplog.records]
    assert len(lines) == 1, lines
    assert lines[0].startswith(f"TLS handshake with 127.0.0.1:{sock_port(sock, lines[0])} failed: ")
    assert all(record.levelno == logging.DEBUG and record.exc_info is None for record in caplog.records)


def sock_port(sock: socket.socket, line: str) -> str:
    return line.split(":", 1)[1].split(" ", 1)[0]


def test_a_client_that_leaves_in_mid_handshake(echo_server: EchoServer, authority: Authority) -> None:
    hello = client_hello()
    for size in (0, 1, 5, 100, len(hello)):
        with echo_server.connect() as sock:
            sock.sendall(hello[:size])
        assert isinstance(echo_server.ended.get(timeout=PATIENCE), HandshakeFailed)
        with echo_server.connect() as sock:
            sock.sendall(hello[:size])
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        assert isinstance(echo_server.ended.get(timeout=PATIENCE), HandshakeFailed)
    with connect(echo_server, client_context(authority)) as tls:
        assert exchange(tls) == b"ping"


def test_a_client_that_distrusts_the_certificate(echo_server: EchoServer, stranger: Authority, authority: Authority) -> None:
    with pytest.raises(ssl.SSLCertVerificationError):
        connect(echo_server, client_context(stranger))
    # With TLS 1.3 the client's alert comes behind its Finished or in place of it.
    assert isinstance(echo_server.ended.get(timeout=PATIENCE), ClientDisconnected)
    with connect(echo_server, client_context(authority)) as tls:
        assert exchange(tls) == b"ping"


# Client certificates


@contextmanager
def verifying(server_pem: Path, authority: Authority, verify: str | None) -> Iterator[EchoServer]:
    def show(transport: TLSTransport) -> None:
        certificate = transport.peer_certificate()
        transport.sendall(b"nobody" if certificate is None else certificate.subject.rfc4514_string().encode())
        transport.close()

    options = TLSOptions(client_ca=str(authority.file), verify=verify)
    with EchoServer(loaded(FileContexts(str(server_pem), options=options)), show) as server:
        yield server


def with_client_certificate(context: ssl.SSLContext, authority: Authority, directory: Path) -> ssl.SSLContext:
    context.load_cert_chain(str(authority.client("alice").write(directory / "client.pem")))
    return context


@pytest.mark.parametrize("verify", [None, "require", "optional"])
@pytest.mark.parametrize("version", [ssl.TLSVersion.TLSv1_2, ssl.TLSVersion.TLSv1_3])
def test_client_certificate(server_pem: Path, authority: Authority, tmp_path: Path, verify: str | None, version: ssl.TLSVersion) -> None:
    context = with_client_certificate(client_context(authority, version=version), authority, tmp_path)
    with verifying(server_pem, authority, verify) as server:
        with connect(server, context) as tls:
            assert tls.recv(100) == b"CN=alice"
            session = tls.session
        with connect(server, context, session=session) as tls:
            assert tls.recv(100) == b"CN=alice"
            assert tls.session_reused


@pytest.mark.parametrize("verify", ["require", "optional", "none"])
@pytest.mark.parametrize("version", [ssl.TLSVersion.TLSv1_2, ssl.TLSVersion.TLSv1_3])
def test_missing_client_certificate(server_pem: Path, authority: Authority, verify: str, version: ssl.TLSVersion) -> None:
    with verifying(server_pem, authority, verify) as server:
        if verify != "require":
            with connect(server, client_context(authority, version=version)) as tls:
                assert tls.recv(100) == b"nobody"
            return
        with (
            pytest.raises(ssl.SSLError, match=r"(?i)certificate.required|handshake.failure"),
            connect(server, client_context(authority, version=version)) as tls,
        ):
            tls.recv(100)
        assert isinstance(server.ended.get(timeout=PATIENCE), HandshakeFailed)


@pytest.mark.parametrize("verify", ["require", "optional"])
def test_a_strangers_client_certificate(server_pem: Path, authority: Authority, stranger: Authority, tmp_path: Path, verify: str) -> None:
    context = with_client_certificate(client_context(authority), stranger, tmp_path)
    with verifying(server_pem, authority, verify) as server:
        with pytest.raises(ssl.SSLError, match=r"(?i)unknown.ca"), connect(server, context) as tls:
            tls.recv(100)
        assert isinstance(server.ended.get(timeout=PATIENCE), HandshakeFailed)


def test_the_authorities_are_named_to_the_client(server_pem: Path, authority: Authority) -> None:
    with verifying(server_pem, authority, "optional") as server:
        output = s_client(server)
    assert "Acceptable client certificate CA names\nCN = Test Root" in output, output


@pytest.mark.parametrize(
    ("options", "text"),
    [
        ({"verify": "sometimes"}, "none, optional or require"),
        ({"verify": "require"}, "--tls-client-ca"),
        ({"verify": "optional"}, "--tls-client-ca"),
        ({"alpn": ("h2", "")}, "ALPN"),
        ({"alpn": ("x" * 256,)}, "ALPN"),
    ],
)
def test_bad_options(options: dict[str, Any], text: str) -> None:
    with pytest.raises(TLSError, match=text):
        TLSOptions(**options)


# The stream


def test_both_directions_at_once(certificates: Contexts, authority: Authority) -> None:
    """1 MiB each way, several times, one greenlet reading while another writes, through socket buffers that are always full."""
    size = 4 * MIB
    outgoing = os.urandom(size)
    incoming = os.urandom(size)
    received = bytearray()

    def serve(transport: TLSTransport) -> None:
        def write() -> None:
            view = memoryview(outgoing)
            # Pieces of all sizes, on both sides of the record and of the piece size.
            position, step = 0, 1
            while position < size:
                transport.sendall(view[position : position + step])
                position += step
                step = step * 3 % 200_003 + 1

        writer = gevent.spawn(write)
        while len(received) < size:
            received.extend(transport.recv(30_000, PATIENCE))
        writer.get()
        assert transport.recv(1, PATIENCE) == b""
        transport.close()

    with EchoServer(certificates, serve) as server, connect(server, client_context(authority)) as tls:
        assert pump(tls, incoming, size) == outgoing
        tls.unwrap().close()
        assert server.ended.get(timeout=PATIENCE) is None
        assert received == incoming


def test_a_key_update_while_a_write_is_blocked(certificates: Contexts) -> None:
    """A client that hardly reads asks for new keys: the answer waits for the record that is half sent, and nothing is lost.

    Only one: OpenSSL itself gives a connection up where a second request comes before it could answer the first (SSL_R_BAD_LENGTH).
    """
    payload = os.urandom(4 * MIB).hex().encode()
    blocked = threading.Event()

    def serve(transport: TLSTransport) -> None:
        assert transport.recv(100, PATIENCE) == b"go\n"
        writer = gevent.spawn(transport.sendall, payload)
        while not transport._stalled:
            gevent.sleep(0.001)
        blocked.set()
        assert transport.recv(100, PATIENCE) == b"done\n"
        writer.get()
        transport.sendall(b"!")
        transport.close()

    with EchoServer(certificates, serve) as server, s_client_pipes(server, "-tls1_3", "-quiet", "-no_ign_eof") as (write, read_some):
        write(b"go\n")
        assert blocked.wait(PATIENCE)
        write(b"K\n")
        received = b""
        while len(received) < len(payload):
            received += read_some()
        write(b"done\n")
        while chunk := read_some():
            received += chunk
        assert received == payload + b"!"
        assert server.ended.get(timeout=PATIENCE) is None


def test_reads_return_after_each_message_without_data(certificates: Contexts, authority: Authority) -> None:
    modes: list[int] = []

    def serve(transport: TLSTransport) -> None:
        library: Any = vars(SSL)["_lib"]
        # This returns all modes.
        modes.append(library.SSL_set_mode(vars(transport._connection)["_ssl"], 0))
        transport.close()

    with EchoServer(certificates, serve) as server, connect(server, client_context(authority)) as tls:
        assert tls.recv(1) == b""
    assert [mode & _MODE_AUTO_RETRY for mode in modes] == [0]


def test_large_records_arrive_whole(echo_server: EchoServer, authority: Authority) -> None:
    with connect(echo_server, client_context(authority)) as tls:
        for size in (1, 16383, 16384, 16385, 65535, 65536, 65537, 300_000):
            data = os.urandom(size)
            assert pump(tls, data, size) == data


def test_empty_writes(certificates: Contexts, authority: Authority) -> None:
    def serve(transport: TLSTransport) -> None:
        transport.sendall(b"")
        transport.sendall(memoryview(b""))
        transport.sendall(bytearray(b"x"))
        transport.close()

    with EchoServer(certificates, serve) as server, connect(server, client_context(authority)) as tls:
        assert tls.recv(10) == b"x"


def test_closing_sends_close_notify(certificates: Contexts, authority: Authority) -> None:
    with EchoServer(certificates, lambda transport: transport.close()) as server, connect(server, client_context(authority)) as tls:
        # Without close_notify this would be an SSLEOFError.
        assert tls.recv(1) == b""


def test_close_notify_waits_for_a_full_socket(certificates: Contexts, authority: Authority) -> None:
    """A response that only the close ends must not look cut off because the socket was full at that moment."""
    filled: queue.Queue[int] = queue.Queue()

    def serve(transport: TLSTransport) -> None:
        transport.sendall(b"all of it")
        # Bytes that are no TLS, until the socket takes no more: OpenSSL knows nothing of them, and the client takes them out again.
        count = 0
        try:
            while True:
                count += transport._sock.send(b"\0" * 65536)
        except BlockingIOError:
            filled.put(count)
        transport.shutdown_write()
        transport.close()

    with EchoServer(certificates, serve) as server, server.connect() as sock:
        client = MemoryClient(client_context(authority), sock)
        padding = filled.get(timeout=PATIENCE)
        raw = b""
        while chunk := sock.recv(MIB):
            raw += chunk
        assert raw.count(bytes(padding)) == 1
        client.incoming.write(raw.replace(bytes(padding), b""))
        assert client.tls.read(100) == b"all of it"
        assert client.tls.read(1) == b""
        assert server.ended.get(timeout=PATIENCE) is None


def test_closing_does_not_wait_for_a_full_socket(certificates: Contexts, authority: Authority) -> None:
    def serve(transport: TLSTransport) -> None:
        with suppress(BlockingIOError):
            while True:
                transport._sock.send(b"\0" * 65536)
        transport.close()

    with EchoServer(certificates, serve) as server, server.connect() as sock:
        MemoryClient(client_context(authority), sock)
        assert server.ended.get(timeout=PATIENCE) is None


def test_shutdown_write_leaves_the_reading_side(certificates: Contexts, authority: Authority) -> None:
    received: queue.Queue[bytes] = queue.Queue()

    def serve(transport: TLSTransport) -> None:
        transport.sendall(b"bye")
        transport.shutdown_write()
        transport.shutdown_write()
        received.put(transport.recv(100, PATIENCE))

    with EchoServer(certificates, serve) as server, connect(server, client_context(authority)) as tls:
        assert tls.recv(3) == b"bye"
        assert tls.recv(1) == b""
        tls.sendall(b"still here")
        assert received.get(timeout=PATIENCE) == b"still here"


def test_shutdown_read_wakes_the_reader(certificates: Contexts, authority: Authority) -> None:
    received: queue.Queue[bytes] = queue.Queue()

    def serve(transport: TLSTransport) -> None:
        received.put(transport.recv(100, PATIENCE))
        transport.sendall(b"the last word")
        transport.close()

    with EchoServer(certificates, serve) as server, connect(server, client_context(authority)) as tls:
        transport = server.accepted.get(timeout=PATIENCE)
        server.call(transport.shutdown_read)
        assert received.get(timeout=PATIENCE) == b""
        assert read(tls, 13) == b"the last word"
        assert tls.recv(1) == b""


def test_truncation_is_a_broken_connection(echo_server: EchoServer, authority: Authority) -> None:
    with connect(echo_server, client_context(authority)) as tls:
        assert exchange(tls) == b"ping"
        # A FIN without close_notify, as an attacker can forge it.
        tls.shutdown(socket.SHUT_RDWR)
        assert isinstance(echo_server.ended.get(timeout=PATIENCE), ClientDisconnected)


def test_a_tampered_record_is_a_broken_connection(echo_server: EchoServer, authority: Authority) -> None:
    with echo_server.connect() as sock:
        client = MemoryClient(client_context(authority), sock)
        client.tls.write(b"some data")
        record = bytearray(client.outgoing.read())
        record[-1] ^= 1
        sock.sendall(record)
        assert isinstance(echo_server.ended.get(timeout=PATIENCE), ClientDisconnected)


def test_a_close_notify_is_the_end(certificates: Contexts, authority: Authority) -> None:
    with EchoServer(certificates) as server, connect(server, client_context(authority)) as tls:
        assert exchange(tls) == b"ping"
        tls.unwrap().close()
        assert server.ended.get(timeout=PATIENCE) is None


def test_abort_is_no_end(certificates: Contexts, authority: Authority) -> None:
    def serve(transport: TLSTransport) -> None:
        transport.sendall(b"half")
        transport.recv(1, PATIENCE)
        transport.abort()
        transport.abort()
        transport.close()

    with EchoServer(certificates, serve) as server, connect(server, client_context(authority)) as tls:
        assert read(tls, 4) == b"half"
        tls.sendall(b"x")
        with pytest.raises((ConnectionResetError, ssl.SSLEOFError)):
            tls.recv(1)


def test_reading_times_out_and_goes_on(certificates: Contexts, authority: Authority) -> None:
    into: queue.Queue[object] = queue.Queue()

    def serve(transport: TLSTransport) -> None:
        waits: list[Callable[[], object]] = [lambda: transport.recv(10, 0.01), lambda: transport.wait_readable(0.01)]
        polls: list[Callable[[], object]] = [lambda: transport.recv(10, 0)]
        for wait in (*waits, *polls, *waits, *polls):
            with pytest.raises(TimeoutError):
                wait()
        into.put("timed out")
        transport.wait_readable(PATIENCE)
        assert transport.recv(2, PATIENCE) == b"on"
        # What OpenSSL has decrypted already is readable, though the socket is not.
        transport.wait_readable(0)
        assert transport.recv(2, PATIENCE) == b"e "
        transport.wait_readable(None)
        assert transport.recv(10, None) == b"record"
        transport.close()
        for use in (lambda: transport.recv(1, 1), lambda: transport.wait_readable(1), lambda: transport.sendall(b"x")):
            with pytest.raises(ClientDisconnected):
                use()

    with EchoServer(certificates, serve) as server, connect(server, client_context(authority)) as tls:
        assert into.get(timeout=PATIENCE) == "timed out"
        tls.sendall(b"one record")
        assert tls.recv(1) == b""
        assert server.ended.get(timeout=PATIENCE) is None


def test_a_drip_of_records_without_data_does_not_extend_a_read(certificates: Contexts) -> None:
    def serve(transport: TLSTransport) -> None:
        assert transport.recv(100, PATIENCE) == b"go\n"
        transport.sendall(b"!")
        transport.recv(100, 0.3)

    with EchoServer(certificates, serve) as server, s_client_pipes(server, "-tls1_3", "-quiet", "-no_ign_eof") as (write, read_some):
        write(b"go\n")
        assert read_some() == b"!"
        while server.ended.empty():
            try:
                write(b"k\n")
            except BrokenPipeError:
                break
            time.sleep(0.02)
        assert isinstance(server.ended.get(timeout=PATIENCE), TimeoutError)


def test_a_client_that_does_not_read_is_dropped(certificates: Contexts, authority: Authority) -> None:
    def serve(transport: TLSTransport) -> None:
        while True:
            transport.sendall(b"x" * MIB)

    with EchoServer(certificates, serve, send_timeout=0.1) as server, connect(server, client_context(authority)) as tls:
        assert isinstance(server.ended.get(timeout=PATIENCE), ClientDisconnected)
        with pytest.raises((ConnectionResetError, ssl.SSLEOFError)):
            read_to_end(tls)


def test_a_writer_torn_out_of_its_wait_breaks_the_connection(certificates: Contexts, authority: Authority) -> None:
    def serve(transport: TLSTransport) -> None:
        with pytest.raises(gevent.Timeout), gevent.Timeout(0.05):
            transport.sendall(b"x" * 64 * MIB)
        with pytest.raises(ClientDisconnected):
            transport.sendall(b"y")
        transport.close()

    with EchoServer(certificates, serve) as server, connect(server, client_context(authority)) as tls:
        assert server.ended.get(timeout=PATIENCE) is None
        # What is cut off must not look complete: no close_notify.
        with pytest.raises((ConnectionResetError, ssl.SSLEOFError)):
            read_to_end(tls)


def test_two_writers_are_an_error(certificates: Contexts, authority: Authority) -> None:
    refused = threading.Event()

    def serve(transport: TLSTransport) -> None:
        first = gevent.spawn(transport.sendall, b"x" * 16 * MIB)
        gevent.sleep(0)
        with pytest.raises(gevent.exceptions.ConcurrentObjectUseError):
            transport.sendall(b"y")
        refused.set()
        first.get()
        transport.close()

    with EchoServer(certificates, serve) as server, connect(server, client_context(authority)) as tls:
        # A client that reads might take everything before the second writer comes.
        assert refused.wait(PATIENCE)
        assert read_to_end(tls) == b"x" * 16 * MIB
        assert server.ended.get(timeout=PATIENCE) is None


def test_closing_wakes_a_reader(certificates: Contexts, authority: Authority) -> None:
    def serve(transport: TLSTransport) -> None:
        reader = gevent.spawn(transport.recv, 1, PATIENCE)
        gevent.sleep(0)
        transport.close()
        with pytest.raises(ClientDisconnected):
            reader.get()

    with EchoServer(certificates, serve) as server, connect(server, client_context(authority)) as tls:
        assert tls.recv(1) == b""
        assert server.ended.get(timeout=PATIENCE) is None


def test_connections_are_released(certificates: Contexts, authority: Authority) -> None:
    """Whether they succeeded, failed or were refused: nothing keeps an ended connection, not even until the next collection."""

    def alive() -> int:
        return sum(isinstance(thing, SSL.Connection) for thing in gc.get_objects())

    gc.collect()
    before = alive()
    gc.disable()
    try:
        with EchoServer(certificates) as server:
            for _ in range(5):
                with connect(server, client_context(authority, alpn=("h2",))) as tls:
                    assert exchange(tls) == b"ping"
                with pytest.raises(ssl.SSLError):
                    connect(server, client_context(authority, alpn=("ftp",)))
                with server.connect() as sock:
                    sock.sendall(b"\x16\x03\x01\xff\xff")
            for _ in range(15):
                server.ended.get(timeout=PATIENCE)
            while not server.accepted.empty():
                server.accepted.get()
        assert alive() == before
    finally:
        gc.enable()


@pytest.mark.parametrize("end", ["close", "shutdown_write"])
def test_what_is_put_off_leaves_before_the_close_notify(certificates: Contexts, authority: Authority, end: str) -> None:
    def serve(transport: TLSTransport) -> None:
        transport.batch = batch.current()
        transport.recv(4, PATIENCE)
        get_hub().loop.run_callback(lambda: None)
        transport.sendall(b"one, ")
        assert transport.offer(b"two, ")
        gevent.sleep(0)
        get_hub().loop.run_callback(lambda: None)
        transport.sendall(b"three")
        getattr(transport, end)()

    with EchoServer(certificates, serve) as server, connect(server, client_context(authority)) as client:
        client.sendall(b"ping")
        data = b""
        while more := client.recv(100):
            data += more
        assert data == b"one, two, three"
        assert server.ended.get(timeout=PATIENCE) is None
