"""The PROXY protocol, versions 1 and 2: the client's addresses that a load balancer sends at the start of a connection.

https://www.haproxy.org/download/3.0/doc/proxy-protocol.txt is the specification; "section" refers to it.  :class:`ProxyProtocol` reads the
header from an accepted socket, before TLS.  It refuses a connection from an untrusted peer, with a malformed header, or whose header
is late.  It takes exactly the header's bytes from the socket and leaves the rest for TLS or HTTP.

The server never guesses whether a connection has a header (section 5 forbids it): where the endpoint requires one, it must be present.

* With the command LOCAL, the family UNSPEC and ``UNKNOWN`` the connection keeps its own addresses; load balancers send these for health
  checks.
* Of the additional fields (section 2.2), SSL tells whether the client used TLS to the proxy, and CRC32C is verified.  Others are skipped.
"""

from __future__ import annotations

import _socket
import logging
import struct
from collections.abc import Iterator
from functools import cache
from socket import AF_INET, AF_INET6, inet_ntop, inet_pton
from time import monotonic
from typing import Final, NamedTuple

from gevent.socket import wait_read

from ..core.addresses import LOCAL, AddressList
from ..core.message import Address, ClientDisconnected
from ..core.tlsinfo import TLSInfo
from ..core.turns import Turn, events

logger = logging.getLogger("daphne.server")

V1_PREFIX: Final = b"PROXY "
#: The longest header of version 1 with its CRLF, in bytes (section 2.1).
V1_MAX: Final = 107
V2_SIGNATURE: Final = b"\r\n\r\n\x00\r\nQUIT\n"
#: Bytes of signature, version and command, family and transport, and length of the rest.
V2_HEAD: Final = 16
#: The longest part after the head in version 2, in bytes.  Addresses take at most 216; a client certificate
#: (``PP2_SUBTYPE_SSL_CLIENT_CERT``) takes a few thousand.
V2_MAX: Final = 16 * 1024

#: Seconds between two log lines about the same peer.
LOG_INTERVAL: Final = 60.0
#: At most this many peers are logged in that time, one line each.
LOG_PEERS: Final = 100

_LOCAL, _PROXY = 0x20, 0x21
_UNSPEC = 0
#: The length of the addresses in bytes, by the high half of the byte after the command.
_LENGTHS: Final = {0: 0, 1: 12, 2: 36, 3: 216}
_FAMILIES: Final = {1: AF_INET, 2: AF_INET6}
#: The valid low halves: unspecified, stream and datagram.  A proxy that accepts HTTP/3 sends datagram.
_TRANSPORTS: Final = (0, 1, 2)

_TLV_CRC32C, _TLV_SSL = 0x03, 0x20
_SSL_VERSION, _SSL_CIPHER = 0x21, 0x23
#: Names of versions and ciphers are cut after this many bytes, because each is kept as long as the connection.
_SSL_NAME = 64
_CLIENT_SSL = 0x01
#: Bytes of the client's flags and the verification's result.
_SSL_HEAD = 5
_TLV_HEAD = 3
#: At most this many additional fields in one header.  The specification defines ten, and six within SSL.
_TLV_MANY = 64
#: The work of parsing one byte of a header, as a shift: 64 bytes are one unit of :meth:`.core.turns.Turn.spend`.
_WORK_SHIFT = 6


class ProxyError(Exception):
    """A missing or invalid header; the text gives the reason, in words that continue "closed: "."""


class ProxyHeader(NamedTuple):
    """The content of a header: the client's and the server's address (``None`` for UNIX sockets) and the client's TLS to the proxy."""

    client: Address
    server: Address
    tls: TLSInfo | None = None


class ProxyProtocol:
    """Reads PROXY headers from trusted peers.

    :param allowed: the trusted peers; by default :data:`~.addresses.LOCAL`.
    """

    def __init__(self, allowed: AddressList | None = None) -> None:
        self._allowed = AddressList(LOCAL) if allowed is None else allowed
        # The time of the last log line, by peer.
        self._logged: dict[str, float] = {}

    def read(self, reader: HeaderReader, host: str | None) -> ProxyHeader | None:
        """Return the header's content, or ``None`` where the connection keeps its own addresses.

        :param host: the peer's address, ``None`` for a UNIX socket.
        :raises ClientDisconnected: where the caller must close the connection.
        """
        try:
            if host not in self._allowed:
                raise ProxyError("PROXY headers are not taken from it (--proxy-allow-from)")
            return reader.read()
        except ProxyError as error:
            self._log("a UNIX socket" if host is None else host, str(error))
            raise ClientDisconnected from None
        except OSError:
            raise ClientDisconnected from None

    def _log(self, peer: str, text: str) -> None:
        now = monotonic()
        logged = self._logged
        if now - logged.get(peer, -LOG_INTERVAL) < LOG_INTERVAL:
            return
        if len(logged) >= LOG_PEERS:
            self._logged = logged = {name: at for name, at in logged.items() if now - at < LOG_INTERVAL}
            if len(logged) >= LOG_PEERS:
                return
        logged[peer] = now
        logger.warning("Connection from %s closed: %s", peer, text)


