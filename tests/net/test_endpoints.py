"""Endpoint strings and the sockets that they open, on the real network stack and file system."""

from __future__ import annotations

import errno
import fcntl
import os
import pwd
import socket
import stat
import struct
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from greendaphne.net import endpoints
from greendaphne.net.endpoints import (
    Endpoint,
    EndpointError,
    FDEndpoint,
    Kind,
    ListeningOptions,
    Parameter,
    SystemdEndpoint,
    TCPEndpoint,
    UNIXEndpoint,
    WrappingEndpoint,
    grammar,
)

Bind = Callable[[str], Any]


@pytest.fixture
def bind() -> Iterator[Bind]:
    """Binds endpoints and closes them after the test."""
    opened: list[tuple[Endpoint, Any]] = []

    def do(description: str) -> Any:
        endpoint = endpoints.parse(description)
        opened.append((endpoint, endpoint.bind()))
        return opened[-1][1]

    yield do
    for endpoint, sock in opened:
        endpoint.close(sock)


def check_listens(sock: Any) -> None:
    """The properties that every bound socket has, and a connection to it."""
    assert sock.getsockopt(socket.SOL_SOCKET, socket.SO_ACCEPTCONN) == 1
    assert not os.get_inheritable(sock.fileno())
    assert not os.get_blocking(sock.fileno())
    with socket.socket(sock.family, socket.SOCK_STREAM) as client:
        client.settimeout(5)
        address = sock.getsockname()
        if sock.family == socket.AF_INET6 and address[0] == "::":
            address = ("::1", *address[1:])
        client.connect(address)


# --- Grammar ---


@pytest.mark.parametrize(
    ("description", "fields"),
    [
        ("", [(None, "")]),
        ("tcp", [(None, "tcp")]),
        ("tcp:80", [(None, "tcp"), (None, "80")]),
        ("tcp:port=80", [(None, "tcp"), ("port", "80")]),
        ("a:b=c=d", [(None, "a"), ("b", "c=d")]),
        (r"a:b\:c:d\=e:f\\g", [(None, "a"), (None, "b:c"), (None, "d=e"), (None, "f\\g")]),
        (r"a:b\=c=d", [(None, "a"), ("b=c", "d")]),
        (r"\t:\=", [(None, "t"), (None, "=")]),
        ("a::=", [(None, "a"), (None, ""), ("", "")]),
    ],
)
def test_split(description: str, fields: list[tuple[str | None, str]]) -> None:
    assert [(field.name, field.value) for field in endpoints.split(description)] == fields
    assert ":".join(field.raw for field in endpoints.split(description)) == description


def test_split_refuses_an_open_quotation() -> None:
    with pytest.raises(EndpointError, match="ends with a backslash"):
        endpoints.split("tcp:80\\")


names = st.text(min_size=1)


@given(st.lists(st.one_of(st.text(), st.tuples(names, st.text())), min_size=1))
def test_quoting_round_trip(fields: list[str | tuple[str, str]]) -> None:
    written = [endpoints.quote(field) if isinstance(field, str) else "=".join(map(endpoints.quote, field)) for field in fields]
    expected = [(None, field) if isinstance(field, str) else field for field in fields]
    assert [(field.name, field.value) for field in endpoints.split(":".join(written))] == expected


@given(st.text(alphabet=":=\\tcpunix6fd0123456789 ", max_size=30))
def test_any_text_gives_an_endpoint_or_one_line(description: str) -> None:
    try:
        outcome = str(endpoints.parse(description))
    except EndpointError as error:
        outcome = str(error).replace(repr(description), description)
    assert "\n" not in outcome
    assert description in outcome


# --- Arguments ---


def attributes(endpoint: Endpoint) -> dict[str, Any]:
    return {name: value for name, value in vars(endpoint).items() if name not in ("description", "options") and not name.startswith("_")}


DEFAULT_TCP = {"port": 80, "interface": "", "backlog": None, "family": socket.AF_UNSPEC, "v6only": False, "reuse_port": None}
DEFAULT_UNIX = {"address": "/run/x", "mode": 0o666, "backlog": None, "user": None, "group": None, "abstract": False}


