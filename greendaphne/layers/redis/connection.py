"""Connections to a Redis server: redis-py opens them (address, TLS, authentication, database), :class:`Link` then talks.

A link speaks RESP2 on the connected socket by itself: that keeps time limits exact, the cost per reply small and every redis-py from
5 to 8 alike.  In a thread with a gevent hub the sockets are gevent's, whether or not the process is monkey-patched.  A link belongs to
one thread or hub, serves one exchange at a time and is closed after any failure, since the replies would no longer match.
"""

from __future__ import annotations

import inspect
import os
import socket
import ssl
import time
from collections.abc import Mapping
from typing import Any, NamedTuple

import redis.connection
from redis.exceptions import RedisError

from .resp import ErrorReply, Reply, ReplyReader
from .scripts import SCRIPTS, pack
from .streams import SocketStream, Stream, hub_stream


class LinkError(Exception):
    """The connection could not be made, broke or timed out; ``timed_out`` tells a server that does not answer."""

    def __init__(self, text: str, *, timed_out: bool = False) -> None:
        super().__init__(text)
        self.timed_out = timed_out


class Identity(NamedTuple):
    """What a connection learns of its server: ``run_id`` (empty if not told), version, the connection's id (0 if not told)."""

    run_id: bytes
    version: tuple[int, ...]
    client_id: int
    #: Whether the server is a replica that refuses writes.
    read_only: bool


class _CooperativeTCP(redis.connection.Connection):
    """TCP on a gevent socket."""

    def _connect(self) -> Any:
        from gevent import socket as gevent_socket

        sock = gevent_socket.create_connection((self.host, self.port), self.socket_connect_timeout)
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        if self.socket_keepalive:
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
            for option, value in self.socket_keepalive_options.items():
                sock.setsockopt(socket.IPPROTO_TCP, option, value)
        return sock


class _CooperativeTLS(redis.connection.SSLConnection):
    """TLS on a gevent socket, under redis-py's options."""

    def _connect(self) -> Any:
        from gevent.ssl import SSLContext

        if self.ssl_validate_ocsp or self.ssl_validate_ocsp_stapled:
            raise RedisError("OCSP validation is not available in a gevent hub")
        context = SSLContext(ssl.PROTOCOL_TLS_CLIENT)
        context.check_hostname = self.check_hostname
        context.verify_mode = self.cert_reqs
        for flag in getattr(self, "ssl_include_verify_flags", None) or ():
            context.verify_flags |= flag
        for flag in getattr(self, "ssl_exclude_verify_flags", None) or ():
            context.verify_flags &= ~flag
        if self.certfile or self.keyfile:
            context.load_cert_chain(certfile=self.certfile, keyfile=self.keyfile, password=self.certificate_password)
        if self.ca_certs is not None or self.ca_path is not None or self.ca_data is not None:
            context.load_verify_locations(cafile=self.ca_certs, capath=self.ca_path, cadata=self.ca_data)
        else:
            context.load_default_certs()
        if getattr(self, "ssl_min_version", None) is not None:
            context.minimum_version = self.ssl_min_version
        if getattr(self, "ssl_ciphers", None):
            context.set_ciphers(self.ssl_ciphers)
        sock = _CooperativeTCP._connect(self)  # type: ignore[arg-type]  # only its attributes are used
        try:
            return context.wrap_socket(sock, server_hostname=self.host)
        except BaseException:
            sock.close()
            raise


class _CooperativeUnix(redis.connection.UnixDomainSocketConnection):
    """A UNIX socket of gevent's."""

    def _connect(self) -> Any:
        from gevent import socket as gevent_socket

        sock = gevent_socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        try:
            sock.settimeout(self.socket_connect_timeout)
            sock.connect(self.path)
        except BaseException:
            sock.close()
            raise
        return sock


_COOPERATIVE: Mapping[type[Any], type[Any]] = {
    redis.connection.Connection: _CooperativeTCP,
    redis.connection.SSLConnection: _CooperativeTLS,
    redis.connection.UnixDomainSocketConnection: _CooperativeUnix,
}

#: Options of redis-py's clients and pools that have no meaning for a single connection, or that the layer decides on.
_FOREIGN_OPTIONS = frozenset(
    [
        "charset",
        "connection_class",
        "connection_pool",
        "decode_responses",
        "encoding",
        "encoding_errors",
        "errors",
        "health_check_interval",
        "legacy_responses",
        "max_connections",
        "parser_class",
        "protocol",
        "retry",
        "retry_on_error",
        "retry_on_timeout",
        "single_connection_client",
        "timeout",
    ]
)

#: redis-py names itself to the server after connecting, in two exchanges; this turns it off, under the name its version knows.
_ANONYMOUS: dict[str, Any] = (
    {"driver_info": None}
    if "driver_info" in inspect.signature(redis.connection.AbstractConnection.__init__).parameters
    else {"lib_name": None, "lib_version": None}
)


class Target(NamedTuple):
    """Where and how to connect."""

    kind: type[Any]
    options: dict[str, Any]
    #: Shows in logs; never holds a password.
    name: str

    def new_connection(self, cooperative: bool) -> Any:
        """A redis-py connection, not yet connected.

        :raises TypeError: for options that redis-py does not know.
        """
        return (_COOPERATIVE[self.kind] if cooperative else self.kind)(**self.options, **_ANONYMOUS, protocol=2)