class HeaderReader:
    """Reads one header from a connected socket.

    :param sock: made non-blocking here.
    :param versions: the accepted versions of the header.
    :param timeout: seconds for the whole header, from the construction of the reader.
    """

    def __init__(self, sock: _socket.socket, versions: frozenset[int], timeout: float) -> None:
        sock.setblocking(False)
        self._sock = sock
        self._versions = versions
        self._timeout = timeout
        self._deadline = monotonic() + timeout

    def read(self) -> ProxyHeader | None:
        """Take the header from the socket and return its content, or ``None`` where the connection keeps its own addresses.

        :raises ProxyError: for a missing, late or malformed header.
        :raises ClientDisconnected: where the peer left without a byte, such as a load balancer that checks whether the port is open.
        """
        start = self._start()
        if start == V2_SIGNATURE:
            head = start + self._exactly(V2_HEAD - len(start))
            size = int.from_bytes(head[-2:], "big")
            if size > V2_MAX:
                raise ProxyError(f"its PROXY header is longer than {V2_MAX} bytes")
            rest = self._exactly(size)
            # The checksum takes the most time, and many connections may send one at the same time.
            Turn().spend(1 + (size >> _WORK_SHIFT))
            return parse_v2(head + rest)
        return parse_v1(self._line(start))

    def _start(self) -> bytes:
        """The first bytes of a header, as many as every header has."""
        data = b""
        while len(data) < len(V2_SIGNATURE):
            more = self._recv(len(V2_SIGNATURE) - len(data))
            if not more:
                if not data:
                    raise ClientDisconnected
                raise ProxyError("it ended within its PROXY header")
            data += more
            if V2_SIGNATURE.startswith(data):
                version = 2
            elif V1_PREFIX.startswith(data[: len(V1_PREFIX)]):
                version = 1
            else:
                raise ProxyError("it does not begin with a PROXY header")
            if version not in self._versions and len(data) >= len(V1_PREFIX):
                raise ProxyError(f"its PROXY header has version {version}, which this endpoint does not accept")
        return data

    def _exactly(self, size: int) -> bytes:
        data = bytearray()
        while len(data) < size:
            more = self._recv(size - len(data))
            if not more:
                raise ProxyError("it ended within its PROXY header")
            data += more
        return bytes(data)

    def _line(self, line: bytes) -> bytes:
        """The complete line that begins with ``line``, which has no line end yet in a well-formed header."""
        while b"\n" not in line:
            if len(line) >= V1_MAX:
                raise ProxyError(f"its PROXY header is longer than {V1_MAX} bytes")
            # Bytes after the line belong to TLS or HTTP, so the line's end must be found before the bytes are taken.
            seen = self._recv(V1_MAX - len(line), _socket.MSG_PEEK)
            if not seen:
                raise ProxyError("it ended within its PROXY header")
            end = seen.find(b"\n")
            line += self._recv(len(seen) if end < 0 else end + 1)
        return line

    def _recv(self, n: int, flags: int = 0) -> bytes:
        while True:
            try:
                return self._sock.recv(n, flags)
            except BlockingIOError:
                pass
            try:
                wait_read(self._sock.fileno(), max(0.0, self._deadline - monotonic()), TimeoutError)
            except TimeoutError:
                raise ProxyError(f"its PROXY header did not arrive within {self._timeout:g} seconds") from None
            events().wait()