@pytest.mark.parametrize(
    ("description", "kind", "expected"),
    [
        ("tcp:80", TCPEndpoint, DEFAULT_TCP),
        ("tcp:port=80", TCPEndpoint, DEFAULT_TCP),
        ("port=80:tcp", TCPEndpoint, DEFAULT_TCP),
        ("tcp:80:127.0.0.1:10", TCPEndpoint, DEFAULT_TCP | {"interface": "127.0.0.1", "backlog": 10}),
        ("tcp:80:backlog=10:interface=127.0.0.1", TCPEndpoint, DEFAULT_TCP | {"interface": "127.0.0.1", "backlog": 10}),
        ("tcp:port=1:port=80", TCPEndpoint, DEFAULT_TCP),
        (r"tcp:80:interface=\:\:1", TCPEndpoint, DEFAULT_TCP | {"interface": "::1"}),
        (r"tcp:80:interface=[\:\:1]", TCPEndpoint, DEFAULT_TCP | {"interface": "::1"}),
        ("tcp6:80", TCPEndpoint, DEFAULT_TCP | {"interface": "::", "family": socket.AF_INET6}),
        ("tcp6:80:10", TCPEndpoint, DEFAULT_TCP | {"interface": "::", "family": socket.AF_INET6, "backlog": 10}),
        (r"tcp6:80:10:\:\:1", TCPEndpoint, DEFAULT_TCP | {"interface": "::1", "family": socket.AF_INET6, "backlog": 10}),
        ("unix:/run/x", UNIXEndpoint, DEFAULT_UNIX),
        ("unix:/run/x:660", UNIXEndpoint, DEFAULT_UNIX | {"mode": 0o660}),
        ("unix:address=/run/x:mode=0600:backlog=3:lockfile=0", UNIXEndpoint, DEFAULT_UNIX | {"mode": 0o600, "backlog": 3}),
        (r"unix:/run/a\:b\=c", UNIXEndpoint, DEFAULT_UNIX | {"address": "/run/a:b=c"}),
        (r"tcp:80:interface=\:\::v6only=yes", TCPEndpoint, DEFAULT_TCP | {"interface": "::", "v6only": True}),
        ("tcp:80:reusePort=1:v6only=0", TCPEndpoint, DEFAULT_TCP | {"reuse_port": True}),
        ("tcp:80:reuse_port=yes:reusePort=no", TCPEndpoint, DEFAULT_TCP | {"reuse_port": False}),
        (
            "tcp6:80:reuse_port=yes:v6only=yes",
            TCPEndpoint,
            DEFAULT_TCP | {"interface": "::", "family": socket.AF_INET6, "reuse_port": True, "v6only": True},
        ),
        ("unix:/run/x:user=root:group=12", UNIXEndpoint, DEFAULT_UNIX | {"user": 0, "group": 12}),
        ("unix:@x", UNIXEndpoint, DEFAULT_UNIX | {"address": "@x", "abstract": True}),
        ("systemd:INET:0", SystemdEndpoint, {"domain": "INET", "index": 0, "name": None}),
        ("systemd:domain=AF_INET6:name=web", SystemdEndpoint, {"domain": "INET6", "index": None, "name": "web"}),
        ("fd:3", FDEndpoint, {"fileno": 3}),
        ("fd:fileno=0", FDEndpoint, {"fileno": 0}),
        ("fd:3:AF_INET6", FDEndpoint, {"fileno": 3}),
        ("fd:3:domain=INET", FDEndpoint, {"fileno": 3}),
    ],
)
def test_arguments(description: str, kind: type[Endpoint], expected: dict[str, Any]) -> None:
    endpoint = endpoints.parse(description)
    assert type(endpoint) is kind
    assert attributes(endpoint) == expected
    assert str(endpoint) == description
    assert endpoint.tls is None
    assert endpoint.proxy_protocol == frozenset()


TCP_USAGE = "it is written tcp:PORT[:interface=…][:backlog=…][:v6only=…][:reusePort=…]"


@pytest.mark.parametrize(
    ("description", "message"),
    [
        ("", "Unknown endpoint kind '' in ''; known kinds: "),
        ("imap:", "Unknown endpoint kind 'imap' in 'imap:'; known kinds: "),
        ("TCP:80", "Unknown endpoint kind 'TCP' in 'TCP:80'; known kinds: "),
        ("port=80", "Unknown endpoint kind '' in 'port=80'; known kinds: "),
        ("tcp", f"Endpoint 'tcp' lacks port; {TCP_USAGE}."),
        ("tcp:", "Endpoint 'tcp:': port must be a number from 0 to 65535, not ''."),
        ("tcp:http", "Endpoint 'tcp:http': port must be a number from 0 to 65535, not 'http'."),
        ("tcp:65536", "Endpoint 'tcp:65536': port must be a number from 0 to 65535, not '65536'."),
        ("tcp:-1", "Endpoint 'tcp:-1': port must be a number from 0 to 65535, not '-1'."),
        ("tcp:80:backlog=0", "Endpoint 'tcp:80:backlog=0': backlog must be a number from 1 to 2147483647, not '0'."),
        ("tcp:80:port=80", "Endpoint 'tcp:80:port=80' gives port twice."),
        (
            "tcp:80::1:x",
            f"Endpoint 'tcp:80::1:x' has too many arguments; {TCP_USAGE}.",
        ),
        ("tcp:80:Interface=x", "Endpoint 'tcp:80:Interface=x' has an unknown argument 'Interface'; it is written tcp:PORT"),
        ("unix:", "Endpoint 'unix:': address must be a path, not ''."),
        ("unix:/x:mode=888", "Endpoint 'unix:/x:mode=888': mode must be a file mode in octal digits, such as 660, not '888'."),
        ("unix:/x:mode=6_6", "Endpoint 'unix:/x:mode=6_6': mode must be a file mode in octal digits, such as 660, not '6_6'."),
        ("unix:/x:mode=7777", "Endpoint 'unix:/x:mode=7777': mode must be a file mode in octal digits, such as 660, not '7777'."),
        ("unix:/x:lockfile=x", "Endpoint 'unix:/x:lockfile=x': lockfile must be yes or no, not 'x'."),
        ("tcp:80::50:yes", f"Endpoint 'tcp:80::50:yes' has too many arguments; {TCP_USAGE}."),
        ("tcp:80:v6only=maybe", "Endpoint 'tcp:80:v6only=maybe': v6only must be yes or no, not 'maybe'."),
        (
            "unix:/x:user=no-such-user",
            "Endpoint 'unix:/x:user=no-such-user': user must be the name or number of a user of this machine, not",
        ),
        (
            "unix:/x:group=4294967295",
            "Endpoint 'unix:/x:group=4294967295': group must be the name or number of a group of this machine, not",
        ),
        ("unix:@x:mode=600", "Endpoint 'unix:@x:mode=600': an abstract socket has no file whose mode, user or group could be set."),
        ("unix:@x:group=0", "Endpoint 'unix:@x:group=0': an abstract socket has no file whose mode, user or group could be set."),
        ("systemd:", "Endpoint 'systemd:': domain must be INET, INET6, UNIX, not ''."),
        ("systemd:domain=INET", "Endpoint 'systemd:domain=INET' needs either index or name, which selects one of systemd's sockets."),
        ("systemd:domain=INET:index=0:name=x", "Endpoint 'systemd:domain=INET:index=0:name=x' needs either index or name, "),
        ("systemd:domain=INET:index=-1", "Endpoint 'systemd:domain=INET:index=-1': index must be a number from 0 to 2147483647, not '-1'."),
        ("haproxy", "Unknown endpoint kind '' in ''; known kinds: "),
        ("haproxy:haproxy:tcp:80", "Endpoint 'haproxy:haproxy:tcp:80' asks for two PROXY headers."),
        ("fd:", "Endpoint 'fd:': fileno must be a number from 0 to 2147483647, not ''."),
        ("fd:-1", "Endpoint 'fd:-1': fileno must be a number from 0 to 2147483647, not '-1'."),
    ],
)
def test_refused(description: str, message: str) -> None:
    with pytest.raises(EndpointError) as caught:
        endpoints.parse(description)
    assert str(caught.value).startswith(message)
    assert "\n" not in str(caught.value)


