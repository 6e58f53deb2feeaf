"""Certificates that expire while they are served, places that other users can write to, encrypted keys, and what applications are told."""

from __future__ import annotations

import logging
import os
import ssl
import threading
from collections.abc import Callable
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.serialization import BestAvailableEncryption, Encoding, PrivateFormat

from greendaphne.core.tlsinfo import CIPHERS, TLSInfo
from greendaphne.layers.memory import MemoryChannelLayer
from greendaphne.net.endpoints import EndpointError, parse
from greendaphne.net.tls import Contexts, FileContexts, HostDirectory, ScannedDirectory, TLSError, TLSOptions, factory
from greendaphne.net.tls.endpoints import wrap
from greendaphne.net.tls.validity import DAY, ValidityLog, ValidityWatch
from tests.support.certificates import Authority, issue
from tests.support.server import Client, serve
from tests.support.tls import PATIENCE, EchoServer, client_context, connect, exchange, loaded, skip_a_second

HOUR = 3600.0


@pytest.fixture(scope="module")
def authority(tmp_path_factory: pytest.TempPathFactory) -> Authority:
    return Authority.make(tmp_path_factory.mktemp("authority"))


class Clock:
    def __init__(self, start: float) -> None:
        self.now = start

    def __call__(self) -> float:
        return self.now


# Expiry


@pytest.mark.parametrize(("lifetime", "first"), [(365, 30), (90, 30), (60, 20), (6, 2), (1, 1 / 3)])
def test_a_line_a_day_until_the_end_and_after(lifetime: float, first: float) -> None:
    certificate = issue("localhost", since=0, days=lifetime).certificate
    begin, end = certificate.not_valid_before_utc.timestamp(), certificate.not_valid_after_utc.timestamp()
    clock = Clock(begin)
    log = ValidityLog(clock)
    lines = []
    while clock.now < end + 2.5 * DAY:
        if (line := log.line(certificate, "server.pem")) is not None:
            lines.append((clock.now - end, *line))
        clock.now = min(clock.now + log.next_look([certificate]), clock.now + HOUR)
    warnings = [at for at, level, _ in lines if level == logging.WARNING]
    errors = [at for at, level, _ in lines if level == logging.ERROR]
    assert -first * DAY <= warnings[0] <= -first * DAY + HOUR
    assert len(warnings) == max(1, round(first))
    assert 0 <= errors[0] <= 2
    assert len(errors) == 3
    assert all("server.pem" in text for _, _, text in lines)


def test_a_new_certificate_begins_anew() -> None:
    old, new = (issue("localhost", since=80, days=days).certificate for days in (3, 2))
    log = ValidityLog()
    assert log.line(old, "a.pem") is not None
    assert log.line(old, "a.pem") is None
    assert log.line(old, "b.pem") is not None
    assert log.line(new, "a.pem") is not None
    assert log.line(old, "a.pem") is None
    assert log.line(issue("localhost", days=90).certificate, "a.pem") is None


@pytest.mark.parametrize(
    ("seconds", "text"),
    [
        (2.5 * DAY, "2 days"),
        (1.5 * DAY, "1 day"),
        (DAY, "1 day"),
        (3600, "1 hour"),
        (90, "1 minute"),
        (60, "1 minute"),
        (30, "less than a minute"),
    ],
)
def test_what_is_left_is_said_in_words(seconds: float, text: str) -> None:
    certificate = issue("localhost", since=10, days=90).certificate
    clock = Clock(certificate.not_valid_after_utc.timestamp() - seconds)
    line = ValidityLog(clock).line(certificate, "a.pem")
    assert line is not None
    assert f"expires in {text}, on " in line[1]


def of_files(directory: Path) -> Contexts:
    return FileContexts(str(directory / "DEFAULT.pem"))


def of_hosts(directory: Path) -> Contexts:
    return HostDirectory(str(directory))


def of_any(directory: Path) -> Contexts:
    return ScannedDirectory(str(directory))


KINDS = pytest.mark.parametrize("kind", [of_files, of_hosts, of_any])


