"""Certificates from a real authority, pebble: what is due is done, what goes wrong is survived, what is remembered is kept."""

from __future__ import annotations

import base64
import contextlib
import json
import logging
import os
import queue
import socket
import ssl
import stat
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from datetime import datetime, timedelta, timezone
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat, load_pem_private_key
from cryptography.x509.oid import ExtensionOID

from greendaphne.acme import AcmeError, issuing, schedule
from greendaphne.acme.__main__ import main
from greendaphne.acme.authority import Authority as Client
from greendaphne.acme.authority import certificate_identifier
from greendaphne.acme.options import HTTP_01, TLS_ALPN_01
from greendaphne.net.tls.handshake import ACME_TLS
from tests.support.acme import NOWHERE, PATIENCE, Between, Clock, Pebble, Reply, Site, between, pebble, site
from tests.support.certificates import Authority, issue
from tests.support.tls import exchange

HOST = "www.example.test"
DAY = 86400.0


@pytest.fixture(scope="module")
def authority(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Pebble]:
    with pebble(tmp_path_factory.mktemp("pebble")) as running:
        yield running


@pytest.fixture
def middle(authority: Pebble) -> Iterator[Between]:
    with between(authority) as running:
        yield running


@pytest.fixture(autouse=True)
def _log(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO, "greendaphne.acme")


@pytest.fixture(autouse=True)
def _look_soon(monkeypatch: pytest.MonkeyPatch) -> None:
    # pebble decides at once.
    monkeypatch.setattr(issuing, "FIRST_LOOK", 0.02)


def lines(caplog: pytest.LogCaptureFixture, level: int = logging.WARNING) -> list[str]:
    return [record.getMessage() for record in caplog.records if record.levelno >= level and record.name.startswith("greendaphne.acme")]


def content(body: bytes) -> Any:
    """What is inside a signed request."""
    payload = json.loads(body)["payload"]
    return json.loads(base64.urlsafe_b64decode(payload + "=" * (-len(payload) % 4)) or b"null")


def orders(middle: Between) -> int:
    return sum(path == "/order-plz" for _, path in middle.seen)