def parse_v1(line: bytes) -> ProxyHeader | None:
    """Return the content of a header of version 1 (section 2.1), or ``None`` for ``UNKNOWN``.

    :param line: the header with its CRLF.
    :raises ProxyError: for a malformed header.
    """
    fields = line.removesuffix(b"\r\n").split(b" ")
    if line.endswith(b"\r\n") and line.count(b"\n") == 1 and len(line) <= V1_MAX and fields[0] == b"PROXY":
        # Section 2.1: the rest of the line after UNKNOWN is ignored.
        if fields[1:2] == [b"UNKNOWN"]:
            return None
        family = {b"TCP4": AF_INET, b"TCP6": AF_INET6}.get(fields[1]) if len(fields) == 6 else None
        if family is not None:
            try:
                hosts = [inet_ntop(family, inet_pton(family, field.decode("ascii"))) for field in fields[2:4]]
                ports = [_port(field) for field in fields[4:]]
            except (OSError, ValueError):
                pass
            else:
                return ProxyHeader([hosts[0], ports[0]], [hosts[1], ports[1]])
    raise ProxyError("its PROXY header is malformed")


def _port(field: bytes) -> int:
    # int() accepts signs, blanks and underscores.
    if not field.isdigit() or len(field) > 5 or (field.startswith(b"0") and field != b"0") or int(field) > 65535:
        raise ValueError
    return int(field)


def parse_v2(data: bytes) -> ProxyHeader | None:
    """Return the content of a header of version 2 (section 2.2), or ``None`` for LOCAL and for an unspecified family.

    :param data: the whole header.
    :raises ProxyError: for a malformed header.
    """
    signature, command, protocol, size = struct.unpack_from("!12sBBH", data) if len(data) >= V2_HEAD else (b"", 0, 0, 0)
    if signature != V2_SIGNATURE or command not in (_LOCAL, _PROXY) or len(data) != V2_HEAD + size:
        raise ProxyError("its PROXY header is malformed")
    if command == _LOCAL:
        return None
    family, transport = protocol >> 4, protocol & 15
    length = _LENGTHS.get(family)
    if length is None or transport not in _TRANSPORTS or size < length:
        raise ProxyError("its PROXY header is malformed")
    tls = None
    checked = False
    for kind, start, value in _tlvs(data, V2_HEAD + length):
        if kind == _TLV_SSL:
            tls = _tls(value)
        elif kind == _TLV_CRC32C:
            # Section 2.2.3.  At most one checksum, because each takes milliseconds on a long header.
            if checked or len(value) != 4 or crc32c(data[:start] + bytes(4) + data[start + 4 :]) != int.from_bytes(value, "big"):
                raise ProxyError("the checksum of its PROXY header is wrong")
            checked = True
    # Where either half is unspecified, both are ignored.
    if _UNSPEC in (family, transport):
        return None
    if family not in _FAMILIES:
        return ProxyHeader(None, None, tls)
    half = (length - 4) // 2
    client, server, client_port, server_port = struct.unpack_from(f"!{half}s{half}sHH", data, V2_HEAD)
    name = _FAMILIES[family]
    return ProxyHeader([inet_ntop(name, client), client_port], [inet_ntop(name, server), server_port], tls)


def _tlvs(data: bytes, position: int) -> Iterator[tuple[int, int, bytes]]:
    """The additional fields from ``position`` on: type, position of the value, value."""
    left = _TLV_MANY
    while position < len(data):
        left -= 1
        if len(data) - position < _TLV_HEAD or left < 0:
            raise ProxyError("its PROXY header is malformed")
        kind, size = struct.unpack_from("!BH", data, position)
        start = position + _TLV_HEAD
        position = start + size
        if position > len(data):
            raise ProxyError("its PROXY header is malformed")
        yield kind, start, data[start:position]


def _tls(value: bytes) -> TLSInfo | None:
    """The content of the SSL field (section 2.2.6), or ``None`` where the client did not use TLS."""
    if len(value) < _SSL_HEAD:
        raise ProxyError("its PROXY header is malformed")
    fields = {kind: field for kind, _, field in _tlvs(value, _SSL_HEAD)}
    if not value[0] & _CLIENT_SSL:
        return None
    version, cipher = (fields.get(kind, b"")[:_SSL_NAME].decode("ascii", "replace") for kind in (_SSL_VERSION, _SSL_CIPHER))
    return TLSInfo(version, cipher)


def crc32c(data: bytes) -> int:
    """The CRC-32C of ``data`` (RFC 3720 appendix B.4)."""
    table = _crc_table()
    crc = 0xFFFFFFFF
    for byte in data:
        crc = table[(crc ^ byte) & 0xFF] ^ (crc >> 8)
    return crc ^ 0xFFFFFFFF


@cache
def _crc_table() -> tuple[int, ...]:
    table = []
    for byte in range(256):
        crc = byte
        for _ in range(8):
            crc = (crc >> 1) ^ (0x82F63B78 if crc & 1 else 0)
        table.append(crc)
    return tuple(table)