@KINDS
def test_every_kind_reports_what_it_serves(
    kind: Callable[[Path], Contexts], authority: Authority, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    path = authority.server("localhost", since=80, days=3.5).write(tmp_path / "DEFAULT.pem")
    first, second = kind(tmp_path), kind(tmp_path)
    watch = ValidityWatch([first, second])
    first.load()
    second.load()
    watch.look()
    # Two endpoints with one file have one line.
    assert [record.getMessage().partition(",")[0] for record in caplog.records] == [f"The certificate in {path} expires in 3 days"]
    caplog.clear()
    authority.server("localhost", since=80, days=2.5).write(path)
    skip_a_second(first)
    watch.look()
    lines = [record.getMessage() for record in caplog.records if record.levelno == logging.WARNING]
    assert [line.partition(",")[0] for line in lines] == [f"The certificate in {path} expires in 2 days"]


@KINDS
def test_every_kind_knows_what_it_serves(kind: Callable[[Path], Contexts], authority: Authority, tmp_path: Path) -> None:
    contexts = kind(tmp_path)
    assert contexts.certificates() == []
    for number in range(2):
        path = authority.server("localhost").write(tmp_path / "DEFAULT.pem")
        if number:
            skip_a_second(contexts)
        else:
            contexts.load()
        written = x509.load_pem_x509_certificate(path.read_bytes())
        assert contexts.certificates() == [(str(path), written)]
        assert contexts.report_validity() == [written]


def test_a_certificate_that_expires_on_an_idle_server(authority: Authority, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """Nothing connects, and the line comes at the end of the certificate all the same."""
    expired = threading.Event()

    class Handler(logging.Handler):
        def emit(self, record: logging.LogRecord) -> None:
            if "expired on" in record.getMessage() and record.levelno == logging.ERROR:
                expired.set()

    handler = Handler()
    logging.getLogger("greendaphne.net.tls").addHandler(handler)
    try:
        path = authority.server("localhost", since=1, days=3 / DAY).write(tmp_path / "server.pem")
        with serve(endpoints=[f"ssl:0:{path}:interface=127.0.0.1"]):
            assert expired.wait(PATIENCE)
    finally:
        logging.getLogger("greendaphne.net.tls").removeHandler(handler)
    levels = [record.levelno for record in caplog.records if record.getMessage().startswith("The certificate in ")]
    assert levels == [logging.WARNING, logging.ERROR]


# Which file is missing


@pytest.mark.parametrize("keyfile", [None, "key.pem", "nosuch-key.pem"])
def test_the_certificate_is_named_where_it_is_missing(authority: Authority, tmp_path: Path, keyfile: str | None) -> None:
    (tmp_path / "key.pem").write_bytes(authority.server("localhost").key_pem)
    nosuch = tmp_path / "nosuch.pem"
    endpoint = wrap(parse("tcp:0:interface=127.0.0.1"), str(nosuch), None if keyfile is None else str(tmp_path / keyfile))
    with pytest.raises(EndpointError, match=f"^Cannot read the certificate {nosuch}: No such file"):
        endpoint.bind()


# Places that others can write to


@KINDS
@pytest.mark.parametrize(("mode", "text"), [(0o770, "The group can "), (0o775, "The group can "), (0o707, "Everyone can "), (0o755, "")])
def test_a_directory_that_others_can_write_to(
    kind: Callable[[Path], Contexts], authority: Authority, tmp_path: Path, caplog: pytest.LogCaptureFixture, mode: int, text: str
) -> None:
    directory = tmp_path / "certificates"
    directory.mkdir()
    path = authority.server("localhost").write(directory / "DEFAULT.pem")
    path.chmod(0o600)
    directory.chmod(mode)
    kind(directory).load()
    lines = [record.getMessage() for record in caplog.records if record.levelno == logging.WARNING]
    assert [line.startswith(text) and str(directory) in line for line in lines] == ([True] if text else [])


def test_a_sticky_directory_protects_a_file_and_no_directory_of_certificates(
    authority: Authority, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    path = authority.server("localhost").write(tmp_path / "DEFAULT.pem")
    path.chmod(0o600)
    tmp_path.chmod(0o1777)
    of_files(tmp_path).load()
    assert not caplog.records
    of_hosts(tmp_path).load()
    assert [record.levelno for record in caplog.records] == [logging.WARNING]


def test_a_key_that_others_can_write_to(authority: Authority, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    path = authority.server("localhost").write(tmp_path / "DEFAULT.pem")
    path.chmod(0o660)
    of_files(tmp_path).load()
    assert caplog.messages == [f"The group can write to {path}; remove that permission with chmod go-w"]


# Encrypted keys


FORMS = pytest.mark.parametrize("form", [PrivateFormat.PKCS8, PrivateFormat.TraditionalOpenSSL])


def write_encrypted(authority: Authority, path: Path, form: PrivateFormat = PrivateFormat.PKCS8, password: bytes = b"secret") -> None:
    issued = authority.server("localhost")
    key = issued.key.private_bytes(Encoding.PEM, form, BestAvailableEncryption(password))
    path.write_bytes(key + issued.pem + issued.chain_pem)


@FORMS
@KINDS
@pytest.mark.parametrize("given", ["itself", "file"])
def test_an_encrypted_key(kind: Callable[[Path], Contexts], form: PrivateFormat, authority: Authority, tmp_path: Path, given: str) -> None:
    write_encrypted(authority, tmp_path / "DEFAULT.pem", form)
    password = tmp_path / "password"
    password.write_bytes(b"secret\n")
    options = TLSOptions(key_password="secret") if given == "itself" else TLSOptions(key_password_file=str(password))
    certificates = kind(tmp_path)
    certificates.configure(options)
    with EchoServer(loaded(certificates)) as server, connect(server, client_context(authority)) as tls:
        assert exchange(tls) == b"ping"


@KINDS
def test_a_key_that_needs_no_password_is_read_all_the_same(kind: Callable[[Path], Contexts], authority: Authority, tmp_path: Path) -> None:
    authority.server("localhost").write(tmp_path / "DEFAULT.pem")
    certificates = kind(tmp_path)
    certificates.configure(TLSOptions(key_password_file=str(tmp_path / "nosuch")))
    with EchoServer(loaded(certificates)) as server, connect(server, client_context(authority)) as tls:
        assert exchange(tls) == b"ping"


def test_key_and_password_are_replaced_together(authority: Authority, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    password = tmp_path / "password"
    password.write_text("secret")
    write_encrypted(authority, tmp_path / "DEFAULT.pem")
    certificates = FileContexts(str(tmp_path / "DEFAULT.pem"), options=TLSOptions(key_password_file=str(password)))
    certificates.load()
    password.write_text("other")
    write_encrypted(authority, tmp_path / "DEFAULT.pem", password=b"other")
    certificates.reload()
    assert not [record for record in caplog.records if record.levelno >= logging.ERROR]


@FORMS
@pytest.mark.parametrize(
    ("options", "text"),
    [
        (TLSOptions(), "is encrypted; name the file with its password"),
        (TLSOptions(key_password="wrong"), "cannot be decrypted: the password is wrong"),
        (TLSOptions(key_password_file="/nonexistent"), "Cannot read the password of the private key /nonexistent: No such file"),
        (TLSOptions(key_password_file="/dev/null"), "Cannot read the password of the private key /dev/null: not a regular file"),
    ],
)
def test_passwords_that_open_nothing(authority: Authority, tmp_path: Path, form: PrivateFormat, options: TLSOptions, text: str) -> None:
    write_encrypted(authority, tmp_path / "DEFAULT.pem", form)
    certificates = FileContexts(str(tmp_path / "DEFAULT.pem"), options=options)
    with pytest.raises(TLSError, match=text) as caught:
        certificates.load()
    assert "wrong" not in str(caught.value).replace("the password is wrong", "")


def test_a_password_is_never_shown_and_given_once(tmp_path: Path) -> None:
    assert "secret" not in repr(TLSOptions(key_password="secret"))
    with pytest.raises(TLSError, match="given twice"):
        TLSOptions(key_password="secret", key_password_file="file")
    empty = tmp_path / "empty"
    empty.write_bytes(b"\n")
    with pytest.raises(TLSError, match="There is no password in"):
        TLSOptions(key_password_file=str(empty)).password()


# What applications are told


def test_every_cipher_has_a_number() -> None:
    """The numbers are those that OpenSSL reports."""
    offered = {*factory.CIPHERS.decode().split(":"), *(name for name in CIPHERS if name.startswith("TLS_") and "CCM" not in name)}
    assert offered <= set(CIPHERS)
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.set_ciphers("ALL:@SECLEVEL=0")
    known = {each["name"]: each["id"] & 0xFFFF for each in context.get_ciphers()}
    assert {name: number for name, number in CIPHERS.items() if name in known} == {name: known[name] for name in CIPHERS if name in known}
    assert offered <= set(known)


def test_numbers_of_what_a_proxy_reports() -> None:
    info = TLSInfo("TLSv1.3", "TLS_AES_128_GCM_SHA256")
    assert (info.version_number, info.cipher_number) == (0x0304, 0x1301)
    assert (info.server_certificate, info.client_chain, info.client_name) == (None, (), None)
    assert info.message() == {"version": "TLSv1.3", "cipher": "TLS_AES_128_GCM_SHA256"}
    assert TLSInfo("x", "y").version_number is None
    assert TLSInfo("x", "y").cipher_number is None


@pytest.mark.parametrize("version", [ssl.TLSVersion.TLSv1_2, ssl.TLSVersion.TLSv1_3])
def test_both_certificates_are_known(authority: Authority, tmp_path: Path, version: ssl.TLSVersion) -> None:
    issued = authority.server("localhost")
    alice = authority.client("alice")
    context = client_context(authority, version=version)
    context.load_cert_chain(str(alice.write(tmp_path / "client.pem")))
    options = TLSOptions(client_ca=str(authority.file))
    with EchoServer(loaded(FileContexts(str(issued.write(tmp_path / "server.pem")), options=options))) as server:
        session = None
        for resumed in (False, True):
            with connect(server, context, session=session) as tls:
                assert exchange(tls) == b"ping"
                assert tls.session_reused is resumed
                info = server.accepted.get(timeout=PATIENCE).info
                assert info.version_number == (0x0303 if version is ssl.TLSVersion.TLSv1_2 else 0x0304)
                assert info.cipher_number == CIPHERS[info.cipher]
                assert info.server_certificate == issued.pem.decode()
                assert info.client_name == "CN=alice"
                assert info.client_fingerprint == alice.certificate.fingerprint(SHA256()).hex()
                assert info.client_chain[0] == alice.pem.decode()
                if not resumed:
                    assert info.client_chain == tuple(each.pem.decode() for each in (alice, authority.intermediate, authority.root))
                session = tls.session


@pytest.mark.parametrize("wanted", [False, True])
@pytest.mark.parametrize("certificate", [False, True])
def test_messages_name_the_client(authority: Authority, tmp_path: Path, wanted: bool, certificate: bool) -> None:
    layer = MemoryChannelLayer()
    layer.tls_info = wanted
    alice = authority.client("alice")
    context = client_context(authority)
    if certificate:
        context.load_cert_chain(str(alice.write(tmp_path / "client.pem")))
    pem = authority.server("localhost").write(tmp_path / "server.pem")
    options = TLSOptions(client_ca=str(authority.file), verify="optional")
    with (
        serve(layer, endpoints=[f"ssl:0:{pem}:interface=127.0.0.1"], tls_options=options) as server,
        Client(context.wrap_socket(server.connect().sock, server_hostname="localhost")) as client,
    ):
        client.send(b"GET / HTTP/1.1\r\nHost: a\r\n\r\n")
        message = server.app.answer()
        client.read_response()
    if not wanted:
        assert "tls" not in message
        return
    named = {key: value for key, value in message["tls"].items() if key not in ("version", "cipher")}
    fingerprint = alice.certificate.fingerprint(SHA256()).hex()
    assert named == ({"client_subject": "CN=alice", "client_fingerprint": fingerprint} if certificate else {})


def test_the_environment_of_tests_is_private(tmp_path: Path) -> None:
    """Otherwise the tests above would warn of it."""
    assert not os.stat(tmp_path).st_mode & 0o022
