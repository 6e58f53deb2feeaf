"""Names, times, files and endpoint strings of certificates from an authority, without the authority."""

from __future__ import annotations

import json
import os
import random
import stat
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from greendaphne.acme import AcmeError, AcmeOptions, read_hmac_key, schedule
from greendaphne.acme.__main__ import main
from greendaphne.acme.authority import one_line, problem, retry_after
from greendaphne.acme.challenges import Challenges
from greendaphne.acme.contexts import AcmeContexts
from greendaphne.acme.endpoints import LETS_ENCRYPT, LETS_ENCRYPT_STAGING
from greendaphne.acme.names import NameRefused, host_of_file, to_host
from greendaphne.acme.options import HTTP_01, TLS_ALPN_01
from greendaphne.acme.service import Service, challenge_kinds
from greendaphne.acme.status import duration
from greendaphne.acme.store import Record, State, Store
from greendaphne.config import ConfigurationError
from greendaphne.net.endpoints import EndpointError, parse, quote
from greendaphne.net.tls.sni import host_name
from greendaphne.running.assembly import acme_options
from tests.support.certificates import Authority
from tests.support.settings import configured

DAY = 86400.0


@pytest.fixture
def store(tmp_path: Path) -> Store:
    made = Store(str(tmp_path / "certs"))
    assert made.check() is None
    return made


@pytest.mark.parametrize(
    ("text", "host"),
    [
        ("www.example.com", "www.example.com"),
        ("WWW.Example.COM.", "www.example.com"),
        (" example.com ", "example.com"),
        ("bücher.example", "xn--bcher-kva.example"),
        ("BÜCHER.example", "xn--bcher-kva.example"),
        ("localhost", "localhost"),
        ("a" * 63 + ".test", "a" * 63 + ".test"),
    ],
)
def test_names(text: str, host: str) -> None:
    assert to_host(text) == host


@pytest.mark.parametrize(
    "text",
    [
        "",
        ".",
        "*.example.com",
        "_.example.com",
        "*",
        "192.0.2.1",
        "::1",
        "..",
        "a..b",
        "../etc/passwd",
        "a/b",
        "a\0b",
        "-a.example.com",
        "a-.example.com",
        "a_b.example.com",
        "a b",
        "a" * 64 + ".test",
        ".".join(["a" * 60] * 5),
        "example.123",
        "☃" * 80 + ".test",
        "a\nb.test",
    ],
)
def test_names_that_are_refused(text: str) -> None:
    with pytest.raises(NameRefused) as error:
        to_host(text)
    assert "\n" not in str(error.value)


@given(st.text(max_size=80))
def test_any_name_is_a_safe_file_name_or_refused(text: str) -> None:
    try:
        host = to_host(text)
    except NameRefused:
        return
    assert host == host_name(host.encode()), "clients can ask for it"
    assert "/" not in host
    assert not host.startswith(".")
    assert host_of_file(f"{host}.pem") == host


@pytest.mark.parametrize("name", ["DEFAULT.pem", "client.key", ".hidden.pem", "notes.txt", ".acme"])
def test_files_that_are_no_host(name: str) -> None:
    assert host_of_file(name) is None


@given(st.floats(0, 2e9), st.floats(60, 1e9), st.integers(1, 2**159))
def test_renewal_is_within_the_window(begin: float, lifetime: float, serial: int) -> None:
    end = begin + lifetime
    at = schedule.renewal_time(begin, end, serial)
    assert end - lifetime / 3 * 1.1 - 1 <= at <= end - lifetime / 3 + 1
    assert at == schedule.renewal_time(begin, end, serial)
    assert at < schedule.panic_time(begin, end) < end
    assert schedule.renewal_time(begin, end, serial, begin) == begin
    assert schedule.renewal_time(begin, end, serial, end + 1) == schedule.panic_time(begin, end)
    assert begin <= schedule.pick(begin, end, serial) <= end
    assert schedule.pick(end, begin, serial) == end


