"""Certificates: what is read from files, which one a client gets, when it is replaced; and the endpoints that name them."""

from __future__ import annotations

import base64
import logging
import os
import shutil
import socket
import ssl
import stat
import subprocess
import sys
import tempfile
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from cryptography.hazmat.primitives.asymmetric import dsa, ed25519, rsa
from cryptography.hazmat.primitives.serialization import BestAvailableEncryption, Encoding, NoEncryption, PrivateFormat
from hypothesis import given
from hypothesis import strategies as st

from greendaphne.net import endpoints
from greendaphne.net.endpoints import EndpointError
from greendaphne.net.tls import (
    Contexts,
    FileContexts,
    HostDirectory,
    ScannedDirectory,
    TLSError,
    TLSOptions,
    devcert,
    development_certificate,
    pem,
)
from greendaphne.net.tls import endpoints as tls_endpoints
from greendaphne.net.tls.sni import host_name
from greendaphne.net.tls.validity import ValidityLog
from tests.support.certificates import Authority, Issued, issue, new_key
from tests.support.tls import PATIENCE, EchoServer, client_context, common_name, connect, exchange, loaded, s_client, skip_a_second


@pytest.fixture(scope="module")
def authority(tmp_path_factory: pytest.TempPathFactory) -> Authority:
    return Authority.make(tmp_path_factory.mktemp("authority"))


@pytest.fixture(scope="module")
def localhost(authority: Authority) -> Issued:
    return authority.server("localhost", "127.0.0.1")


def served(contexts: Contexts, authority: Authority, host: str | None = "localhost") -> str:
    """The common name of the certificate that a client gets."""
    with EchoServer(contexts) as server:
        return fetch(server, authority, host)


def fetch(server: EchoServer, authority: Authority, host: str | None) -> str:
    context = client_context(authority)
    # Which certificate comes is what matters, not whether it fits.
    context.check_hostname = False
    with connect(server, context, host) as tls:
        assert exchange(tls) == b"ping"
        return common_name(tls)


# Files


def test_separate_files(authority: Authority, localhost: Issued, tmp_path: Path) -> None:
    key, certificate, chain = tmp_path / "key.pem", tmp_path / "crt.pem", tmp_path / "chain.pem"
    key.write_bytes(localhost.key_pem)
    certificate.write_bytes(localhost.pem)
    chain.write_bytes(localhost.chain_pem)
    contexts = FileContexts(str(key), str(certificate), extra_chain=str(chain))
    assert served(loaded(contexts), authority) == "localhost"


def test_any_order_in_one_file(authority: Authority, localhost: Issued, tmp_path: Path) -> None:
    path = tmp_path / "server.pem"
    path.write_bytes(b"A comment.\n" + localhost.chain_pem + localhost.key_pem.replace(b"\n", b"\r\n") + localhost.pem)
    assert served(loaded(FileContexts(str(path))), authority) == "localhost"


def test_rsa(authority: Authority, tmp_path: Path) -> None:
    path = authority.server("localhost", kind="rsa").write(tmp_path / "server.pem")
    assert served(loaded(FileContexts(str(path))), authority) == "localhost"


def test_a_long_chain_is_sent_in_order(authority: Authority, tmp_path: Path) -> None:
    issuer = authority.root
    chain = []
    for number in range(8):
        issuer = issue(f"Intermediate {number}", issuer, authority=True, kind="rsa" if number % 2 else "ec")
        chain.append(issuer)
    leaf = issue("localhost", issuer, names=["localhost"])
    path = tmp_path / "server.pem"
    # In the wrong order, and one of them twice.
    path.write_bytes(leaf.key_pem + b"".join(link.pem for link in chain) + chain[3].pem + leaf.pem)
    with EchoServer(loaded(FileContexts(str(path)))) as server:
        assert fetch(server, authority, "localhost") == "localhost"
        output = s_client(server, "-showcerts")
    subjects = [line.split("CN = ")[1] for line in output.splitlines() if line.strip()[1:].startswith(" s:") or " s:CN" in line]
    assert subjects == ["localhost", *(f"Intermediate {number}" for number in range(7, -1, -1))], output


def test_a_handshake_larger_than_a_record(authority: Authority, tmp_path: Path) -> None:
    names = ["localhost", *(f"host-{number}.{'x' * 50}.example.com" for number in range(400))]
    path = authority.server(*names).write(tmp_path / "server.pem")
    assert served(loaded(FileContexts(str(path))), authority) == "localhost"


@pytest.mark.parametrize("bits", [2048, 512])
def test_dh_parameters(authority: Authority, tmp_path: Path, bits: int) -> None:
    path = authority.server("localhost", kind="rsa").write(tmp_path / "server.pem")
    group = tmp_path / "dh.pem"
    program = shutil.which("openssl")
    assert program
    # RFC 7919's group for 2048 bits, so that nothing needs to be computed.
    arguments = ["genpkey", "-genparam", "-algorithm", "DH", "-pkeyopt", "group:ffdhe2048"] if bits == 2048 else ["dhparam", "-2", "512"]
    output = subprocess.run([program, *arguments], capture_output=True, check=True, timeout=PATIENCE).stdout
    group.write_bytes(output)
    contexts = FileContexts(str(path), dh_parameters=str(group))
    if bits == 512:
        with pytest.raises(TLSError, match=r"dh\.pem have 512 bits"):
            contexts.load()
        return
    with EchoServer(loaded(contexts)) as server:
        assert "Cipher is DHE-RSA-AES128-GCM-SHA256" in s_client(server, "-tls1_2", "-cipher", "DHE")
    with EchoServer(loaded(FileContexts(str(path)))) as server:
        assert "handshake failure" in s_client(server, "-tls1_2", "-cipher", "DHE")