def test_unknown_kinds_name_the_known_ones() -> None:
    with pytest.raises(EndpointError) as caught:
        endpoints.parse("autobahn:tcp\\:9000")
    listed = str(caught.value).partition("known kinds: ")[2].rstrip(".").split(", ")
    assert listed == endpoints.known_kinds()
    assert {"fd", "tcp", "tcp6", "unix"} <= set(listed)


def test_every_provided_kind_is_registered_by_its_module() -> None:
    for kind in endpoints.PROVIDERS:
        with pytest.raises(EndpointError) as caught:
            endpoints.parse(f"{kind}:no-such-argument=1")
        assert "Unknown endpoint kind" not in str(caught.value)


# --- PROXY headers and what holds for all endpoints ---


@pytest.mark.parametrize(
    ("description", "versions"),
    [
        ("tcp:80", {2}),
        ("haproxy:tcp:80", {1, 2}),
        ("haproxy:unix:/x", {1, 2}),
        ("haproxy:fd:3", {1, 2}),
        ("haproxy:systemd:domain=INET:index=0", {1, 2}),
        ("haproxy:ssl:443", {1, 2}),
        ("haproxy:txsni:/x:tcp:443", {1, 2}),
        ("txsni:/x:haproxy:tcp:443", {1, 2}),
        ("txsni:/x:tcp:443", {2}),
    ],
)
def test_proxy_protocol(description: str, versions: set[int]) -> None:
    endpoint = endpoints.parse(description)
    assert endpoint.proxy_protocol == (versions if "haproxy" in description else set())
    endpoint.configure(ListeningOptions(proxy_protocol=endpoints.PROXY_PROTOCOL["v2"]))
    assert endpoint.proxy_protocol == versions
    assert (endpoint.tls is None) == (description.count("ssl:") + description.count("txsni:") == 0)


def backlog(sock: Any) -> int:
    """Of a listening TCP socket, as the kernel tells it in the place of ``tcpi_sacked``."""
    return int(struct.unpack_from("I", sock.getsockopt(socket.IPPROTO_TCP, socket.TCP_INFO, 104), 28)[0])


@pytest.mark.parametrize(("suffix", "expected"), [("", 7), (":backlog=9", 9)])
def test_backlog(suffix: str, expected: int) -> None:
    endpoint = endpoints.parse(f"haproxy:tcp:0:interface=127.0.0.1{suffix}")
    endpoint.configure(ListeningOptions(backlog=7))
    sock = endpoint.bind()
    try:
        assert backlog(sock) == expected
    finally:
        endpoint.close(sock)


def test_reuse_port() -> None:
    first, second = endpoints.parse("tcp:0:interface=127.0.0.1"), endpoints.parse("tcp:0:interface=127.0.0.1:reuse_port=yes")
    first.configure(ListeningOptions(reuse_port=True))
    sock = first.bind()
    second = endpoints.parse(f"tcp:{sock.getsockname()[1]}:interface=127.0.0.1:reuse_port=yes")
    other = second.bind()
    check_listens(other)
    with pytest.raises(EndpointError, match="Address already in use"):
        endpoints.parse(f"tcp:{sock.getsockname()[1]}:interface=127.0.0.1").bind()
    first.close(sock)
    second.close(other)


# --- Sockets from a parent process of one's own kind ---