@pytest.mark.parametrize(("days", "left"), [(90, 30), (6, 2), (1, 1 / 3), (1 / 24, 1 / 72)])
def test_short_lived_certificates_have_short_windows(days: float, left: float) -> None:
    at = schedule.renewal_time(0, days * DAY, 7)
    assert left * DAY <= days * DAY - at <= left * DAY * 1.1
    assert schedule.earliest_renewal(0, days * DAY, 0) < at


@given(st.integers(1, 1000), st.booleans(), st.none() | st.floats(0, 1e6), st.none() | st.floats(-1e6, 1e8), st.floats(0, 1))
def test_delays(failures: int, outage: bool, wait: float | None, left: float | None, chance: float) -> None:
    delay = schedule.retry_delay(failures, outage, wait, left, chance)
    longest = schedule.OUTAGE_MAX if outage else schedule.RETRY_MAX
    assert 60 <= delay <= max(longest, wait or 0)
    if wait is not None:
        assert delay >= min(wait, schedule.WAIT_MAX)


def test_what_is_remembered_by_a_clock_that_was_wrong_does_not_count() -> None:
    assert schedule.is_ahead(1001, 1000)
    assert not schedule.is_ahead(1000, 1000)
    assert not schedule.is_ahead(1000 + 9 * DAY, 1000)


def test_delays_grow() -> None:
    assert [schedule.retry_delay(n, False, None, None, 0) / 60 for n in (1, 2, 3, 20)] == [5, 10, 20, 720]
    assert [schedule.retry_delay(n, True, None, None, 0) / 60 for n in (1, 2, 3, 20)] == [1, 2, 4, 60]
    assert schedule.retry_delay(20, False, None, 8 * 3600, 0) == 3600
    assert duration(schedule.DAY * 3) == "3 days"
    assert duration(90) == "90 seconds"


def test_retry_after() -> None:
    assert retry_after("120") == 120
    assert retry_after("Wed, 21 Oct 2015 07:28:00 GMT") == 0
    later = time.strftime("%a, %d %b %Y %H:%M:%S GMT", time.gmtime(time.time() + 600))
    assert 500 < (retry_after(later) or 0) <= 600
    for text in (None, "", "soon", "-1", "١٢", "9" * 400):
        assert retry_after(text) in (None, 999999999.0)


def test_problems_are_one_line() -> None:
    nested = {"type": "urn:x:compound", "detail": "several", "subproblems": [{"type": "urn:x:dns", "detail": "a\r\nb"}] * 10}
    assert problem(nested) == "compound: several; dns: a b; dns: a b; dns: a b"
    assert problem(None) == "no reason was given"
    assert problem({}) == "about:blank: no further reason was given".replace("about:", "")
    assert len(one_line("x" * 10000)) < 600


def test_files_are_private_and_whole(store: Store) -> None:
    path = os.path.join(store.path, "a.test.pem")
    os.umask(os.umask(0))
    store.write(path, b"one")
    store.write(path, b"two")
    assert Path(path).read_bytes() == b"two"
    assert stat.S_IMODE(os.stat(path).st_mode) == 0o600
    assert os.listdir(store.private) == []
    with pytest.raises(AcmeError, match="Cannot write"):
        store.write(os.path.join(store.path, "missing", "b"), b"")
    assert os.listdir(store.private) == []


def test_the_lock_is_held_by_one(store: Store) -> None:
    other = Store(store.path)
    with store.lock() as mine:
        assert mine
        with other.lock() as theirs:
            assert not theirs
    with other.lock() as theirs:
        assert theirs


def test_the_state_survives_and_nonsense_in_it_does_not(store: Store) -> None:
    state = State({"url": "https://a.test/1"}, {"a.test": Record(authority="https://a.test", failures=3, failed=[1, 2, 3], suggested=5.0)})
    store.save(state)
    assert Store(store.path).state() == state
    path = Path(store.private, "state.json")
    for text in ("", "{", "[]", '{"records": [], "account": 3}', '{"records": {"a.test": 5}}', "\0"):
        path.write_text(text)
        again = Store(store.path).state()
        assert again.account == {}
        assert all(record == Record() for record in again.records.values())
    path.write_text(json.dumps({"records": {"a.test": {"failures": "x", "retry_at": None, "reason": "r", "more": 1, "suggested": 7}}}))
    assert Store(store.path).state().of("a.test") == Record(reason="r", suggested=7)