def make_target(options: Mapping[str, Any], kind: type[Any] | None = None) -> Target:
    """The target described by redis-py's connection ``options``; ``kind`` is redis-py's class, by default for TCP."""
    options = {name: value for name, value in options.items() if name not in _FOREIGN_OPTIONS}
    kind = kind or redis.connection.Connection
    if issubclass(kind, redis.connection.UnixDomainSocketConnection):
        for name in ("host", "port", "socket_keepalive", "socket_keepalive_options", "socket_type"):
            options.pop(name, None)
        return Target(kind, options, str(options.get("path", "")))
    host = str(options.get("host", "localhost"))
    return Target(kind, options, f"{f'[{host}]' if ':' in host else host}:{options.get('port', 6379)}")


def parse_host(url: str, options: Mapping[str, Any]) -> Target:
    """The target of ``url`` (``redis://``, ``rediss://`` or ``unix://``), whose own options win over ``options``.

    :raises ValueError: for anything else.
    """
    found: dict[str, Any] = redis.connection.parse_url(url)  # type: ignore[no-untyped-call]
    kind = found.pop("connection_class", None)
    return make_target({**options, **found}, kind)


class Link:
    """One open connection.  All waits are bounded by ``timeout`` seconds, or by what a call states."""

    __slots__ = ("__weakref__", "_reader", "_stream", "identity", "opened", "timeout")

    def __init__(self, target: Target, *, cooperative: bool, timeout: float, marker: str, name: str) -> None:
        """Connect and identify.

        :param marker: a key to look for, which shows whether the server has its data at hand.
        :param name: what ``CLIENT LIST`` shows.
        :raises LinkError: when no connection comes about.
        :raises ErrorReply: when the server is not ready to serve, or refuses the credentials.
        """
        self.timeout = timeout
        #: When it was opened, by the monotonic clock.
        self.opened = time.monotonic()
        self._stream = _connect(target, cooperative, timeout)
        self._reader = ReplyReader(self._stream.recv)
        try:
            self.identity = self._identify(marker, name)
        except BaseException:
            self.close()
            raise

    def _identify(self, marker: str, name: str) -> Identity:
        questions = [
            pack("EXISTS", marker),
            pack("INFO", "server"),
            pack("INFO", "replication"),
            pack("CLIENT", "ID"),
            pack("CLIENT", "SETNAME", name),
            *(script.load for script in SCRIPTS),
        ]
        ready, server, replication, client_id, *_ = self.exchange(b"".join(questions), len(questions))
        if isinstance(ready, ErrorReply) and ready.code != "NOPERM":
            raise ready
        facts: dict[bytes, bytes] = {}
        for section in (server, replication):
            if isinstance(section, bytes):
                facts.update(line.split(b":", 1) for line in section.split(b"\r\n") if b":" in line)  # type: ignore[misc]
        version = facts.get(b"redis_version", b"0").split(b".")
        return Identity(
            run_id=facts.get(b"run_id", b""),
            version=tuple(int(part) for part in version if part.isdigit()),
            client_id=client_id if isinstance(client_id, int) else 0,
            read_only=facts.get(b"role") == b"slave" and facts.get(b"slave_read_only", b"1") != b"0",
        )

    def exchange(self, data: bytes, replies: int) -> list[Reply]:
        """Send packed commands and return their replies, errors among them."""
        self.send(data)
        return [self.read() for _ in range(replies)]

    def send(self, data: bytes) -> None:
        """Send packed commands."""
        try:
            self._stream.sendall(data)
        except TimeoutError:
            raise LinkError("Timeout writing to socket", timed_out=True) from None
        except OSError as error:
            raise LinkError(f"Error writing to socket: {error}") from None

    def read(self, timeout: float | None = None) -> Reply:
        """Return one reply; waits at most ``timeout`` seconds for each part of it."""
        try:
            return self._reader.read(self.timeout if timeout is None else timeout)
        except TimeoutError:
            raise LinkError("Timeout reading from socket", timed_out=True) from None
        except (OSError, EOFError, ValueError) as error:
            raise LinkError(f"Error reading from socket: {error}") from None

    def fileno(self) -> int:
        """The socket's descriptor, to wait on."""
        return self._stream.fileno()

    def is_stale(self) -> bool:
        """Whether this idle connection is at its end, or out of step; found without a round trip."""
        return self._stream.is_stale()

    def interrupt(self) -> None:
        """End the connection, also while a greenlet waits on it; from any thread.  The owner still has to close it."""
        try:
            # A socket object of its own: the owner's may be a TLS one in the middle of a read.
            with socket.socket(fileno=os.dup(self._stream.fileno())) as sock:
                sock.shutdown(socket.SHUT_RDWR)
        except (OSError, ValueError):
            pass

    def close(self) -> None:
        """Close the connection; may be repeated."""
        self._stream.close()

    def abandon(self) -> None:
        """Close the connection although the hub that its socket belongs to is gone."""
        self.interrupt()
        self._stream.abandon()


def _connect(target: Target, cooperative: bool, timeout: float) -> Stream:
    """A stream on a new connection, with the authentication and the database of ``target`` behind it."""
    connection = target.new_connection(cooperative)
    try:
        connection.connect()
        own_stream = cooperative and not issubclass(target.kind, redis.connection.SSLConnection)
        stream = hub_stream(connection._sock, timeout) if own_stream else SocketStream(connection._sock, timeout)
        # What is left of redis-py's connection must not close it.
        connection._sock = None
        return stream
    except redis.exceptions.TimeoutError as error:
        raise LinkError(str(error), timed_out=True) from None
    except (RedisError, OSError) as error:
        raise LinkError(str(error)) from None
    finally:
        connection.disconnect()