def test_inherited_sockets_are_used_whatever_the_kind(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("greendaphne.net.endpoints.descriptors._inherited", {})
    twice = ["haproxy:tcp:0:interface=127.0.0.1", "haproxy:tcp:0:interface=127.0.0.1"]
    descriptions = [*twice, "tcp:0:interface=127.0.0.1", f"unix:{tmp_path}/x", "fd:999999"]
    opened = [socket.create_server(("127.0.0.1", 0)) for _ in range(5)]
    numbers = [sock.fileno() for sock in opened]
    names = [sock.detach() and name for sock, name in [(sock, sock.getsockname()) for sock in opened]]
    endpoints.inherit({twice[0]: numbers[:2], **{text: [number] for text, number in zip(descriptions[2:], numbers[2:], strict=True)}})
    # Reading the strings more than once changes nothing.
    made = [endpoints.parse(description) for description in descriptions * 2][: len(descriptions)]
    sockets = [endpoint.bind() for endpoint in made]
    assert [sock.fileno() for sock in sockets] == numbers
    assert [sock.getsockname() for sock in sockets] == names
    assert all(endpoint.shared for endpoint in made)
    for endpoint, sock in zip(made, sockets, strict=True):
        check_listens(sock)
        endpoint.close(sock)
    # None is left.
    again = endpoints.parse(twice[0])
    sock = again.bind()
    assert not again.shared
    again.close(sock)


def test_inherited_socket_that_is_none(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("greendaphne.net.endpoints.descriptors._inherited", {})
    number = closed_number()
    endpoints.inherit({"tcp:80": [number]})
    with pytest.raises(EndpointError) as caught:
        endpoints.parse("tcp:80").bind()
    assert str(caught.value) == f"Couldn't listen on tcp:80 (inherited as fd {number}): it is not open."


# --- Kinds of other modules ---


class Labelled(WrappingEndpoint):
    def __init__(self, description: str, inner: Endpoint, label: str, weight: int) -> None:
        super().__init__(description, inner)
        self.label = label
        self.weight = weight
        self.proxy_protocol = endpoints.PROXY_PROTOCOL["v2"]


@pytest.fixture
def labelled(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(endpoints, "_kinds", dict(endpoints._kinds))
    parameters = (Parameter("label"), Parameter("totalWeight", endpoints.file_number, 1, "weight"))
    endpoints.register(Kind("labelled", parameters, Labelled, wraps=True))


@pytest.mark.usefixtures("labelled")
@pytest.mark.parametrize(
    ("description", "label", "weight", "inner"),
    [
        ("labelled:x:tcp:80", "x", 1, "tcp:80"),
        (r"labelled:a\:b:tcp:80:interface=\:\:1", "a:b", 1, r"tcp:80:interface=\:\:1"),
        ("labelled:label=x:tcp:80", "x", 1, "tcp:80"),
        ("labelled:x:tcp:80:totalWeight=7", "x", 7, "tcp:80"),
        ("totalWeight=7:labelled:x:tcp:port=80", "x", 7, "tcp:port=80"),
        ("labelled:x:labelled:y:tcp:80", "x", 1, "labelled:y:tcp:80"),
    ],
)
def test_wrapping(description: str, label: str, weight: int, inner: str) -> None:
    endpoint = endpoints.parse(description)
    assert isinstance(endpoint, Labelled)
    assert (endpoint.label, endpoint.weight, str(endpoint.inner), str(endpoint)) == (label, weight, inner, description)
    assert endpoint.proxy_protocol == {2}


@pytest.mark.usefixtures("labelled")
@pytest.mark.parametrize(
    ("description", "message"),
    [
        ("labelled", "Endpoint 'labelled' lacks label; it is written labelled:LABEL[:totalWeight=…]:ENDPOINT."),
        ("labelled:x", "Unknown endpoint kind '' in ''"),
        ("labelled:x:imap:", "Unknown endpoint kind 'imap' in 'imap:'"),
        ("labelled:x:tcp:80:foo=1", "Endpoint 'tcp:80:foo=1' has an unknown argument 'foo'"),
        ("labelled:x:tcp:80:totalWeight=x", "Endpoint 'labelled:x:tcp:80:totalWeight=x': totalWeight must be a number"),
    ],
)
def test_wrapping_refused(description: str, message: str) -> None:
    with pytest.raises(EndpointError) as caught:
        endpoints.parse(description)
    assert str(caught.value).startswith(message)


@pytest.mark.usefixtures("labelled")
def test_wrapping_listens_where_the_inner_endpoint_does(bind: Bind, tmp_path: Path) -> None:
    check_listens(bind(f"labelled:x:unix:{tmp_path}/x"))
    assert (tmp_path / "x").is_socket()


# --- TCP ---


@pytest.mark.parametrize(
    ("description", "family", "address"),
    [
        ("tcp:0:interface=127.0.0.1", socket.AF_INET, "127.0.0.1"),
        ("tcp:0:interface=localhost", socket.AF_INET, "127.0.0.1"),
        (r"tcp:0:interface=\:\:1", socket.AF_INET6, "::1"),
        (r"tcp:0:interface=[\:\:1]", socket.AF_INET6, "::1"),
        (r"tcp6:0:interface=\:\:1", socket.AF_INET6, "::1"),
    ],
)
def test_tcp(bind: Bind, description: str, family: int, address: str) -> None:
    sock = bind(description)
    assert sock.family == family
    assert sock.getsockname()[0] == address
    assert sock.getsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR)
    check_listens(sock)


def test_no_interface_is_every_ipv4_address() -> None:
    family, address = TCPEndpoint("", 0)._resolve()
    assert (family, address) == (socket.AF_INET, ("0.0.0.0", 0))


@pytest.mark.parametrize("description", ["tcp6:0", r"tcp:0:interface=\:\:"])
def test_unspecified_ipv6_address_takes_ipv4_too(bind: Bind, description: str) -> None:
    sock = bind(description)
    assert sock.getsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY) == 0
    with socket.create_connection(("127.0.0.1", sock.getsockname()[1]), timeout=5):
        check_listens(sock)


@pytest.mark.parametrize("description", ["tcp6:0:v6only=yes", r"tcp:0:interface=\:\::v6only=yes"])
def test_ipv6_alone(bind: Bind, description: str) -> None:
    sock = bind(description)
    assert sock.getsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY) == 1
    check_listens(sock)
    # The port is free for IPv4.
    bind(f"tcp:{sock.getsockname()[1]}:interface=127.0.0.1")