@given(
    st.recursive(
        st.none() | st.booleans() | st.floats(allow_nan=False) | st.text(max_size=5),
        lambda inner: st.dictionaries(st.sampled_from(["authority", "failed", "suggested", "retry_at", "x"]), inner, max_size=4),
        max_leaves=10,
    )
)
def test_any_record_is_read(value: Any) -> None:
    record = Record.from_json(value)
    assert isinstance(record.authority, str)
    assert isinstance(record.failed, list)
    assert isinstance(record.retry_at, (int, float))


def test_what_cannot_be_written_is_remembered_all_the_same(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(path: str, data: bytes) -> None:
        raise AcmeError("No space left on device")

    monkeypatch.setattr(store, "write", full)
    state = store.state()
    state.of("a.test").failures = 3
    with pytest.raises(AcmeError):
        store.save(state)
    assert store.state().of("a.test").failures == 3


def test_a_wish_that_cannot_be_taken_back_is_an_error(store: Store) -> None:
    """Otherwise it would be fulfilled again and again."""
    Path(store.private, "a.test.renew").mkdir()
    with pytest.raises(AcmeError, match="Cannot remove"):
        store.put("a.test", b"certificate")
    assert Path(store.path, "a.test.pem").read_bytes() == b"certificate"


def test_what_a_killed_process_was_writing_is_removed(store: Store) -> None:
    abandoned, recent = Path(store.private, "new-abc"), Path(store.private, "new-def")
    for file in (abandoned, recent):
        file.write_text("a private key")
    os.utime(abandoned, (1, 1))
    store.clear()
    assert (abandoned.exists(), recent.exists()) == (False, True)
    store.private = "/nowhere"
    store.clear()


def test_root_gives_nothing_away_but_what_it_has_made(tmp_path: Path) -> None:
    """Whoever owns the directory may put a link in the place of the subdirectory at any moment."""
    store = Store(str(tmp_path))
    Path(store.private).symlink_to("/etc")
    with pytest.raises(OSError, match=r"(?i)symbolic|not a directory"):
        store._give_away()


def test_the_binding_key_is_never_shown() -> None:
    assert "a2V5" not in repr(AcmeOptions(eab_kid="kid", eab_hmac_key="a2V5a2V5a2V5a2V5a2V5a2V5"))


def test_a_directory_is_made_and_checked(tmp_path: Path) -> None:
    made = Store(str(tmp_path / "a" / "b"))
    assert made.check() is None
    assert stat.S_IMODE(os.stat(made.path).st_mode) == 0o700
    (tmp_path / "file").touch()
    with pytest.raises(AcmeError, match="Cannot use the directory of certificates"):
        Store(str(tmp_path / "file")).check()
    os.chmod(made.path, 0o777)
    with pytest.raises(AcmeError, match="chmod o-w"):
        made.check()
    os.chmod(made.path, 0o700)
    os.chmod(made.private, 0o770)
    assert "only this user can write" in (made.check() or "")
    os.rmdir(made.private)
    os.symlink(tmp_path, made.private)
    assert "only this user can write" in (made.check() or "")
    with pytest.raises(AcmeError), made.lock():
        pass


def test_exposed_keys_are_reported(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    directory = tmp_path / "certs"
    directory.mkdir()
    pem = Authority.make(tmp_path).server("localhost").write(directory / "localhost.pem")
    os.chmod(pem, 0o644)
    contexts = AcmeContexts(str(directory), LETS_ENCRYPT)
    contexts.load()
    (line,) = [record.getMessage() for record in caplog.records]
    assert line == f"Every user of this machine can read or change the private key in {pem}; remove these permissions with chmod 600"
    caplog.clear()
    os.chmod(pem, 0o640)
    contexts.load()
    assert not caplog.records


def test_an_account_key_that_is_none(store: Store) -> None:
    with pytest.raises(AcmeError, match="There is no account key"):
        store.account_key(make=False)
    key = store.account_key()
    assert stat.S_IMODE(os.stat(os.path.join(store.path, "client.key")).st_mode) == 0o600
    again = store.account_key()
    assert again.public_key() == key.public_key()
    Path(store.path, "client.key").write_text("nothing")
    with pytest.raises(AcmeError, match="no private key"):
        store.account_key()


def test_challenges_are_answered_from_files(store: Store) -> None:
    challenges = Challenges(store)
    token = "0123456789abcdef-_"
    assert challenges.text(token) is None
    assert not challenges.tls_pending()
    challenges.offer(HTTP_01, "a.test", token, f"{token}.thumb")
    assert Challenges(Store(store.path)).text(token) == f"{token}.thumb".encode()
    assert not challenges.tls_pending()
    challenges.offer(TLS_ALPN_01, "a.test", token, f"{token}.thumb")
    assert challenges.tls_pending()
    challenges.withdraw(TLS_ALPN_01, "a.test", token)
    challenges.withdraw(TLS_ALPN_01, "a.test", token)
    assert not challenges.tls_pending()
    for stranger in ("", ".", "..", "../state.json", "a" * 201, "/etc/passwd", "x" * 15, token + "\n", "%2e%2e/%2e%2e/client.key"):
        assert challenges.text(stranger) is None
        with pytest.raises(AcmeError, match="base64url"):
            challenges.offer(HTTP_01, "a.test", stranger, "x")
    challenges.clear()
    assert challenges.text(token) is None


def test_endpoint_strings(tmp_path: Path) -> None:
    for kind, url in (("le", LETS_ENCRYPT), ("lets", LETS_ENCRYPT_STAGING), ("acme:zerossl", "https://acme.zerossl.com/v2/DV90")):
        endpoint = parse(f"{kind}:{tmp_path}:tcp:443:interface=\\:\\:1")
        assert isinstance(endpoint.tls, AcmeContexts)
        assert endpoint.tls.authority == url
        assert endpoint.tls.directory == str(tmp_path)
        assert endpoint.inner.interface == "::1"  # type: ignore[attr-defined]
    endpoint = parse(f"acme:https\\://localhost\\:14000/dir:{quote(str(tmp_path))}:unix:/run/x")
    assert endpoint.tls.authority == "https://localhost:14000/dir"
    assert "certificates from https://localhost:14000/dir" in endpoint.tls.describe()


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("le:", "directory must be a path"),
        ("le:/srv/certs", "Unknown endpoint kind ''"),
        ("acme:https://localhost/dir:/srv/certs:tcp:443", "need a backslash each"),
        ("acme:http\\://localhost/dir:/srv/certs:tcp:443", "must be a URL that begins with https://"),
        ("acme:elsewhere:/srv/certs:tcp:443", "letsencrypt-staging"),
        ("le:/srv/certs:ssl:443", "TLS inside TLS"),
    ],
)
def test_endpoint_strings_that_are_wrong(text: str, reason: str) -> None:
    with pytest.raises(EndpointError) as error:
        parse(text)
    assert reason in str(error.value)
    assert "\n" not in str(error.value)