@pytest.mark.parametrize(
    ("method", "offered", "refused"),
    [
        ("TLSv1_2_METHOD", "TLSv1_2", "TLSv1_3"),
        ("TLSv1_3_METHOD", "TLSv1_3", "TLSv1_2"),
        ("TLS_METHOD", "TLSv1_3", None),
        ("SSLv23_METHOD", "TLSv1_2", None),
    ],
)
def test_sslmethod(authority: Authority, localhost: Issued, tmp_path: Path, method: str, offered: str, refused: str | None) -> None:
    contexts = loaded(FileContexts(str(localhost.write(tmp_path / "server.pem")), sslmethod=method))
    with EchoServer(contexts) as server:
        with connect(server, client_context(authority, version=ssl.TLSVersion[offered])) as tls:
            assert exchange(tls) == b"ping"
        if refused:
            with pytest.raises(ssl.SSLError, match=r"(?i)protocol.version"):
                connect(server, client_context(authority, version=ssl.TLSVersion[refused]))


@pytest.mark.parametrize("method", ["SSLv2_METHOD", "SSLv3_METHOD", "TLSv1_METHOD", "TLSv1_1_METHOD", "DTLS_METHOD", "nonsense", ""])
def test_unsafe_and_unknown_methods(method: str) -> None:
    with pytest.raises(TLSError, match=f"sslmethod={method} is "):
        FileContexts("server.pem", sslmethod=method)


def make_broken(name: str, localhost: Issued, directory: Path) -> tuple[FileContexts, str]:
    """Contexts that cannot be loaded, and what the error must say."""
    key, certificate, other = directory / "key.pem", directory / "crt.pem", directory / "other.pem"
    key.write_bytes(localhost.key_pem)
    certificate.write_bytes(localhost.pem)
    paths: dict[str, Any] = {}
    if name == "no key file":
        key.unlink()
        text = f"Cannot read the private key {key}: No such file or directory"
    elif name == "no certificate file":
        certificate.unlink()
        text = f"Cannot read the certificate {certificate}: No such file or directory"
    elif name == "a directory":
        key.unlink()
        key.mkdir()
        text = f"Cannot read the private key {key}: Is a directory"
    elif name == "a FIFO":
        key.unlink()
        os.mkfifo(key)
        text = f"Cannot read the private key {key}: not a regular file"
    elif name == "NUL":
        return FileContexts("a\0b", str(certificate)), "Cannot read the private key a\0b: "
    elif name == "too large":
        key.write_bytes(b"x" * (1024 * 1024 + 1))
        text = f"Cannot read the private key {key}: larger than 1048576 bytes"
    elif name == "encrypted":
        key.write_bytes(localhost.encrypted_key_pem)
        text = f"The private key in {key} is encrypted"
    elif name == "encrypted the old way":
        key.write_bytes(localhost.key.private_bytes(Encoding.PEM, PrivateFormat.TraditionalOpenSSL, BestAvailableEncryption(b"secret")))
        text = f"The private key in {key} is encrypted"
    elif name == "mismatch":
        key.write_bytes(issue("other").key_pem)
        text = f"The private key in {key} does not match the certificate in {certificate}"
    elif name == "mismatch in one file":
        other.write_bytes(issue("other").key_pem + localhost.pem)
        return FileContexts(str(other)), f"The private key and the certificate in {other} do not match"
    elif name == "no key":
        key.write_bytes(localhost.pem)
        text = f"There is no private key in {key}"
    elif name == "no certificate":
        certificate.write_bytes(b"")
        text = f"There is no certificate in {certificate}"
    elif name == "two keys":
        key.write_bytes(localhost.key_pem * 2)
        text = f"There are 2 private keys in {key}; one is expected"
    elif name == "many keys":
        key.write_bytes(localhost.key_pem * 17)
        text = f"There are more than 16 private keys in {key}"
    elif name == "cut short":
        # As many beginnings as fit: they are read once, not once for each.
        key.write_bytes(localhost.key_pem + b"-----BEGIN X CERTIFICATE-----\n" * 30_000)
        text = f"The x certificate in {key} is cut short"
    elif name == "malformed key":
        key.write_bytes(localhost.key_pem.replace(b"\nMI", b"\nXX", 1))
        text = f"The private key in {key} is malformed"
    elif name == "malformed certificate":
        certificate.write_bytes(localhost.pem.replace(b"\nMI", b"\nXX", 1))
        text = f"A certificate in {certificate} is malformed"
    elif name == "DSA":
        old = dsa.generate_private_key(1024)
        key.write_bytes(old.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()))
        text = f"The private key in {key} is of a type"
    elif name == "weak":
        weak = issue("localhost", key=rsa.generate_private_key(65537, 1024))
        key.write_bytes(weak.key_pem)
        certificate.write_bytes(weak.pem)
        text = f"OpenSSL refuses the certificate in {certificate}: ee key too small"
    elif name == "empty chain":
        other.write_bytes(b"")
        paths = {"extra_chain": str(other)}
        text = f"There is no certificate in {other}"
    elif name == "no chain file":
        paths = {"extra_chain": str(other)}
        text = f"Cannot read the certificate chain {other}: No such file or directory"
    elif name == "no DH parameters":
        other.write_bytes(b"-----BEGIN DH PARAMETERS-----\nMAA=\n-----END DH PARAMETERS-----\n")
        paths = {"dh_parameters": str(other)}
        text = f"There are no Diffie-Hellman parameters in {other}"
    else:
        assert name == "a key for DH parameters"
        paths = {"dh_parameters": str(key)}
        text = f"There are no Diffie-Hellman parameters in {key}"
    return FileContexts(str(key), str(certificate), **paths), text