def test_bind_failure_is_worded_as_daphne_worded_it(bind: Bind) -> None:
    port = bind("tcp:0:interface=127.0.0.1").getsockname()[1]
    with pytest.raises(EndpointError) as caught:
        bind(f"tcp:{port}:interface=127.0.0.1")
    assert str(caught.value) == f"Couldn't listen on 127.0.0.1:{port}: [Errno 98] Address already in use; another program listens there."


def test_bind_failure_brackets_ipv6(bind: Bind) -> None:
    port = bind(r"tcp:0:interface=\:\:1").getsockname()[1]
    with pytest.raises(EndpointError) as caught:
        bind(rf"tcp6:{port}:interface=\:\:1")
    assert str(caught.value) == f"Couldn't listen on [::1]:{port}: [Errno 98] Address already in use; another program listens there."


@pytest.mark.parametrize(
    ("description", "message"),
    [
        (
            "tcp:0:interface=192.0.2.1",
            "Couldn't listen on 192.0.2.1:0: [Errno 99] Cannot assign requested address; no interface has this address.",
        ),
        ("tcp:0:v6only=yes", "Couldn't listen on any:0: v6only is for IPv6 addresses."),
        ("tcp:0:interface=a..b", "Couldn't listen on a..b:0: not a host name."),
        ("tcp6:0:interface=127.0.0.1", "Couldn't listen on 127.0.0.1:0: [Errno -9] Address family for hostname not supported."),
    ],
)
def test_tcp_refused(bind: Bind, description: str, message: str) -> None:
    with pytest.raises(EndpointError) as caught:
        bind(description)
    assert str(caught.value) == message


def test_several_at_once(bind: Bind, tmp_path: Path) -> None:
    for sock in [bind("tcp:0:interface=127.0.0.1"), bind(r"tcp6:0:interface=\:\:1"), bind(f"unix:{tmp_path}/x")]:
        check_listens(sock)


# --- UNIX sockets ---


@pytest.mark.parametrize(("suffix", "mode"), [("", 0o666), (":mode=600", 0o600), (":660", 0o660), (":mode=0o640", 0o640)])
def test_unix_mode_does_not_depend_on_the_umask(bind: Bind, tmp_path: Path, suffix: str, mode: int) -> None:
    before = os.umask(0o077)
    try:
        sock = bind(f"unix:{tmp_path}/x{suffix}")
    finally:
        os.umask(before)
    assert stat.S_IMODE(os.stat(tmp_path / "x").st_mode) == mode
    check_listens(sock)


def test_unix_permissions_are_never_more_than_asked_for(tmp_path: Path) -> None:
    endpoint = endpoints.parse(f"unix:{tmp_path}/x:mode=640")
    assert isinstance(endpoint, UNIXEndpoint)
    modes = []
    listen = endpoint._listen

    def look(sock: Any) -> None:
        modes.append(stat.S_IMODE(os.stat(tmp_path / "x").st_mode))
        listen(sock)

    endpoint._listen = look  # type: ignore[method-assign]
    before = os.umask(0)
    try:
        sock = endpoint.bind()
    finally:
        os.umask(before)
    endpoint.close(sock)
    assert modes == [0o640]