def test_two_authorities_cannot_share_a_directory(tmp_path: Path) -> None:
    same = [parse(f"le:{tmp_path}:tcp:443"), parse(f"le:{tmp_path}/:tcp6:443")]
    assert len(Service(same).managers) == 1
    with pytest.raises(EndpointError, match="Two authorities"):
        Service([*same, parse(f"lets:{tmp_path}:tcp:444")])


@pytest.mark.parametrize(
    ("endpoints", "kinds"),
    [
        (["le:/c:tcp:443"], (TLS_ALPN_01,)),
        (["le:/c:tcp:443", "tcp:80"], (TLS_ALPN_01, HTTP_01)),
        (["le:/c:tcp:8443", "tcp:80"], (HTTP_01, TLS_ALPN_01)),
        (["le:/c:tcp:8443", "tcp:8080"], (TLS_ALPN_01, HTTP_01)),
        (["le:/c:unix:/run/x", "tcp:80"], (HTTP_01, TLS_ALPN_01)),
    ],
)
def test_the_endpoints_suggest_a_challenge(endpoints: list[str], kinds: tuple[str, ...]) -> None:
    assert challenge_kinds([parse(text) for text in endpoints], None) == kinds
    assert challenge_kinds([parse(text) for text in endpoints], HTTP_01) == (HTTP_01,)