def test_an_empty_file_asks_for_a_certificate(authority: Pebble, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    with site(authority, tmp_path / "certs", HOST, email="webmaster@example.test") as here:
        with pytest.raises(ssl.SSLError):
            here.connect(HOST)
        assert here.look()
        with here.connect(HOST, "h2") as tls:
            assert exchange(tls) == b"ping"
            assert tls.selected_alpn_protocol() == "h2"
            shown = tls.getpeercert(binary_form=True)
        certificate = here.certificate(HOST)
        assert shown == certificate.public_bytes(Encoding.DER)
        assert isinstance(certificate.public_key(), ec.EllipticCurvePublicKey)
        data = here.file(HOST).read_bytes()
        key = load_pem_private_key(data, None)
        assert isinstance(key, ec.EllipticCurvePrivateKey)
        assert key.curve.name == "secp256r1"
        assert key.public_key() == certificate.public_key()
        assert len(x509.load_pem_x509_certificates(data)) == 2, "the chain is behind the certificate"
        for file in (here.file(HOST), here.directory / "client.key", here.directory / ".acme" / "state.json"):
            assert stat.S_IMODE(file.stat().st_mode) == 0o600, file
        assert stat.S_IMODE((here.directory / ".acme").stat().st_mode) == 0o700
        assert os.listdir(here.directory / ".acme" / "challenges") == []
        assert [name for name in os.listdir(here.directory / ".acme") if name.startswith("new-")] == []
        # Nothing is due now: nobody is asked any more.
        here.clock.advance(60)
        assert not here.look()
        assert here.served(HOST) == certificate.serial_number
        assert (here.manager.issued, here.manager.failed) == (1, 0)
        (status,) = here.manager.statuses()
        assert (status.host, status.danger, status.failures, status.reason) == (HOST, False, 0, "")
        assert status.renews is not None
        assert status.expires is not None
        assert status.renews < status.expires
    assert lines(caplog) == []


def test_names_are_issued_in_their_ascii_form(authority: Pebble, tmp_path: Path) -> None:
    with site(authority, tmp_path / "certs", domains=("Bücher.Example.TEST",)) as here:
        assert here.look()
        assert here.served("xn--bcher-kva.example.test") == here.certificate("xn--bcher-kva.example.test").serial_number


def test_a_certificate_is_renewed_when_a_third_of_its_life_is_left(authority: Pebble, tmp_path: Path) -> None:
    with site(authority, tmp_path / "certs", HOST) as here:
        here.look()
        first = here.certificate(HOST)
        begin, end = first.not_valid_before_utc.timestamp(), first.not_valid_after_utc.timestamp()
        third = end - (end - begin) / 3
        here.clock.now = third - (end - begin) / 3 * schedule.JITTER - DAY
        here.look()
        assert here.certificate(HOST) == first
        with here.connect(HOST) as old:
            here.clock.now = third
            assert here.look()
            second = here.certificate(HOST)
            assert second != first
            assert second.public_key() != first.public_key(), "every certificate has a key of its own"
            # At once, and those who are connected stay.
            assert here.served(HOST) == second.serial_number
            assert exchange(old) == b"ping"
        # A clock that is years wrong does not have it renewed again and again.
        for _ in range(3):
            here.clock.advance(3600)
            here.look()
        assert here.certificate(HOST) == second
        assert here.manager.issued == 2


def test_a_revoked_certificate_is_replaced(authority: Pebble, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with site(authority, tmp_path / "certs", HOST) as here:
        here.look()
        first = here.certificate(HOST)
        directory = str(here.directory)
        # The private authority's own authority is remembered.
        assert main(["revoke", "--reason=superseded", directory, HOST]) == 0
        assert authority.status(first.serial_number)["Status"] == "Revoked"
        assert authority.status(first.serial_number)["Reason"] == 4
        output = capsys.readouterr().out.splitlines()
        assert output[0].endswith(f" has revoked the certificate {first.serial_number:x} (superseded)")
        assert output[1].startswith(f"{HOST}: renewal asked for; ")
        assert here.served(HOST) == first.serial_number
        assert here.look()
        assert here.served(HOST) == here.certificate(HOST).serial_number != first.serial_number
        second = here.certificate(HOST)
        # What was asked for is done once.
        here.clock.advance(60)
        here.look()
        assert here.certificate(HOST) == second
        # Twice the same certificate is the authority's own no.
        assert main(["revoke", "--no-renewal", f"--acme-ca={authority.ca}", directory, HOST]) == 0
        assert main(["revoke", "--no-renewal", f"--acme-ca={authority.ca}", directory, HOST]) == 1
        assert "alreadyRevoked" in capsys.readouterr().err
        assert not here.look()


def test_a_rate_limit_is_respected(authority: Pebble, middle: Between, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    limited = True

    def rule(method: str, path: str, body: bytes) -> Reply | None:
        if limited and path == "/order-plz" and method == "POST":
            return Reply.problem(429, "rateLimited", "too many\ncertificates", Retry_After="7200", Replay_Nonce="bm9uY2U")
        return None

    middle.rules.append(rule)
    with site(authority, tmp_path / "certs", HOST, url=middle.url) as here:
        here.look()
        assert orders(middle) == 1
        assert lines(caplog) == [
            f"No certificate for {HOST} from {middle.url}: rateLimited: too many certificates; trying again in 2 hours",
        ]
        limited = False
        here.clock.advance(7100)
        assert not here.look()
        # Not even the operator's touch overrides the authority's word.
        os.utime(here.file(HOST))
        assert not here.look()
        assert orders(middle) == 1
        here.clock.advance(200)
        assert here.look()
        assert here.served(HOST)


def test_refused_nonces_are_replaced(authority: Pebble, middle: Between, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    refused: dict[str, int] = {}

    def rule(method: str, path: str, body: bytes) -> Reply | None:
        if method == "POST" and refused.setdefault(path, 0) < 3:
            refused[path] += 1
            return Reply.problem(400, "badNonce", "not this one")
        return None

    middle.rules.append(rule)
    with site(authority, tmp_path / "certs", HOST, url=middle.url) as here:
        here.look()
        assert here.served(HOST)
    assert len(refused) >= 6
    assert set(refused.values()) == {3}
    assert lines(caplog) == []


def test_nonces_that_are_always_refused_are_an_outage(
    authority: Pebble, middle: Between, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    middle.rules.append(lambda method, path, body: Reply.problem(400, "badNonce", "none will do") if method == "POST" else None)
    with site(authority, tmp_path / "certs", HOST, url=middle.url) as here:
        here.look()
    assert sum(method == "POST" for method, _ in middle.seen) == 6
    assert "badNonce: none will do" in lines(caplog)[0]


def test_an_invalid_order_is_logged_with_the_reason(authority: Pebble, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    host = f"www.{NOWHERE}"
    with site(authority, tmp_path / "certs", host, HOST, kinds=(TLS_ALPN_01, HTTP_01)) as here:
        here.look()
        # The others do not suffer.
        assert here.served(HOST)
        (line,) = lines(caplog)
        reason = "the authority could not confirm it with tls-alpn-01: malformed: Could not resolve"
        assert line.startswith(f"No certificate for {host} from {authority.url}: {reason}")
        assert line.endswith(("; trying again in 5 minutes", "; trying again in 6 minutes"))
        assert "\n" not in line
        assert not here.look()
        assert os.listdir(here.directory / ".acme" / "challenges") == []
        # The next try is later each time, and goes the other way.
        caplog.clear()
        here.clock.advance(400)
        assert here.look()
        assert "with http-01: connection: " in lines(caplog)[0]
        here.clock.advance(500)
        assert not here.look()
        # Whoever has corrected something touches the file.
        os.utime(here.file(host))
        assert here.look()
        assert here.manager.failed == 3
        status = next(status for status in here.manager.statuses() if status.host == host)
        assert status.failures == 3
        assert status.danger
        assert "could not resolve" in status.reason.lower()


def test_an_authority_that_is_down_for_a_day(authority: Pebble, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    directory = tmp_path / "pebble"
    directory.mkdir()
    with pebble(directory) as short, site(short, tmp_path / "certs", HOST) as here:
        here.look()
        first = here.certificate(HOST)
        begin, end = first.not_valid_before_utc.timestamp(), first.not_valid_after_utc.timestamp()
        trusted = short.client_context()
        short.stop()
        here.clock.now = start = end - (end - begin) / 3
        tries = []
        while here.clock.now < start + DAY:
            if here.look():
                tries.append(here.clock.now)
            here.clock.advance(120)
        gaps = [later - earlier for earlier, later in pairwise(tries)]
        assert len(tries) < 40
        assert max(gaps) <= 1.3 * 3600, "it is back within the hour"
        assert min(gaps) >= 60
        assert here.certificate(HOST) == first
        with trusted.wrap_socket(here.server.connect(), server_hostname=HOST) as tls:
            assert exchange(tls) == b"ping"
        assert "cannot be reached: Connection refused; the present certificate stays in service; trying again in " in lines(caplog)[0]
        assert all(record.levelno == logging.WARNING for record in caplog.records if "No certificate" in record.getMessage())
        # It forgets everyone in the meantime: the account is made anew.
        short.start()
        here.clock.advance(2 * 3600)
        assert here.look()
        assert here.served(HOST) == here.certificate(HOST).serial_number != first.serial_number


def test_a_certificate_in_danger_is_an_error_each_day(authority: Pebble, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    directory = tmp_path / "pebble"
    directory.mkdir()
    with pebble(directory) as gone, site(gone, tmp_path / "certs", HOST) as here:
        here.look()
        certificate = here.certificate(HOST)
        begin, end = certificate.not_valid_before_utc.timestamp(), certificate.not_valid_after_utc.timestamp()
        gone.stop()
        here.clock.now = panic = end - (end - begin) / 6
        for _ in range(3 * 24):
            here.look()
            here.clock.advance(3600)
        errors = lines(caplog, logging.ERROR)
        assert len(errors) == 3
        assert errors[0].startswith(f"The certificate for {HOST} expires in {(end - panic) / DAY:.0f} days and could not be renewed: ")
        assert "Connection refused" in errors[0]
        assert here.manager.statuses()[0].danger


def test_a_certificate_is_issued_once_for_several_processes(authority: Pebble, middle: Between, tmp_path: Path) -> None:
    directory = tmp_path / "certs"
    clock = Clock(time.time())
    with (
        site(authority, directory, HOST, url=middle.url, clock=clock) as one,
        site(authority, directory, url=middle.url, clock=clock) as two,
        ThreadPoolExecutor() as pool,
    ):
        # Both accept from the authority's socket: the challenge arrives at either.
        results = [here.look for _ in range(5) for here in (one, two)]
        for future in [pool.submit(look) for look in results]:
            future.result(PATIENCE)
        assert orders(middle) == 1
        assert one.manager.issued + two.manager.issued == 1
        serial = one.certificate(HOST).serial_number
        assert {here.served(HOST) for _ in range(4) for here in (one, two)} == {serial}
        for here in (one, two):
            here.look()
            assert [status.danger for status in here.manager.statuses()] == [False]


def test_who_is_killed_leaves_no_lock_and_no_challenge(authority: Pebble, tmp_path: Path) -> None:
    with site(authority, tmp_path / "certs", HOST) as here:
        private = here.directory / ".acme"
        stale = private / "challenges" / "http-01.0123456789abcdef"
        stale.parent.mkdir(parents=True, mode=0o700, exist_ok=True)
        stale.write_text("from before")
        (private / "lock").touch()
        here.look()
        assert here.served(HOST)
        assert not stale.exists()


def test_who_is_killed_in_the_middle_of_a_try_has_failed(
    authority: Pebble, middle: Between, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """A process that is killed and started again and again must not order again and again."""
    with site(authority, tmp_path / "certs", HOST, url=middle.url) as here:
        file = here.directory / ".acme" / "state.json"

        def killed(method: str, path: str, body: bytes) -> None:
            if path == "/order-plz":
                (here.directory / "copy").write_bytes(file.read_bytes())

        middle.rules.append(killed)
        here.look()
        clock = here.clock
        # As the directory was in the middle of it.
        os.replace(here.directory / "copy", file)
        here.file(HOST).write_bytes(b"")
    assert orders(middle) == 1
    with site(authority, tmp_path / "certs", url=middle.url, clock=clock) as here:
        here.look()
        assert not here.look()
        assert orders(middle) == 1
        (line,) = lines(caplog)
        assert line.startswith(f"No certificate for {HOST} from {middle.url}: the last attempt did not finish")
        clock.advance(400)
        here.look()
        assert orders(middle) == 2
        assert here.served(HOST)


def test_an_error_that_nobody_has_thought_of_is_a_failure(
    authority: Pebble, middle: Between, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def broken(*args: Any) -> bytes:
        raise RecursionError("deep")

    with site(authority, tmp_path / "certs", HOST, url=middle.url) as here:
        with monkeypatch.context() as patch:
            patch.setattr(issuing, "checked", broken)
            with pytest.raises(RecursionError):
                here.look()
            here.look()
            for _ in range(3):
                assert not here.look()
            assert orders(middle) == 1
        here.clock.advance(400)
        assert here.look()
        assert here.served(HOST)


def test_nothing_is_ordered_where_nothing_can_be_remembered(
    authority: Pebble, middle: Between, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    with site(authority, tmp_path / "certs", HOST, url=middle.url) as here:
        store = here.contexts.store
        write = store.write

        def full(path: str, data: bytes) -> None:
            raise AcmeError(f"Cannot write {path}: No space left on device")

        store.account_key()
        monkeypatch.setattr(store, "write", full)
        here.look()
        for _ in range(3):
            assert not here.look()
        assert orders(middle) == 0
        assert "No space left on device" in lines(caplog)[0]
        monkeypatch.setattr(store, "write", write)
        here.clock.advance(400)
        assert here.look()
        assert here.served(HOST)


def test_a_clock_that_is_far_ahead_does_not_order_again_and_again(authority: Pebble, middle: Between, tmp_path: Path) -> None:
    with site(authority, tmp_path / "certs", HOST, url=middle.url) as here:
        here.clock.advance(20 * 365 * DAY)
        here.look()
        assert here.certificate(HOST).not_valid_after_utc.timestamp() < here.clock.now
        for _ in range(5):
            here.clock.advance(3600)
            here.look()
        assert orders(middle) == 1
        # A wish is another matter.
        here.file(HOST).write_bytes(b"")
        here.look()
        assert orders(middle) == 2


def test_of_two_authorities_the_one_that_came_last_fills_the_directory(
    authority: Pebble, middle: Between, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """As while the workers with ``lets:`` are replaced by those with ``le:``: neither undoes what the other does."""
    directory, clock = tmp_path / "certs", Clock(time.time())
    with site(authority, directory, HOST, clock=clock) as old:
        old.look()
        with site(authority, directory, url=middle.url, clock=clock) as new:
            assert new.look()
            serial = new.certificate(HOST).serial_number
            for _ in range(3):
                assert not old.look()
                assert not new.look()
            assert lines(caplog) == [f"Certificates in {directory} come from {middle.url} now; this process obtains none for it any more"]
            assert new.certificate(HOST).serial_number == serial
            assert orders(middle) == 1
            # What is remembered may be lost at any time.
            (directory / ".acme" / "state.json").unlink()
            new.file("a.example.test").touch()
            assert new.look()
            assert orders(middle) == 2


def test_a_broken_file_is_left_alone(authority: Pebble, middle: Between, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    with site(authority, tmp_path / "certs", url=middle.url) as here:
        here.file(HOST).write_text("-----BEGIN CERTIFICATE-----\nhalf of\n-----END CERTIFICATE-----\n")
        for _ in range(3):
            here.look()
        (line,) = lines(caplog)
        assert line == (
            f"A certificate in {here.file(HOST)} is malformed; it is left as it is and not renewed, correct it or empty it to have a new "
            "certificate issued"
        )
        assert orders(middle) == 0
        here.clock.advance(DAY)
        here.look()
        assert lines(caplog) == [line, line]
        here.file(HOST).write_bytes(b"")
        assert here.look()
        assert here.served(HOST)


def test_a_file_that_becomes_readable_is_served(authority: Pebble, tmp_path: Path) -> None:
    """Permissions leave no trace in the modification time."""
    root = Authority.make(tmp_path)
    with site(authority, tmp_path / "certs") as here:
        pem = root.server(HOST).write(tmp_path / "other.pem")
        here.file(HOST).mkdir()
        here.look()
        here.file(HOST).rmdir()
        os.rename(pem, here.file(HOST))
        here.look()
        context = ssl.create_default_context(cafile=str(root.file))
        with context.wrap_socket(here.server.connect(), server_hostname=HOST) as tls:
            assert exchange(tls) == b"ping"


def test_what_no_certificate_can_be_had_for(authority: Pebble, middle: Between, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    with site(authority, tmp_path / "certs", "*.example.test", "192.0.2.1", "Upper.example.test", "DEFAULT", url=middle.url) as here:
        (here.directory / "target").touch()
        here.file("link.example.test").symlink_to(here.directory / "target")
        here.look()
        assert not here.look()
        found = lines(caplog)
        assert len(found) == 3
        assert any("is a wildcard" in line for line in found)
        assert any("is an address" in line for line in found)
        assert any("rename it to upper.example.test.pem" in line for line in found)
        assert orders(middle) == 0


def test_nothing_is_issued_without_agreement(authority: Pebble, middle: Between, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    root = Authority.make(tmp_path)
    with site(authority, tmp_path / "certs", HOST, url=middle.url, agree_tos=False) as here:
        root.server("localhost").write(here.file("localhost"))
        for _ in range(3):
            assert not here.look()
        (line,) = lines(caplog)
        assert line == (
            f"Certificates in {here.directory} are due, and none is issued: agree to the terms of service of {middle.url} with "
            "--acme-agree-tos"
        )
        assert middle.seen == []
        context = ssl.create_default_context(cafile=str(root.file))
        with context.wrap_socket(here.server.connect(), server_hostname="localhost") as tls:
            assert exchange(tls) == b"ping"


def test_external_account_binding(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    key = base64.urlsafe_b64encode(bytes(range(32))).decode().rstrip("=")
    directory = tmp_path / "pebble"
    directory.mkdir()
    with pebble(directory, {"kid-1": key}) as bound:
        with site(bound, tmp_path / "certs", HOST) as here:
            here.look()
            assert "externalAccountRequired" in lines(caplog)[0]
        with site(bound, tmp_path / "certs", HOST, eab_kid="kid-1", eab_hmac_key=key) as here:
            here.clock.advance(DAY)
            assert here.look()
            assert here.served(HOST)
            assert key not in (here.directory / ".acme" / "state.json").read_text()


def test_an_account_key_of_txacme_is_used(authority: Pebble, tmp_path: Path) -> None:
    directory = tmp_path / "certs"
    directory.mkdir()
    key = rsa.generate_private_key(65537, 2048)
    pem = key.private_bytes(Encoding.PEM, PrivateFormat.TraditionalOpenSSL, NoEncryption())
    (directory / "client.key").write_bytes(pem)
    with site(authority, directory, HOST) as here:
        here.look()
        assert here.served(HOST)
        assert (directory / "client.key").read_bytes() == pem


def test_another_authority_issues_anew(authority: Pebble, middle: Between, tmp_path: Path) -> None:
    """As when ``lets:`` becomes ``le:`` after a test."""
    with site(authority, tmp_path / "certs", HOST) as here:
        here.look()
        first = here.certificate(HOST)
    with site(authority, tmp_path / "certs", url=middle.url) as here:
        assert here.look()
        assert here.served(HOST) == here.certificate(HOST).serial_number != first.serial_number


def test_the_authority_says_when_to_renew(authority: Pebble, middle: Between, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """ARI, which pebble 2.4 does not know."""
    start, ordered, refuse = "2031-01-01T00:00:00Z", [], True
    middle.directory["renewalInfo"] = "/renewal"

    def rule(method: str, path: str, body: bytes) -> Reply | None:
        if path.startswith("/renewal/"):
            window = {"start": start, "end": start[:11] + "00:00:00.5Z"}
            return Reply(200, {"suggestedWindow": window, "explanationURL": "https://example.test/why"}, {"Retry-After": "21600"})
        if path == "/order-plz" and method == "POST":
            ordered.append(content(body))
            if refuse and "replaces" in ordered[-1]:
                return Reply.problem(409, "alreadyReplaced", "by another one", Replay_Nonce="bm9uY2U")
        return None

    middle.rules.append(rule)
    with site(authority, tmp_path / "certs", HOST, url=middle.url) as here:
        here.look()
        first = here.certificate(HOST)
        renewals = [path for _, path in middle.seen if path.startswith("/renewal/")]
        assert renewals == [f"/renewal/{certificate_identifier(first)}"]
        (status,) = here.manager.statuses()
        assert status.renews is not None
        panic = schedule.panic_time(first.not_valid_before_utc.timestamp(), first.not_valid_after_utc.timestamp())
        assert status.renews == min(panic, 1924992000.0)
        # It is asked again when it wants to be, and not before.
        here.clock.advance(21000)
        assert not here.look()
        start = "2026-01-01T00:00:00Z"
        here.clock.advance(DAY)
        assert here.look()
        assert here.certificate(HOST) == first
        assert any("2026-01-01 00:00 UTC (https://example.test/why)" in line for line in lines(caplog, logging.INFO))
        assert here.look()
        assert here.served(HOST) != first.serial_number
        assert ordered[0].get("replaces") is None
        assert ordered[1]["replaces"] == certificate_identifier(first)
        assert "replaces" not in ordered[2]
    assert lines(caplog) == []


def test_certificates_are_named_as_in_the_rfc() -> None:
    """The example of RFC 9773 section 4.1."""
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([])
    now = datetime.now(timezone.utc)
    builder = x509.CertificateBuilder().subject_name(name).issuer_name(name).public_key(key.public_key())
    builder = builder.serial_number(0x87654321).not_valid_before(now).not_valid_after(now + timedelta(days=1))
    assert certificate_identifier(builder.sign(key, hashes.SHA256())) is None
    identifier = x509.AuthorityKeyIdentifier(bytes.fromhex("69885B6B87464041E1B37B847BA0AE2CDE01C8D4"), None, None)
    builder = builder.add_extension(identifier, critical=False)
    assert certificate_identifier(builder.sign(key, hashes.SHA256())) == "aYhba4dGQEHhs3uEe6CuLN4ByNQ.AIdlQyE"


def test_challenges_and_clients_meet_on_one_port(authority: Pebble, tmp_path: Path) -> None:
    """TLS 1.2 and 1.3, RSA and ECDSA: nobody gets anything but his own certificate while challenges come in."""
    root = Authority.make(tmp_path)
    hosts = [f"host{number}.example.test" for number in range(2)]
    with site(authority, tmp_path / "certs", *hosts) as here:
        root.server("rsa.example.test", kind="rsa").write(here.file("rsa.example.test"))
        root.server("ec.example.test").write(here.file("ec.example.test"))
        root.server("any.example.test", kind="rsa").write(here.file("DEFAULT"))
        stop = threading.Event()

        def client(host: str, version: ssl.TLSVersion) -> int:
            context = ssl.create_default_context(cafile=str(root.file))
            context.minimum_version = context.maximum_version = version
            number = 0
            while not stop.is_set():
                with context.wrap_socket(here.server.connect(), server_hostname=host) as tls:
                    assert tls.version() == {ssl.TLSVersion.TLSv1_2: "TLSv1.2"}.get(version, "TLSv1.3")
                    assert exchange(tls) == b"ping"
                number += 1
            return number

        versions = (ssl.TLSVersion.TLSv1_2, ssl.TLSVersion.TLSv1_3)
        with ThreadPoolExecutor() as pool:
            names = ("rsa.example.test", "ec.example.test", "any.example.test")
            clients = [pool.submit(client, name, version) for name in names for version in versions]
            try:
                here.look()
            finally:
                stop.set()
            assert all(future.result(PATIENCE) > 0 for future in clients)
        for host in hosts:
            assert here.served(host) == here.certificate(host).serial_number


@pytest.mark.parametrize("version", [ssl.TLSVersion.TLSv1_2, ssl.TLSVersion.TLSv1_3])
@pytest.mark.parametrize("kind", ["ec", "rsa"])
def test_a_challenge_on_any_version(authority: Pebble, tmp_path: Path, kind: str, version: ssl.TLSVersion) -> None:
    """The certificate of RFC 8737, also where another kind of key is in service, and the end of the connection behind it."""
    root = Authority.make(tmp_path)
    with site(authority, tmp_path / "certs") as here:
        root.server(HOST, kind=kind).write(here.file(HOST))
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
        context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
        context.minimum_version = context.maximum_version = version
        context.set_alpn_protocols([ACME_TLS])
        with pytest.raises(ssl.SSLError, match=r"(?i)no.application.protocol"):
            context.wrap_socket(here.server.connect(), server_hostname=HOST)
        here.contexts.challenges.offer(TLS_ALPN_01, HOST, "0123456789abcdef", "0123456789abcdef.thumbprint")
        with context.wrap_socket(here.server.connect(), server_hostname=HOST) as tls:
            assert tls.selected_alpn_protocol() == ACME_TLS
            data = tls.getpeercert(binary_form=True)
            assert tls.recv(1) == b""
        assert data is not None
        certificate = x509.load_der_x509_certificate(data)
        extension = certificate.extensions.get_extension_for_oid(x509.ObjectIdentifier("1.3.6.1.5.5.7.1.31"))
        assert extension.critical
        names = certificate.extensions.get_extension_for_oid(ExtensionOID.SUBJECT_ALTERNATIVE_NAME).value
        assert isinstance(names, x509.SubjectAlternativeName)
        assert names.get_values_for_type(x509.DNSName) == [HOST]
        # For a host whose challenge is not open there is nothing.
        with pytest.raises(ssl.SSLError):
            context.wrap_socket(here.server.connect(), server_hostname="other.example.test")
        # A hello in pieces is waited for.
        pieces(here, HOST)


def pieces(here: Site, host: str) -> None:
    """A challenge whose ClientHello comes byte by byte at its beginning."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
    context.set_alpn_protocols([ACME_TLS])
    incoming, outgoing = ssl.MemoryBIO(), ssl.MemoryBIO()
    tls = context.wrap_bio(incoming, outgoing, server_hostname=host)
    with here.server.connect() as sock:
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        while True:
            try:
                tls.do_handshake()
                break
            except ssl.SSLWantReadError:
                data = outgoing.read()
                for cut in (slice(0, 1), slice(1, 4), slice(4, 100), slice(100, None)):
                    sock.sendall(data[cut])
                incoming.write(sock.recv(65536))
        assert tls.selected_alpn_protocol() == ACME_TLS


def test_a_hello_that_stays_incomplete_times_out(authority: Pebble, tmp_path: Path) -> None:
    with site(authority, tmp_path / "certs") as here:
        here.server.timeout = 0.3
        here.contexts.challenges.offer(TLS_ALPN_01, HOST, "0123456789abcdef", "0123456789abcdef.thumbprint")
        with here.server.connect() as sock:
            sock.sendall(b"\x16\x03\x01\x02\x00\x01")
            with contextlib.suppress(ConnectionResetError):
                assert sock.recv(1) == b""
        assert type(here.server.ended.get(timeout=PATIENCE)).__name__ == "HandshakeTimeout"


def test_nothing_blocks_the_hub(authority: Pebble, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Requests, keys and signatures are made in another thread than the hub's."""
    threads: set[int] = set()

    def watched(name: str) -> Callable[..., Any]:
        original: Callable[..., Any] = getattr(Client, name)

        def call(self: Client, *args: Any) -> Any:
            threads.add(threading.get_ident())
            return original(self, *args)

        return call

    for name in ("connect", "sign_in", "new_order", "fetch", "accept", "finalize", "download"):
        monkeypatch.setattr(Client, name, watched(name))
    with site(authority, tmp_path / "certs", HOST) as here:
        hub: queue.Queue[int] = queue.Queue()
        here.server.call(lambda: hub.put(threading.get_ident()))
        here.look()
        assert here.served(HOST)
        assert len(threads) == 1
        assert hub.get(timeout=PATIENCE) not in threads


def test_a_certificate_that_cannot_be_written_is_not_ordered_again(
    authority: Pebble, middle: Between, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    with site(authority, tmp_path / "certs", HOST, url=middle.url) as here:
        put = here.contexts.store.put

        def full(host: str, data: bytes) -> None:
            raise AcmeError(f"Cannot write {host}: No space left on device")

        monkeypatch.setattr(here.contexts.store, "put", full)
        here.look()
        assert "No space left on device" in lines(caplog)[0]
        monkeypatch.setattr(here.contexts.store, "put", put)
        here.clock.advance(3600)
        here.look()
        assert here.served(HOST)
        assert orders(middle) == 1


def test_a_new_start_tries_again_what_may_have_been_corrected(
    authority: Pebble, middle: Between, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """What failed between server and authority is tried at once, what the authority refused is not; and that is said."""
    refused = "www." + NOWHERE
    with site(authority, tmp_path / "certs", refused, url=middle.url) as here:
        here.look()
        here.file(HOST).touch()
        middle.rules.append(lambda method, path, body: Reply.problem(403, "unauthorized", "no") if path == "/sign-me-up" else None)
        (here.directory / "client.key").unlink()
        here.file("a.example.test").touch()
        here.look()
        assert sum(path == "/sign-me-up" for _, path in middle.seen) == 2, "it is asked once for all hosts"
        assert not here.look()
        clock = here.clock
    middle.rules.clear()
    caplog.clear()
    with site(authority, tmp_path / "certs", url=middle.url, clock=clock) as here:
        assert here.look()
        assert here.served(HOST)
        assert here.served("a.example.test")
        (line,) = lines(caplog)
        assert line.startswith(f"{refused} is tried again in ")
        assert f"or once {here.file(refused)} is touched: the authority could not confirm it with tls-alpn-01: " in line


def changed(**values: Any) -> Callable[[bytes], bytes]:
    """A JSON object with other values."""
    return lambda body: json.dumps({**json.loads(body), **values}).encode()


NO_CHALLENGES = [{"type": "dns-01", "token": "0123456789abcdef", "url": "https://localhost/"}]
OTHER = issue("www.example.test", names=["www.example.test"]).pem
DENIED = {"type": "urn:ietf:params:acme:error:caa", "detail": "another\nauthority"}


@pytest.mark.parametrize(
    ("path", "change", "reason", "outage"),
    [
        ("/order-plz", changed(authorizations=None), "sent an invalid answer: an order without authorizations", True),
        ("/order-plz", lambda body: b"[]", "sent an invalid answer: ValueError: an answer is not an object", True),
        ("/authZ/", changed(status="revoked"), "that is revoked", False),
        ("/authZ/", changed(challenges=NO_CHALLENGES), "the authority offers dns-01 to prove control of", False),
        ("/authZ/", changed(challenges=None), "the authority offers nothing to prove control of", False),
        ("/authZ/", changed(challenges=[{"type": "tls-alpn-01", "token": "../x", "url": ""}]), "token is not base64url", False),
        ("/authZ/", changed(status="pending"), "has not decided within 0.5 seconds: still pending", True),
        ("/my-order/", changed(status="invalid", error=DENIED), "the authority refused the order: caa: another authority", False),
        ("/my-order/", changed(status="invalid", error=None), "the authority refused the order: no reason was given", False),
        ("/my-order/", changed(status="processing"), "still processing", True),
        ("/certZ/", lambda body: b"-----BEGIN CERTIFICATE-----", "sent a certificate that is malformed", True),
        ("/certZ/", lambda body: OTHER, "sent a certificate for another key or host", True),
    ],
)
def test_answers_that_are_not_what_they_should_be(
    authority: Pebble,
    middle: Between,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
    path: str,
    change: Callable[[bytes], bytes],
    reason: str,
    outage: bool,
) -> None:
    monkeypatch.setattr(issuing, "VALIDATION_TIMEOUT", 0.5)
    monkeypatch.setattr(issuing, "ISSUE_TIMEOUT", 0.5)
    middle.changes[path] = change
    with site(authority, tmp_path / "certs", HOST, url=middle.url) as here:
        assert here.look()
        (line,) = lines(caplog)
        assert reason in line
        assert "\n" not in line
        assert here.file(HOST).read_bytes() == b""
        assert bool(here.manager.outages) == outage
        assert os.listdir(here.directory / ".acme") != []
        assert not here.look()


def test_an_account_is_changed_with_its_address(authority: Pebble, middle: Between, tmp_path: Path) -> None:
    sent: list[tuple[str, Any]] = []

    def rule(method: str, path: str, body: bytes) -> None:
        if path.startswith(("/my-account/", "/sign-me-up")):
            sent.append((path, content(body)))

    middle.rules.append(rule)
    with site(authority, tmp_path / "certs", HOST, url=middle.url, email="old@example.test") as here:
        here.look()
        assert sent == [("/sign-me-up", {"termsOfServiceAgreed": True, "contact": ["mailto:old@example.test"]})]
    with site(authority, tmp_path / "certs", "a.example.test", url=middle.url, email="new@example.test") as here:
        here.look()
        assert here.served("a.example.test")
        assert len(sent) == 3
        assert sent[2][0].startswith("/my-account/")
        assert sent[2][1] == {"contact": ["mailto:new@example.test"]}


def test_advice_on_renewal_that_is_nonsense_is_no_matter(
    authority: Pebble, middle: Between, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    answers = [
        Reply(500, {"detail": "out of order"}, {"Retry-After": "30000"}),
        Reply(404, {"type": "urn:ietf:params:acme:error:malformed", "detail": "never heard of it"}),
        Reply(200, {"suggestedWindow": {"start": "2026-01-02T00:00:00Z", "end": "2026-01-01T00:00:00Z"}}),
        Reply(200, {"suggestedWindow": {"start": "soon", "end": "later"}}),
        Reply(200, []),
    ]
    middle.directory["renewalInfo"] = "/renewal/"
    middle.rules.append(lambda method, path, body: answers[0] if path.startswith("/renewal/") else None)
    with site(authority, tmp_path / "certs", HOST, url=middle.url) as here:
        here.look()
        first = here.certificate(HOST)
        while len(answers) > 1:
            assert not here.look()
            here.clock.advance(3 * 3600)
            assert not here.look()
            answers.pop(0)
            here.clock.advance(DAY)
            assert here.look()
        assert here.certificate(HOST) == first
        assert sum("Cannot ask when to renew" in line for line in lines(caplog, logging.INFO)) == 5
        assert lines(caplog) == []
        assert here.manager.outages == 0


def test_an_authority_that_is_half_out_of_order(
    authority: Pebble, middle: Between, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """The directory answers and orders fail: the tries become fewer all the same, and all hosts wait for the same."""
    broken = Reply.problem(500, "serverInternal", "try again")
    middle.rules.append(lambda method, path, body: broken if path == "/order-plz" and method == "POST" else None)
    with site(authority, tmp_path / "certs", HOST, "a.example.test", url=middle.url) as here:
        tries = []
        for _ in range(60):
            if here.look():
                tries.append(here.clock.now)
            here.clock.advance(60)
        assert orders(middle) == len(tries) == here.manager.outages
        gaps = [later - earlier for earlier, later in pairwise(tries)]
        assert gaps == sorted(gaps)
        assert len(tries) <= 6
        middle.rules.clear()
        here.clock.advance(DAY)
        here.look()
        assert here.served(HOST)
        assert here.served("a.example.test")
        assert here.manager.outages == 0
        assert any("can be reached again" in line for line in lines(caplog, logging.INFO))


def test_nonsense_from_the_authority_is_survived(
    authority: Pebble, middle: Between, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    answers: list[Reply] = [
        Reply(200, ["no", "directory"]),
        Reply(200, {"newNonce": "https://localhost/"}),
        Reply(503, {"type": "urn:ietf:params:acme:error:serverInternal", "detail": "busy"}, {"Retry-After": "86400"}),
        Reply(500, "x"),
        Reply(200, {"newNonce": "http://localhost/", "newAccount": "http://localhost/", "newOrder": "http://localhost/"}),
        Reply(200, "x" * (1024 * 1024 + 1)),
        Reply(302, {}, {"Location": "http://localhost/"}),
        Reply(308, {}, {"Location": "/dir2"}),
        Reply(200, b"[" * 100_000),
    ]
    middle.rules.append(lambda method, path, body: answers[0] if path == "/dir" else None)
    with site(authority, tmp_path / "certs", HOST, url=middle.url) as here:
        while answers:
            caplog.clear()
            assert here.look(), answers[0]
            (line,) = lines(caplog)
            assert line.startswith(f"No certificate for {HOST}"), line
            if answers[0].status == 503:
                here.clock.advance(DAY - 60)
                assert not here.look()
            answers.pop(0)
            here.clock.advance(DAY)
        middle.rules.clear()
        assert here.look()
        assert here.served(HOST)