def test_unix_permissions_are_not_given_to_what_replaces_the_socket(bind: Bind, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    other = tmp_path / "other"
    other.touch(0o600)
    look = os.fstat

    def replace(descriptor: int) -> os.stat_result:
        status = look(descriptor)
        if stat.S_ISSOCK(status.st_mode) and not (tmp_path / "x").is_symlink():
            (tmp_path / "x").unlink()
            (tmp_path / "x").symlink_to(other)
        return status

    monkeypatch.setattr(os, "fstat", replace)
    before = os.umask(0o077)
    try:
        bind(f"unix:{tmp_path}/x:mode=640")
    finally:
        os.umask(before)
    assert (tmp_path / "x").is_symlink()
    assert stat.S_IMODE(other.stat().st_mode) == 0o600


def test_unix_owner(bind: Bind, tmp_path: Path) -> None:
    name = pwd.getpwuid(os.getuid()).pw_name
    check_listens(bind(f"unix:{tmp_path}/x:user={name}:group={os.getgid()}"))
    status = os.stat(tmp_path / "x")
    assert (status.st_uid, status.st_gid) == (os.getuid(), os.getgid())


def test_unix_owner_that_only_root_may_set(bind: Bind, tmp_path: Path) -> None:
    if os.getuid() == 0:
        check_listens(bind(f"unix:{tmp_path}/x:user=4711:group=4712:mode=660"))
        status = os.stat(tmp_path / "x")
        assert (status.st_uid, status.st_gid, stat.S_IMODE(status.st_mode)) == (4711, 4712, 0o660)
    else:
        with pytest.raises(EndpointError) as caught:
            bind(f"unix:{tmp_path}/x:user=4711:group=4712")
        reason = "only root may give the socket to user 4711 and group 4712, or a member to a group"
        assert str(caught.value) == f"Couldn't listen on {tmp_path}/x: {reason}."
        assert list(tmp_path.iterdir()) == []


def test_unix_socket_that_cannot_be_given_away_is_removed(bind: Bind, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*args: object, **options: object) -> None:
        raise PermissionError(errno.EPERM, "Operation not permitted")

    monkeypatch.setattr(os, "chown", refuse)
    with pytest.raises(EndpointError) as caught:
        bind(f"unix:{tmp_path}/x:user=0")
    assert str(caught.value) == f"Couldn't listen on {tmp_path}/x: only root may give the socket to user 0, or a member to a group."
    assert list(tmp_path.iterdir()) == []


def test_abstract_socket(bind: Bind, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    name = f"greendaphne-{os.getpid()}"
    sock = bind(f"unix:@{name}")
    assert sock.getsockname() == b"\0" + name.encode()
    check_listens(sock)
    assert list(tmp_path.iterdir()) == []
    with pytest.raises(EndpointError) as caught:
        bind(f"unix:@{name}")
    assert str(caught.value) == f"Couldn't listen on @{name}: [Errno 98] Address already in use; another program listens there."


def test_unix_socket_is_removed_at_close_and_nothing_else_left(tmp_path: Path) -> None:
    endpoint = endpoints.parse(f"unix:{tmp_path}/x")
    endpoint.close(endpoint.bind())
    assert list(tmp_path.iterdir()) == []


def test_unix_relative_path(bind: Bind, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    check_listens(bind("unix:x"))


def leave_stale_socket(path: Path) -> None:
    with socket.socket(socket.AF_UNIX) as sock:
        sock.bind(str(path))
        sock.listen()


def test_socket_of_a_dead_process_is_replaced(bind: Bind, tmp_path: Path) -> None:
    leave_stale_socket(tmp_path / "x")
    check_listens(bind(f"unix:{tmp_path}/x"))


def test_socket_in_use_is_left_alone(bind: Bind, tmp_path: Path) -> None:
    check_listens(bind(f"unix:{tmp_path}/x"))
    inode = os.stat(tmp_path / "x").st_ino
    with pytest.raises(EndpointError) as caught:
        bind(f"unix:{tmp_path}/x")
    assert str(caught.value) == f"Couldn't listen on {tmp_path}/x: [Errno 98] Address already in use; another program listens there."
    assert os.stat(tmp_path / "x").st_ino == inode


def test_socket_whose_queue_is_full_counts_as_in_use(bind: Bind, tmp_path: Path) -> None:
    busy = bind(f"unix:{tmp_path}/x:backlog=1")
    clients = []
    try:
        while True:
            client = socket.socket(socket.AF_UNIX)
            clients.append(client)
            client.setblocking(False)
            client.connect(busy.getsockname())
    except BlockingIOError:
        pass
    try:
        with pytest.raises(EndpointError, match="Address already in use"):
            bind(f"unix:{tmp_path}/x")
    finally:
        for client in clients:
            client.close()


@pytest.mark.parametrize(
    "make", [Path.touch, Path.mkdir, os.mkfifo, lambda path: path.symlink_to("nowhere")], ids=["file", "dir", "fifo", "link"]
)
def test_file_that_is_no_socket_is_left_alone(bind: Bind, tmp_path: Path, make: Callable[[Path], None]) -> None:
    make(tmp_path / "x")
    before = os.lstat(tmp_path / "x")
    with pytest.raises(EndpointError) as caught:
        bind(f"unix:{tmp_path}/x")
    assert str(caught.value) == f"Couldn't listen on {tmp_path}/x: a file that is not a socket is there."
    assert os.lstat(tmp_path / "x").st_ino == before.st_ino


def test_close_leaves_a_successors_socket_alone(tmp_path: Path) -> None:
    first, second = endpoints.parse(f"unix:{tmp_path}/x"), endpoints.parse(f"unix:{tmp_path}/x")
    sock = first.bind()
    os.unlink(tmp_path / "x")
    successor = second.bind()
    first.close(sock)
    check_listens(successor)
    second.close(successor)
    assert list(tmp_path.iterdir()) == []


def test_close_in_a_forked_process_leaves_the_socket_alone(tmp_path: Path) -> None:
    endpoint = endpoints.parse(f"unix:{tmp_path}/x")
    sock = endpoint.bind()
    assert isinstance(endpoint, UNIXEndpoint)
    assert endpoint._bound is not None
    device, inode, process = endpoint._bound
    endpoint._bound = (device, inode, process + 1)
    endpoint.close(sock)
    assert (tmp_path / "x").is_socket()


def test_close_after_the_directory_is_gone(tmp_path: Path) -> None:
    (tmp_path / "d").mkdir()
    endpoint = endpoints.parse(f"unix:{tmp_path}/d/x")
    sock = endpoint.bind()
    os.unlink(tmp_path / "d" / "x")
    os.rmdir(tmp_path / "d")
    endpoint.close(sock)


@pytest.mark.parametrize(
    ("name", "reason"),
    [("d/x", "[Errno 2] No such file or directory: '{}/d'"), ("x" * 108, "AF_UNIX path too long")],
)
def test_unix_refused(bind: Bind, tmp_path: Path, name: str, reason: str) -> None:
    with pytest.raises(EndpointError) as caught:
        bind(f"unix:{tmp_path}/{name}")
    assert str(caught.value) == f"Couldn't listen on {tmp_path}/{name}: {reason.format(tmp_path)}."


def test_foreign_lock_file_is_left_alone(bind: Bind, tmp_path: Path) -> None:
    (tmp_path / "x.lock").symlink_to("12345")
    check_listens(bind(f"unix:{tmp_path}/x"))
    assert os.readlink(tmp_path / "x.lock") == "12345"


def test_lock_of_the_directory_keeps_nobody_from_listening(
    bind: Bind, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """Everybody who may read the directory can take it."""
    monkeypatch.setattr("greendaphne.net.endpoints.unix.UNIX_LOCK_TIMEOUT", 0.1)
    descriptor = os.open(tmp_path, os.O_RDONLY)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX)
        check_listens(bind(f"unix:{tmp_path}/x"))
    finally:
        os.close(descriptor)
    assert caplog.messages == [f"Another process has held a lock on {tmp_path} for 0.1 seconds; going on without it"]


RACE = """
import sys
from greendaphne import endpoints
endpoint = endpoints.parse("unix:" + sys.argv[1])
print("ready", flush=True)
sys.stdin.readline()
try:
    sock = endpoint.bind()
except endpoints.EndpointError as error:
    print(error, flush=True)
else:
    print("bound", flush=True)
    sys.stdin.readline()
"""


def said(process: subprocess.Popen[str]) -> str:
    assert process.stdout is not None
    return process.stdout.readline().strip()


def tell(process: subprocess.Popen[str]) -> None:
    assert process.stdin is not None
    process.stdin.write("\n")
    process.stdin.flush()


def test_of_processes_that_start_together_one_replaces_a_dead_socket(tmp_path: Path) -> None:
    leave_stale_socket(tmp_path / "x")
    command = [sys.executable, "-c", RACE, str(tmp_path / "x")]
    processes = [subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) for _ in range(4)]
    try:
        for process in processes:
            assert said(process) == "ready"
        for process in processes:
            tell(process)
        refused = f"Couldn't listen on {tmp_path}/x: [Errno 98] Address already in use; another program listens there."
        assert sorted(map(said, processes)) == sorted(["bound", refused, refused, refused])
        with socket.socket(socket.AF_UNIX) as client:
            client.connect(str(tmp_path / "x"))
    finally:
        for process in processes:
            process.communicate("\n", timeout=20)


# --- File descriptors ---


@pytest.mark.parametrize("listening", [False, True])
@pytest.mark.parametrize("family", [socket.AF_INET, socket.AF_INET6, socket.AF_UNIX])
def test_fd_family_is_detected(bind: Bind, tmp_path: Path, family: socket.AddressFamily, listening: bool) -> None:
    inherited = socket.socket(family)
    inherited.bind({socket.AF_INET: ("127.0.0.1", 0), socket.AF_INET6: ("::1", 0)}.get(family, str(tmp_path / "x")))
    if listening:
        inherited.listen()
    inherited.setblocking(True)
    inherited.set_inheritable(True)
    sock = bind(f"fd:{inherited.detach()}:domain=AF_INET")
    assert sock.family == family
    check_listens(sock)


def test_fd_is_closed_and_never_unlinked(tmp_path: Path) -> None:
    inherited = socket.socket(socket.AF_UNIX)
    inherited.bind(str(tmp_path / "x"))
    number = inherited.detach()
    endpoint = endpoints.parse(f"fd:{number}")
    endpoint.close(endpoint.bind())
    assert (tmp_path / "x").is_socket()
    with pytest.raises(OSError, match="Bad file descriptor"):
        os.fstat(number)


def test_backlog_of_a_listening_fd_is_kept(bind: Bind, tmp_path: Path) -> None:
    inherited = socket.socket(socket.AF_UNIX)
    inherited.bind(str(tmp_path / "x"))
    inherited.listen(0)
    bind(f"fd:{inherited.detach()}")
    clients = [socket.socket(socket.AF_UNIX) for _ in range(3)]
    try:
        results = []
        for client in clients:
            client.setblocking(False)
            results.append(client.connect_ex(str(tmp_path / "x")))
        assert results == [0, errno.EAGAIN, errno.EAGAIN]
    finally:
        for client in clients:
            client.close()


def closed_number() -> int:
    reader, writer = os.pipe()
    os.close(reader)
    os.close(writer)
    return writer


def test_fd_that_is_not_open(bind: Bind) -> None:
    number = closed_number()
    with pytest.raises(EndpointError) as caught:
        bind(f"fd:{number}")
    assert str(caught.value) == f"Couldn't listen on fd {number}: it is not open."


def test_fd_that_is_no_socket_stays_open(bind: Bind, tmp_path: Path) -> None:
    with open(tmp_path / "file", "w", encoding="utf-8") as file:
        with pytest.raises(EndpointError) as caught:
            bind(f"fd:{file.fileno()}")
        assert str(caught.value) == f"Couldn't listen on fd {file.fileno()}: it is not a socket."
        os.fstat(file.fileno())


def datagram() -> socket.socket:
    return socket.socket(socket.AF_INET, socket.SOCK_DGRAM)


def netlink() -> socket.socket:
    return socket.socket(socket.AF_NETLINK, socket.SOCK_RAW)


def unbound() -> socket.socket:
    return socket.socket(socket.AF_INET)


def unbound_unix() -> socket.socket:
    return socket.socket(socket.AF_UNIX)


def connected() -> socket.socket:
    with socket.create_server(("127.0.0.1", 0)) as server:
        return socket.create_connection(server.getsockname())


@pytest.mark.parametrize(
    ("make", "reason"),
    [
        (datagram, "it is not a stream socket"),
        (netlink, "it is neither a TCP nor a UNIX socket"),
        (unbound, "it is not bound to an address"),
        (unbound_unix, "it is not bound to an address"),
        (connected, "it is, or was, a connected socket"),
    ],
)
def test_fd_that_cannot_listen_stays_open(bind: Bind, make: Callable[[], socket.socket], reason: str) -> None:
    with make() as inherited:
        with pytest.raises(EndpointError) as caught:
            bind(f"fd:{inherited.fileno()}")
        assert str(caught.value) == f"Couldn't listen on fd {inherited.fileno()}: {reason}."
        os.fstat(inherited.fileno())


def test_fd_that_was_refused_blocks_as_before(bind: Bind) -> None:
    with datagram() as inherited:
        inherited.setblocking(True)
        with pytest.raises(EndpointError):
            bind(f"fd:{inherited.fileno()}")
        assert os.get_blocking(inherited.fileno())


def test_fd_serves_one_endpoint_only(bind: Bind) -> None:
    number = socket.create_server(("127.0.0.1", 0)).detach()
    endpoint = endpoints.parse(f"fd:{number}")
    sock = endpoint.bind()
    with pytest.raises(EndpointError) as caught:
        bind(f"fd:fileno={number}")
    assert str(caught.value) == f"Couldn't listen on fd {number}: another endpoint has it already."
    endpoint.close(sock)
    # The number is free for another socket now.
    with pytest.raises(EndpointError, match="it is not open"):
        bind(f"fd:{number}")


# --- Descriptions of daphne's options ---


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        ({}, []),
        ({"host": "example.com", "port": 1234}, ["tcp:port=1234:interface=example.com"]),
        ({"host": "127.0.0.1", "port": "8000"}, ["tcp:port=8000:interface=127.0.0.1"]),
        ({"host": "127.0.0.1", "port": 0}, ["tcp:port=0:interface=127.0.0.1"]),
        ({"host": "[200a::1]", "port": 8000}, [r"tcp:port=8000:interface=200a\:\:1"]),
        ({"host": "200a::1", "port": 8000}, [r"tcp:port=8000:interface=200a\:\:1"]),
        ({"unix_socket": "/tmp/daphne.sock"}, ["unix:/tmp/daphne.sock"]),
        ({"file_descriptor": 5}, ["fd:fileno=5"]),
        ({"file_descriptor": 0}, ["fd:fileno=0"]),
        (
            {"file_descriptor": 123, "unix_socket": "/tmp/daphne.sock", "port": 8080, "host": "10.0.0.1"},
            ["tcp:port=8080:interface=10.0.0.1", "unix:/tmp/daphne.sock", "fd:fileno=123"],
        ),
    ],
)
def test_build_endpoint_description_strings(arguments: dict[str, Any], expected: list[str]) -> None:
    assert endpoints.build_endpoint_description_strings(**arguments) == expected


@pytest.mark.parametrize("arguments", [{"port": 123}, {"host": "example.com"}, {"port": 0}])
def test_build_endpoint_description_strings_needs_host_and_port(arguments: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match=r"^TCP binding requires both port and host kwargs\.$"):
        endpoints.build_endpoint_description_strings(**arguments)


def test_paths_do_not_follow_the_directory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    # What the command line remembers.
    monkeypatch.setattr("greendaphne.core.paths._base", [str(tmp_path)])
    assert grammar.path("a/b") == str(tmp_path / "a" / "b")
    assert grammar.path("/a") == "/a"
    # No file: an abstract UNIX socket.
    assert grammar.path("@a/b") == "@a/b"
    for text in ("", "a\0b"):
        with pytest.raises(ValueError, match="must be a path"):
            grammar.path(text)