@pytest.mark.parametrize(
    ("options", "reason"),
    [
        ({"email": "nobody"}, "not an e-mail address"),
        ({"email": "a@b.test?x"}, "not an e-mail address"),
        ({"domains": ("*.example.com",)}, "--acme-domains: '*.example.com' is a wildcard"),
        ({"eab_kid": "kid"}, "needs both"),
        ({"eab_kid": "kid", "eab_hmac_key": "short"}, "not the base64url"),
        ({"eab_kid": "kid", "eab_hmac_key": "!" * 40}, "not the base64url"),
        ({"ca": "/nowhere/ca.pem"}, "There is no file"),
        ({"challenge": "dns-01"}, "not 'dns-01'"),
    ],
)
def test_options_that_are_wrong(options: dict[str, Any], reason: str) -> None:
    with pytest.raises(AcmeError) as error:
        AcmeOptions(**options)
    assert reason in str(error.value)


def test_options_are_taken_in_many_forms(tmp_path: Path) -> None:
    assert AcmeOptions(domains=("B.test", "a.test", "b.test.")).domains == ("b.test", "a.test")
    assert AcmeOptions(email="a@b.test,c@d.test").email == "a@b.test,c@d.test"
    (tmp_path / "key").write_text(" a2V5a2V5a2V5a2V5a2V5a2V5\n")
    assert read_hmac_key(str(tmp_path / "key")) == "a2V5a2V5a2V5a2V5a2V5a2V5"
    with pytest.raises(AcmeError, match="Cannot read"):
        read_hmac_key(str(tmp_path / "other"))


def from_command_line(*argv: str) -> AcmeOptions | None:
    return acme_options(configured(*argv).acme)


def test_the_command_line(tmp_path: Path) -> None:
    (tmp_path / "key").write_text("a2V5a2V5a2V5a2V5a2V5a2V5\n")
    (tmp_path / "ca.pem").touch()
    assert from_command_line() is None
    assert from_command_line("--acme-agree-tos") == AcmeOptions(agree_tos=True)
    given = [f"--acme-eab-hmac-key-file={tmp_path}/key", "--acme-eab-kid=kid", "--acme-email=a@b.test", f"--acme-ca={tmp_path}/ca.pem"]
    assert from_command_line(*given, "--acme-domains= a.test,B.test,,", "--acme-challenge=http-01") == AcmeOptions(
        email="a@b.test",
        domains=("a.test", "b.test"),
        eab_kid="kid",
        eab_hmac_key="a2V5a2V5a2V5a2V5a2V5a2V5",
        ca=f"{tmp_path}/ca.pem",
        challenge="http-01",
    )


@pytest.mark.parametrize(
    ("argv", "reason"),
    [
        (["--acme-domains=*.test"], "is a wildcard"),
        (["--acme-eab-kid=x"], "needs both"),
        (["--acme-eab-hmac-key=x", "--acme-eab-hmac-key-file=/y", "--acme-eab-kid=x"], "cannot both be given"),
        (["--acme-eab-hmac-key-file=/nowhere/key", "--acme-eab-kid=x"], "Cannot read /nowhere/key"),
    ],
)
def test_command_lines_that_are_wrong(argv: list[str], reason: str) -> None:
    with pytest.raises(ConfigurationError) as error:
        from_command_line(*argv)
    assert reason in str(error.value)
    assert str(error.value).endswith(".")


def test_a_missing_library_is_one_line(tmp_path: Path) -> None:
    program = (
        "import sys; sys.modules['acme'] = None; from greendaphne.cli import main;"
        f" sys.exit(main(['-e', 'le:{tmp_path}:tcp:0', 'greendaphne.demo:channel_layer']))"
    )
    result = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=60, check=False)
    assert result.returncode == 1
    assert result.stderr.splitlines()[-1].endswith("needs the package acme, which is not installed: pip install 'greendaphne[acme]'.")
    assert "Traceback" not in result.stderr