BROKEN = [
    "no key file",
    "no certificate file",
    "a directory",
    "a FIFO",
    "NUL",
    "too large",
    "encrypted",
    "encrypted the old way",
    "mismatch",
    "mismatch in one file",
    "no key",
    "no certificate",
    "two keys",
    "many keys",
    "cut short",
    "malformed key",
    "malformed certificate",
    "DSA",
    "weak",
    "empty chain",
    "no chain file",
    "no DH parameters",
    "a key for DH parameters",
]


DAMAGED = issue("localhost")
DAMAGED_DER = DAMAGED.certificate.public_bytes(Encoding.DER)


@given(st.dictionaries(st.integers(0, len(DAMAGED_DER) - 1), st.integers(0, 255), max_size=4))
def test_a_damaged_certificate_is_refused_in_one_way(changes: dict[int, int]) -> None:
    """cryptography raises for some damages only when something is asked for, and not always a ValueError."""
    der = bytearray(DAMAGED_DER)
    for place, value in changes.items():
        der[place] = value
    block = b"-----BEGIN CERTIFICATE-----\n" + base64.encodebytes(der) + b"-----END CERTIFICATE-----\n"
    with tempfile.NamedTemporaryFile(suffix=".pem") as file, warnings.catch_warnings():
        # Of a serial number that is negative.
        warnings.simplefilter("ignore")
        file.write(DAMAGED.key_pem + block)
        file.flush()
        try:
            objects = pem.read(file.name)
            credentials = pem.assemble(objects, objects)
        except TLSError:
            return
        pem.dns_names(credentials.certificate)
        ValidityLog().line(credentials.certificate, file.name)


def test_a_chain_may_hold_keys_of_unknown_kinds(authority: Authority, tmp_path: Path) -> None:
    """As of algorithms that are to come."""
    issued = authority.server("localhost")
    der = authority.intermediate.certificate.public_bytes(Encoding.DER)
    # id-ecPublicKey becomes another number.
    strange = der.replace(bytes.fromhex("2a8648ce3d0201"), bytes.fromhex("2a8648ce3d0209"))
    assert strange != der
    block = b"-----BEGIN CERTIFICATE-----\n" + base64.encodebytes(strange) + b"-----END CERTIFICATE-----\n"
    path = tmp_path / "strange.pem"
    path.write_bytes(block + issued.key_pem + issued.pem)
    objects = pem.read(str(path))
    assert pem.assemble(objects, objects).certificate == issued.certificate


@pytest.mark.parametrize("name", BROKEN)
def test_what_is_wrong_is_said_in_one_line(name: str, localhost: Issued, tmp_path: Path) -> None:
    contexts, text = make_broken(name, localhost, tmp_path)
    with pytest.raises(TLSError) as caught:
        contexts.load()
    assert str(caught.value).startswith(text)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("content", [None, b"", b"nonsense"])
def test_a_bad_file_of_authorities(localhost: Issued, tmp_path: Path, content: bytes | None) -> None:
    path = tmp_path / "ca.pem"
    if content is not None:
        path.write_bytes(content)
    contexts = FileContexts(str(localhost.write(tmp_path / "server.pem")), options=TLSOptions(client_ca=str(path)))
    with pytest.raises(TLSError, match=r"Cannot read the client certificate authorities|There is no certificate in"):
        contexts.load()


@pytest.mark.parametrize(
    ("since", "days", "text"),
    [(30, -1, "expired on"), (-1, 30, "is not valid before"), (80, 3.1, "expires in 3 days, on")],
)
def test_dates_are_warned_of(
    authority: Authority, tmp_path: Path, caplog: pytest.LogCaptureFixture, since: float, days: float, text: str
) -> None:
    path = authority.server("localhost", since=since, days=days).write(tmp_path / "server.pem")
    FileContexts(str(path)).load()
    (record,) = caplog.records
    assert record.levelno == (logging.ERROR if days < 0 else logging.WARNING)
    assert record.getMessage().startswith(f"The certificate in {path} {text} ")