def run(capsys: pytest.CaptureFixture[str], *arguments: str) -> tuple[int, str, str]:
    code = main(arguments)
    output = capsys.readouterr()
    return code, output.out, output.err


def test_the_operators_command(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    directory = tmp_path / "certs"
    assert run(capsys, "status", str(directory))[0] == 1
    directory.mkdir()
    root = Authority.make(tmp_path)
    good, old = root.server("good.test", days=60, since=30), root.server("old.test", days=5, since=85)
    good.write(directory / "good.test.pem")
    assert run(capsys, "status", str(directory))[0] == 0
    old.write(directory / "old.test.pem")
    (directory / "broken.test.pem").write_text("?")
    (directory / "*.test.pem").touch()
    (directory / "link.test.pem").symlink_to(directory / "good.test.pem")
    names = ("New.test", "good.test", "broken.test", "link.test")
    code, output, error = run(capsys, "issue", str(directory), *names)
    assert (code, error) == (0, "")
    lines = output.splitlines()
    assert lines[0] == f"new.test: asked for; the server that serves from {directory} obtains the certificate within seconds"
    assert lines[1].startswith("good.test: has a certificate that is valid until ")
    assert lines[2].startswith("broken.test: nothing was done: There is no private key in ")
    assert lines[3].startswith("link.test: ")
    assert "is a link" in lines[3]
    assert "had been asked for already" in run(capsys, "issue", str(directory), "new.test")[1]
    (directory / "link.test.pem").unlink()
    code, output, _ = run(capsys, "status", str(directory))
    found = output.splitlines()
    assert code == 1
    assert found[0].startswith("broken.test  no usable certificate  (There is no private key in ")
    assert found[1].startswith("good.test    valid until ")
    assert found[1].endswith("UTC")
    assert found[2] == "new.test     no certificate yet"
    assert "IN DANGER" in found[3]
    assert "wildcard" in found[4]
    text = f"good.test: renewal asked for; the server that serves from {directory} replaces the certificate within seconds\n"
    assert run(capsys, "renew", str(directory), "good.test") == (0, text, "")
    assert "nothing was done" in run(capsys, "renew", str(directory), "broken.test")[1]
    assert Store(str(directory)).scan().entries["good.test"].wanted
    for arguments in (
        ("renew", str(directory), "missing.test"),
        ("issue", str(directory), "*.test"),
        ("revoke", "--reason=boredom", str(directory), "good.test"),
        ("revoke", str(directory), "good.test"),
        ("revoke", "--authority=ftp", str(directory), "good.test"),
        ("revoke", "--authority=https://127.0.0.1:1/dir", str(directory), "good.test"),
        ("revoke", str(directory), "broken.test"),
    ):
        code, output, error = run(capsys, *arguments)
        assert (code, output) == (1, ""), arguments
        assert error.startswith("greendaphne.acme: ")
        assert error.count("\n") == 1
    assert run(capsys, "dance")[0] == 2
    code, output, _ = run(capsys, "--help")
    assert code == 0
    assert "revoke revokes" in output


def test_the_scan_notices_every_change(store: Store) -> None:
    root = Authority.make(Path(store.path).parent)
    path = Path(store.path, "a.test.pem")
    rng = random.Random(1)
    assert store.scan().entries == {}
    store.ensure(["a.test"])
    store.ensure(["a.test"])
    entry = store.scan().entries["a.test"]
    assert (entry.certificate, entry.problem, entry.wanted) == (None, None, False)
    serials = set()
    for _ in range(3):
        issued = root.server("a.test", days=rng.randint(5, 50))
        store.put("a.test", issued.key_pem + issued.pem)
        found = store.scan().entries["a.test"].certificate
        assert found is not None
        assert found.serial == issued.certificate.serial_number
        assert store.scan().entries["a.test"].certificate is found, "it is not read twice"
        serials.add(found.serial)
    assert len(serials) == 3
    other = root.server("a.test")
    path.write_bytes(other.key_pem + root.server("a.test").pem)
    assert "do not match" in (store.scan().entries["a.test"].problem or "")
    path.unlink()
    assert store.scan().entries == {}