def test_ed25519(tmp_path: Path) -> None:
    key = ed25519.Ed25519PrivateKey.generate()
    pem = key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())
    program = shutil.which("openssl")
    assert program
    path = tmp_path / "server.pem"
    path.write_bytes(pem)
    request = [program, "req", "-x509", "-key", str(path), "-subj", "/CN=localhost", "-days", "2"]
    path.write_bytes(pem + subprocess.run(request, capture_output=True, check=True, timeout=PATIENCE).stdout)
    with EchoServer(loaded(FileContexts(str(path)))) as server:
        assert "a:PKEY: ED25519" in s_client(server)


# Reloading


def test_a_changed_file_is_served_to_new_connections(authority: Authority, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    path = authority.server("first.example").write(tmp_path / "server.pem")
    contexts = loaded(FileContexts(str(path)))
    context = client_context(authority)
    context.check_hostname = False
    with EchoServer(contexts) as server, connect(server, context) as before:
        assert common_name(before) == "first.example"
        authority.server("second.example").write(path)
        skip_a_second(contexts)
        with caplog.at_level(logging.INFO):
            assert fetch(server, authority, "localhost") == "second.example"
        assert caplog.messages == [f"Certificate reloaded from {path}"]
        assert exchange(before, b"still here") == b"still here"


def test_files_are_looked_at_once_a_second(localhost: Issued, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    contexts = loaded(FileContexts(str(localhost.write(tmp_path / "server.pem"))))
    looks: list[bool] = []
    now = 1000.0

    def look(forced: bool) -> None:
        looks.append(forced)

    monkeypatch.setattr("greendaphne.net.tls.contexts.monotonic", lambda: now)
    monkeypatch.setattr(contexts, "_refresh", look)
    contexts._check_after = 0.0
    for step in (0.0, 0.5, 0.4, 0.2, 0.9):
        now += step
        contexts.front()
    assert looks == [False, False]


@pytest.mark.parametrize("forced", [False, True], ids=["changed", "reload()"])
def test_a_broken_file_is_refused_and_the_old_one_stays(
    authority: Authority, tmp_path: Path, caplog: pytest.LogCaptureFixture, forced: bool
) -> None:
    path = authority.server("localhost").write(tmp_path / "server.pem")
    contexts = loaded(FileContexts(str(path)))
    with EchoServer(contexts) as server:
        for broken, text in (
            (b"", "There is no private key in"),
            (issue("x").key_pem + issue("y").pem, "do not match"),
            (None, "Cannot read"),
        ):
            caplog.clear()
            if broken is None:
                path.unlink()
            else:
                path.write_bytes(broken)
            if forced:
                contexts.reload()
            for _ in range(3):
                skip_a_second(contexts)
                assert fetch(server, authority, "localhost") == "localhost"
            (record,) = caplog.records
            assert record.levelno == logging.ERROR
            assert text in record.getMessage()
            assert record.getMessage().endswith("; the previous certificate stays in service")
        authority.server("new.example").write(path)
        skip_a_second(contexts)
        assert fetch(server, authority, "localhost") == "new.example"


def test_reload(authority: Authority, localhost: Issued, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """On demand everything is read again, the client authorities too."""
    stranger = Authority.make(tmp_path, "Stranger")
    ca = tmp_path / "ca.pem"
    ca.write_bytes(stranger.root.pem)
    contexts = loaded(FileContexts(str(localhost.write(tmp_path / "server.pem")), options=TLSOptions(client_ca=str(ca))))
    context = client_context(authority)
    context.load_cert_chain(str(authority.client().write(tmp_path / "client.pem")))
    with EchoServer(contexts) as server:
        with pytest.raises(ssl.SSLError), connect(server, context) as tls:
            tls.recv(1)
        ca.write_bytes(authority.root.pem)
        contexts.reload()
        with connect(server, context) as tls:
            assert exchange(tls) == b"ping"
        ca.write_bytes(b"")
        contexts.reload()
        assert caplog.messages == [f"There is no certificate in {ca}; the previous one stays in service"]
        with connect(server, context) as tls:
            assert exchange(tls) == b"ping"


# Server names


@pytest.mark.parametrize(
    ("sent", "name"),
    [
        (None, None),
        (b"", None),
        (b"example.com", "example.com"),
        (b"EXAMPLE.com.", "example.com"),
        (b"xn--bcher-kva.example", "xn--bcher-kva.example"),
        (b"a_b.example", "a_b.example"),
        (b"127.0.0.1", "127.0.0.1"),
        (b"..", None),
        (b".", None),
        (b"../etc/passwd", None),
        (b"/etc/passwd", None),
        (b"a/b", None),
        (b"a\\b", None),
        (b"a\x00b", None),
        (b"*.example.com", None),
        (b"a..b", None),
        (b".a", None),
        (b"-a.example", None),
        (b"a-.example", None),
        (b"a b", None),
        (b"a\n", None),
        ("bücher.example".encode(), None),
        (b"a" * 63 + b".example", "a" * 63 + ".example"),
        (b"a" * 64 + b".example", None),
        (b"a." * 126 + b"a", "a." * 126 + "a"),
        (b"a." * 127 + b"a", None),
    ],
)
def test_host_names(sent: bytes | None, name: str | None) -> None:
    assert host_name(sent) == name


@given(st.binary(max_size=300) | st.text(st.sampled_from("aZ0.-_/\\*\0\n :~"), max_size=40).map(str.encode))
def test_a_server_name_never_leaves_the_directory(sent: bytes) -> None:
    name = host_name(sent)
    if name is None:
        return
    directory = HostDirectory("/certificates")
    path = directory._path(name)
    assert os.path.dirname(os.path.normpath(path)) == "/certificates"
    assert os.path.basename(path) == f"{name}.pem"
    assert len(os.path.basename(path)) <= 257
    assert "\0" not in path
    assert name == name.lower()
    assert host_name(name.encode()) == name


@pytest.fixture
def directory(authority: Authority, tmp_path: Path) -> Path:
    """``txsni:``'s layout; the common names tell the files apart."""
    path = tmp_path / "certificates"
    path.mkdir()
    for name in ("a.example", "DEFAULT", "*.wild.example", "_.lego.example"):
        issue(f"file {name}", authority.intermediate, names=["localhost"]).write(path / f"{name}.pem")
    return path


@pytest.mark.parametrize(
    ("host", "file"),
    [
        ("a.example", "a.example"),
        ("A.Example", "a.example"),
        ("unknown.example", "DEFAULT"),
        ("b.wild.example", "*.wild.example"),
        ("c.b.wild.example", "DEFAULT"),
        ("wild.example", "DEFAULT"),
        ("x.lego.example", "_.lego.example"),
        ("localhost", "DEFAULT"),
        (None, "DEFAULT"),
    ],
)
def test_host_directory(directory: Path, authority: Authority, host: str | None, file: str) -> None:
    assert served(loaded(HostDirectory(str(directory))), authority, host) == f"file {file}"


def test_names_that_are_no_host_names_get_the_default(directory: Path, tmp_path: Path, authority: Authority) -> None:
    (tmp_path / "outside.pem").write_bytes((directory / "a.example.pem").read_bytes())
    contexts = loaded(HostDirectory(str(directory)))
    with EchoServer(contexts) as server:
        for name in ("../outside", "a.example/../a.example", "..", "/" + "x" * 200):
            assert "s:CN = file DEFAULT" in s_client(server, host=name), name
    assert set(contexts._entries) == {"a.example", "DEFAULT", "*.wild.example", "_.lego.example"}


def test_without_a_default_unknown_names_are_refused(directory: Path, authority: Authority) -> None:
    (directory / "DEFAULT.pem").unlink()
    with EchoServer(loaded(HostDirectory(str(directory)))) as server:
        for version in ("-tls1_2", "-tls1_3"):
            assert "handshake failure" in s_client(server, version, host="unknown.example")
        assert fetch(server, authority, "a.example") == "file a.example"


def test_sessions_are_resumed(directory: Path, authority: Authority) -> None:
    with EchoServer(loaded(HostDirectory(str(directory)))) as server:
        for version in (ssl.TLSVersion.TLSv1_2, ssl.TLSVersion.TLSv1_3):
            context = client_context(authority, version=version)
            context.check_hostname = False
            for host in ("a.example", "b.wild.example", "unknown.example"):
                with connect(server, context, host) as tls:
                    exchange(tls)
                    session = tls.session
                with connect(server, context, host, session) as tls:
                    assert tls.session_reused


def test_alpn_and_client_certificates_hold_for_every_name(directory: Path, authority: Authority, tmp_path: Path) -> None:
    contexts = loaded(HostDirectory(str(directory), TLSOptions(alpn=("h2",), client_ca=str(authority.file))))
    context = client_context(authority, alpn=("h2",))
    context.check_hostname = False
    with EchoServer(contexts) as server:
        for host in ("a.example", "unknown.example"):
            with pytest.raises(ssl.SSLError, match=r"(?i)certificate.required"), connect(server, context, host) as tls:
                tls.recv(1)
        context.load_cert_chain(str(authority.client().write(tmp_path / "client.pem")))
        for host in ("a.example", "unknown.example"):
            with connect(server, context, host) as tls:
                assert exchange(tls) == b"ping"
                assert tls.selected_alpn_protocol() == "h2"


def test_host_directory_follows_its_files(directory: Path, authority: Authority, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO)
    contexts = loaded(HostDirectory(str(directory)))
    new = directory / "new.example.pem"
    with EchoServer(contexts) as server:
        assert fetch(server, authority, "new.example") == "file DEFAULT"
        # An empty file asks for a certificate that is yet to come.
        new.touch()
        assert fetch(server, authority, "new.example") == "file DEFAULT"
        issue("first", authority.intermediate).write(new)
        assert fetch(server, authority, "new.example") == "first"
        assert not caplog.messages

        issue("second", authority.intermediate).write(new)
        skip_a_second(contexts)
        assert fetch(server, authority, "new.example") == "second"
        assert caplog.messages == [f"Certificate reloaded from {new}"]
        caplog.clear()

        new.write_bytes(b"broken")
        for _ in range(3):
            skip_a_second(contexts)
            assert fetch(server, authority, "new.example") == "second"
        assert caplog.messages == [f"There is no private key in {new}; the previous certificate stays in service"]

        new.unlink()
        skip_a_second(contexts)
        assert fetch(server, authority, "new.example") == "file DEFAULT"

        issue("default 2", authority.intermediate).write(directory / "DEFAULT.pem")
        contexts.reload()
        assert fetch(server, authority, "new.example") == "default 2"


def test_a_broken_file_among_others(directory: Path, authority: Authority, caplog: pytest.LogCaptureFixture) -> None:
    (directory / "broken.example.pem").write_bytes(b"broken")
    contexts = loaded(HostDirectory(str(directory)))
    assert caplog.messages == [f"There is no private key in {directory}/broken.example.pem"]
    assert served(contexts, authority, "broken.example") == "file DEFAULT"


@pytest.mark.parametrize("kind", [HostDirectory, ScannedDirectory])
@pytest.mark.parametrize("content", ["missing", "empty", "broken"])
def test_directories_of_no_use(kind: Callable[[str], Contexts], content: str, tmp_path: Path) -> None:
    path = tmp_path / "certificates"
    if content != "missing":
        path.mkdir()
    if content == "broken":
        (path / "DEFAULT.pem").write_bytes(b"broken")
    with pytest.raises(TLSError) as caught:
        kind(str(path)).load()
    assert str(path) in str(caught.value)
    assert "\n" not in str(caught.value)


def test_home_directory(directory: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", str(directory.parent))
    assert HostDirectory("~/certificates").directory == ScannedDirectory("~/certificates").path == str(directory)


@pytest.fixture
def scattered(authority: Authority, tmp_path: Path) -> Path:
    """``tls:``'s layout: keys and certificates in files of any name, some below."""
    path = tmp_path / "pems"
    (path / "below").mkdir(parents=True)
    one = issue("one", authority.intermediate, names=["one.example", "www.one.example"])
    (path / "1-key.pem").write_bytes(one.key_pem)
    (path / "below" / "1-certificate.pem").write_bytes(one.pem)
    (path / "chain.pem").write_bytes(authority.intermediate.pem)
    wild = issue("wild", authority.intermediate, names=["*.wild.example"])
    (path / "below" / "wild.pem").write_bytes(wild.pem + wild.key_pem)
    (path / "README").write_bytes(b"not a certificate")
    return path


@pytest.mark.parametrize(
    ("host", "name"),
    [
        ("one.example", "one"),
        ("WWW.one.example", "one"),
        ("a.wild.example", "wild"),
        ("wild.example", "one"),
        ("unknown", "one"),
        (None, "one"),
    ],
)
def test_scanned_directory(scattered: Path, authority: Authority, host: str | None, name: str) -> None:
    assert served(loaded(ScannedDirectory(str(scattered))), authority, host) == name


def test_scanned_directory_with_a_default(scattered: Path, authority: Authority) -> None:
    issue("default", authority.intermediate, names=["default.example"]).write(scattered / "DEFAULT.pem")
    contexts = loaded(ScannedDirectory(str(scattered)))
    with EchoServer(contexts) as server:
        assert fetch(server, authority, None) == "default"
        assert fetch(server, authority, "unknown") == "default"
        assert fetch(server, authority, "one.example") == "one"


def test_a_single_file_is_scanned(localhost: Issued, authority: Authority, tmp_path: Path) -> None:
    path = localhost.write(tmp_path / "any.name")
    assert served(loaded(ScannedDirectory(str(path))), authority) == "localhost"


def test_scanned_directory_follows_its_files(scattered: Path, authority: Authority, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO)
    contexts = loaded(ScannedDirectory(str(scattered)))
    kept = contexts._by_name["one.example"]
    with EchoServer(contexts) as server:
        # A renewed certificate for the same key, and one for the same name that ends sooner.
        new = issue("renewed", authority.intermediate, names=["new.example", "a.wild.example"], days=60).write(scattered / "new.pem")
        issue("sooner", authority.intermediate, names=["new.example"], days=5).write(scattered / "sooner.pem")
        skip_a_second(contexts)
        assert fetch(server, authority, "new.example") == "renewed"
        assert fetch(server, authority, "a.wild.example") == "renewed"
        assert contexts._by_name["one.example"] is kept
        assert caplog.messages == [f"Certificates reloaded from {scattered}"]
        caplog.clear()

        new.write_bytes(b"-----BEGIN CERTIFICATE-----\nbroken\n-----END CERTIFICATE-----\n")
        for _ in range(3):
            skip_a_second(contexts)
            assert fetch(server, authority, "new.example") == "renewed"
        assert caplog.messages == [
            f"Certificates reloaded from {scattered}",
            f"A certificate in {new} is malformed; the previous content stays in service",
        ]
        caplog.clear()

        new.unlink()
        skip_a_second(contexts)
        assert fetch(server, authority, "new.example") == "sooner"
        assert fetch(server, authority, "a.wild.example") == "wild"

        contexts.reload()
        assert contexts._by_name["one.example"] is not kept
        assert fetch(server, authority, "one.example") == "one"

        caplog.clear()
        away = scattered.with_name("away")
        scattered.rename(away)
        for _ in range(3):
            skip_a_second(contexts)
            assert fetch(server, authority, "one.example") == "one"
        assert len(caplog.messages) == 1, caplog.messages
        away.rename(scattered)
        skip_a_second(contexts)
        assert fetch(server, authority, "one.example") == "one"


def test_a_key_without_its_certificate(scattered: Path, caplog: pytest.LogCaptureFixture) -> None:
    path = scattered / "lonely.pem"
    path.write_bytes(issue("x").key_pem)
    loaded(ScannedDirectory(str(scattered)))
    assert caplog.messages == [f"There is no certificate for the private key in {path}"]


def test_an_error_in_the_choice_is_logged_and_refused(
    localhost: Issued, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture, capfd: pytest.CaptureFixture[str]
) -> None:
    contexts = loaded(FileContexts(str(localhost.write(tmp_path / "server.pem"))))

    def select(server_name: bytes | None) -> None:
        raise ZeroDivisionError("on purpose")

    monkeypatch.setattr(contexts, "select", select)
    with EchoServer(contexts) as server:
        assert "handshake failure" in s_client(server)
        server.ended.get(timeout=PATIENCE)
    (record,) = caplog.records
    assert record.levelno == logging.ERROR
    assert "ZeroDivisionError: on purpose" in record.getMessage()
    assert capfd.readouterr().err == ""


# Endpoints


@contextmanager
def listening(endpoint: endpoints.Endpoint) -> Iterator[EchoServer]:
    """An echo server on an endpoint."""
    bound: list[Any] = []

    def bind() -> Any:
        bound.append(endpoint.bind())
        return bound[0]

    with EchoServer(endpoint.tls, bind=bind) as server:
        yield server
    endpoint.close(bound[0])


def test_ssl_endpoint(authority: Authority, localhost: Issued, tmp_path: Path) -> None:
    key, certificate, chain = tmp_path / "key.pem", tmp_path / "crt.pem", tmp_path / "chain.pem"
    key.write_bytes(localhost.key_pem)
    certificate.write_bytes(localhost.pem)
    chain.write_bytes(localhost.chain_pem)
    description = (
        f"ssl:0:privateKey={key}:certKey={certificate}:sslmethod=TLSv1_2_METHOD:interface=127.0.0.1:backlog=10:extraCertChain={chain}"
    )
    endpoint = endpoints.parse(description)
    assert str(endpoint) == description
    assert endpoint.tls.describe() == "ALPN h2,http/1.1"
    with listening(endpoint) as server, connect(server, client_context(authority)) as tls:
        assert tls.version() == "TLSv1.2"
        assert exchange(tls) == b"ping"


def test_ssl_endpoint_defaults(authority: Authority, localhost: Issued, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    localhost.write(tmp_path / "server.pem")
    monkeypatch.chdir(tmp_path)
    with listening(endpoints.parse("ssl:0:interface=127.0.0.1")) as server:
        assert fetch(server, authority, "localhost") == "localhost"


def test_txsni_endpoint(authority: Authority, directory: Path, tmp_path: Path) -> None:
    description = f"txsni:{directory}:tcp:0:interface=127.0.0.1"
    endpoint = endpoints.parse(description)
    assert str(endpoint) == description
    with listening(endpoint) as server:
        assert fetch(server, authority, "a.example") == "file a.example"


def test_tls_endpoint(authority: Authority, scattered: Path) -> None:
    description = f"tls:{scattered}:0:interface=\\:\\:1"
    endpoint = endpoints.parse(description)
    assert str(endpoint) == description
    with listening(endpoint) as server:
        assert server.address[0] == "::1"
        assert fetch(server, authority, "one.example") == "one"
    assert isinstance(endpoint, tls_endpoints.TLSEndpoint)
    assert isinstance(endpoint.inner, endpoints.TCPEndpoint)
    default = endpoints.parse(f"tls:{scattered}")
    assert isinstance(default, tls_endpoints.TLSEndpoint)
    assert isinstance(default.inner, endpoints.TCPEndpoint)
    assert (default.inner.port, default.inner.interface) == (443, "::")


def test_wrap_a_unix_socket(authority: Authority, localhost: Issued, tmp_path: Path) -> None:
    pem = localhost.write(tmp_path / "server.pem")
    inner = endpoints.parse(f"unix:{tmp_path}/socket")
    endpoint = tls_endpoints.wrap(inner, str(pem))
    assert str(endpoint) == str(inner)
    with listening(endpoint):
        plain = socket.socket(socket.AF_UNIX)
        plain.settimeout(PATIENCE)
        plain.connect(f"{tmp_path}/socket")
        with client_context(authority).wrap_socket(plain, server_hostname="localhost") as tls:
            assert exchange(tls) == b"ping"
    assert not os.path.exists(f"{tmp_path}/socket")


def test_wrap_a_file_descriptor(authority: Authority, localhost: Issued, tmp_path: Path) -> None:
    key, certificate = tmp_path / "key.pem", tmp_path / "crt.pem"
    key.write_bytes(localhost.key_pem)
    certificate.write_bytes(localhost.pem + localhost.chain_pem)
    inherited = socket.create_server(("127.0.0.1", 0))
    endpoint = tls_endpoints.wrap(endpoints.parse(f"fd:{inherited.detach()}"), str(certificate), str(key), TLSOptions(alpn=("http/1.1",)))
    assert endpoint.tls.describe() == "ALPN http/1.1"
    with listening(endpoint) as server:
        assert fetch(server, authority, "localhost") == "localhost"


def test_wrap_leaves_what_has_tls_alone(tmp_path: Path) -> None:
    endpoint = endpoints.parse("ssl:0")
    assert tls_endpoints.wrap(endpoint, "other.pem") is endpoint
    with pytest.raises(EndpointError, match="TLS inside TLS"):
        endpoints.parse(f"txsni:{tmp_path}:ssl:0")


def test_options_come_before_binding(authority: Authority, localhost: Issued, tmp_path: Path) -> None:
    endpoint = endpoints.parse(f"ssl:0:{localhost.write(tmp_path / 'server.pem')}:interface=127.0.0.1")
    endpoint.tls.configure(TLSOptions(alpn=()))
    assert endpoint.tls.describe() == "no ALPN"
    with listening(endpoint) as server, connect(server, client_context(authority, alpn=("h2",))) as tls:
        assert tls.selected_alpn_protocol() is None


@pytest.mark.parametrize(
    ("description", "text"),
    [
        ("ssl:0:privateKey=/nonexistent.pem", "Cannot read the private key /nonexistent.pem: No such file or directory."),
        ("tls:/nonexistent:0", "Cannot read"),
        ("txsni:/nonexistent:tcp:0", "Cannot read the directory of certificates /nonexistent: No such file or directory."),
    ],
)
def test_binding_fails_in_one_line(description: str, text: str) -> None:
    with pytest.raises(EndpointError) as caught:
        endpoints.parse(description).bind()
    assert str(caught.value).startswith(text)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("description", "text"),
    [
        ("ssl:0:sslmethod=SSLv3_METHOD", "sslmethod"),
        ("ssl:0:sslmethod=x", "sslmethod"),
        ("ssl:x", "port"),
        ("ssl:", "port"),
        ("ssl:0:privateKey=", "privateKey"),
        ("ssl:0:ciphers=ALL", "ciphers"),
        ("tls:", "path"),
        ("txsni:", "directory"),
    ],
)
def test_bad_descriptions(description: str, text: str) -> None:
    with pytest.raises(EndpointError, match=text):
        endpoints.parse(description)


# The development certificate


def test_development_certificate(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO)
    directory = tmp_path / "cache" / "greendaphne"
    path = Path(development_certificate(str(directory)))
    assert path.parent == directory
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert stat.S_IMODE(directory.stat().st_mode) == 0o700
    assert os.listdir(directory) == [path.name]
    assert caplog.messages == [
        f"Made a self-signed certificate for localhost: {path}",
        f"Using the self-signed certificate {path}; it is for development only",
    ]
    content = path.read_bytes()
    assert development_certificate(str(directory)) == str(path)
    assert path.read_bytes() == content
    contexts = loaded(FileContexts(str(path)))
    trusting = ssl.create_default_context(cafile=str(path))
    with EchoServer(contexts) as server:
        for host in ("localhost", "127.0.0.1", "::1"):
            with connect(server, trusting, host) as tls:
                assert exchange(tls) == b"ping"


@pytest.mark.parametrize("state", ["broken", "readable by others", "about to expire", "mismatch"])
def test_a_development_certificate_that_will_not_do_is_replaced(tmp_path: Path, state: str, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / devcert.FILE_NAME
    if state == "about to expire":
        monkeypatch.setattr(devcert, "LIFETIME", devcert.MARGIN)
        development_certificate(str(tmp_path))
        monkeypatch.undo()
    elif state == "mismatch":
        path.write_bytes(issue("a").key_pem + issue("b").pem)
    else:
        development_certificate(str(tmp_path))
        if state == "broken":
            path.write_bytes(b"broken")
    path.chmod(0o644 if state == "readable by others" else 0o600)
    before = path.read_bytes()
    development_certificate(str(tmp_path))
    assert path.read_bytes() != before
    assert stat.S_IMODE(path.stat().st_mode) == 0o600


def test_a_development_certificate_that_cannot_be_written(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(TLSError, match="Cannot write the development certificate"):
        development_certificate(str(tmp_path / "file"))


def test_cache_directory(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", "/home/somebody")
    monkeypatch.setenv("XDG_CACHE_HOME", "/var/cache/somebody")
    assert devcert.cache_directory() == "/var/cache/somebody/greendaphne"
    monkeypatch.setenv("XDG_CACHE_HOME", "relative")
    assert devcert.cache_directory() == "/home/somebody/.cache/greendaphne"
    monkeypatch.delenv("XDG_CACHE_HOME")
    assert devcert.cache_directory() == "/home/somebody/.cache/greendaphne"


def test_nothing_is_monkey_patched_and_no_warning_on_import() -> None:
    code = "import greendaphne.net.tls.endpoints, gevent.monkey; assert not gevent.monkey.saved"
    subprocess.run([sys.executable, "-W", "error", "-c", code], check=True, timeout=PATIENCE)


def test_new_key_kinds() -> None:
    assert isinstance(new_key("rsa"), rsa.RSAPrivateKey)
