"""HTTP/2 over TLS with the clients that people use, on the Django example: curl, nghttp, h2load, httpx, Node.js and Chromium.

Each does what a visitor does: it reads pages, logs in, uploads, reads a streamed page as it is made, and talks over a WebSocket that shares
the connection.  Pictures of what the browser showed are kept in ``artefacts/``.
"""

from __future__ import annotations

import asyncio
import hashlib
import json
import os
import re
import ssl
import subprocess
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
import pytest

from tests.support import legacy, peers
from tests.support.browsing import login, wait_for_line, wait_for_state
from tests.support.certificates import Authority
from tests.support.chromium import Chromium

pytestmark = pytest.mark.skipif(sys.version_info >= (3, 12), reason="Django 2.2 and Channels 1 end with Python 3.11")

ARTEFACTS = legacy.ROOT / "artefacts"
MIB = 1024 * 1024
UPLOAD = 50 * MIB
PATIENCE = 2 * legacy.PATIENCE
#: Where a Debian package has another name than its program.
PACKAGES = {"nghttp": "nghttp2-client", "h2load": "nghttp2-client"}
ACCESS = re.compile(r'(\S+) - - \[[^]]+\] "(\S+) (\S+)" (\S+) (\S+)')


@dataclass(frozen=True)
class Access:
    """A line of the access log; ``client`` is address and port, that is, the connection."""

    client: str
    method: str
    path: str
    status: str


class SecureSite(legacy.Site):
    """The site behind TLS."""

    def __init__(self, site: legacy.Site, authority: Path) -> None:
        super().__init__(site.server, site.port, site.directory)
        self.url = f"https://localhost:{site.port}"
        self.authority = authority

    def accesses(self) -> list[Access]:
        """What the access log says so far."""
        return [Access(*match.group(1, 2, 3, 4)) for match in ACCESS.finditer((self.directory / "access.log").read_text())]

    def client(self) -> httpx.Client:
        return httpx.Client(**self._options())

    def parallel(self, paths: Sequence[str], cookies: httpx.Cookies) -> list[httpx.Response]:
        """Ask for all ``paths`` at once, on one connection and in one thread: two must not use one TLS connection at a time."""

        async def ask() -> list[httpx.Response]:
            async with httpx.AsyncClient(**self._options(), cookies=cookies, limits=httpx.Limits(max_connections=1)) as client:
                return await asyncio.gather(*map(client.get, paths))

        return asyncio.run(ask())

    def _options(self) -> dict[str, Any]:
        context = ssl.create_default_context(cafile=str(self.authority))
        return {
            "base_url": self.url,
            "http1": False,
            "http2": True,
            "verify": context,
            "trust_env": False,
            "timeout": PATIENCE,
            "headers": {"Referer": f"{self.url}/"},
        }


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Iterator[SecureSite]:
    directory = tmp_path_factory.mktemp("https")
    authority = Authority.make(directory)
    certificate = authority.server("localhost").write(directory / "localhost.pem")
    endpoint = f"ssl:0:interface=127.0.0.1:privateKey={certificate}:certKey={certificate}"
    command = (*legacy.GREENDAPHNE, "--inline-workers", "4", "--access-log", str(directory / "access.log"), "-e", endpoint)
    with legacy.serve(directory, "memory", (*command, "chat.asgi:channel_layer")) as served:
        yield SecureSite(served, authority.file)


@pytest.fixture(scope="module")
def upload_file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("upload") / "data.bin"
    block = os.urandom(MIB)
    path.write_bytes(b"".join(number.to_bytes(8, "big") + block[8:] for number in range(UPLOAD // MIB)))
    return path


def sha256(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()


def command(name: str, *arguments: str) -> list[str]:
    return [peers.program(name, PACKAGES.get(name, name)), *arguments]


def run(name: str, *arguments: str) -> str:
    """The output of a client program, which must succeed."""
    done = subprocess.run(command(name, *arguments), capture_output=True, text=True, timeout=PATIENCE, check=False)
    assert done.returncode == 0, done.stderr + done.stdout
    return done.stdout


class Curl:
    """curl with a jar for its cookies; an answer other than HTTP/2 is an error."""

    def __init__(self, site: SecureSite, directory: Path) -> None:
        jar = str(directory / "jar")
        self.options = ["--silent", "--show-error", "--fail", "--http2", "--cacert", str(site.authority), "--noproxy", "*"]
        self.options += ["--cookie", jar, "--cookie-jar", jar, "--referer", f"{site.url}/"]

    def __call__(self, *arguments: str) -> str:
        output = run("curl", *self.options, "--write-out", "\n%{http_version}", *arguments)
        body, _, version = output.rpartition("\n")
        assert version == "2"
        return body


@pytest.fixture
def curl(site: SecureSite, tmp_path: Path) -> Curl:
    return Curl(site, tmp_path)


def test_curl_logs_in_and_uploads(site: SecureSite, curl: Curl, upload_file: Path) -> None:
    assert "Lobby" in curl(f"{site.url}/")
    page = curl(f"{site.url}/accounts/login/")
    form = {"username": "bob", "password": legacy.USERS["bob"], "csrfmiddlewaretoken": legacy.csrf_token(page)}
    fields = [part for name, value in form.items() for part in ("--data-urlencode", f"{name}={value}")]
    assert '<strong id="me">bob</strong>' in curl("--location", *fields, f"{site.url}/accounts/login/")
    token = legacy.csrf_token(curl(f"{site.url}/uploads/"))
    parts = ["--form", f"csrfmiddlewaretoken={token}", "--form", f"file=@{upload_file};filename=curl.bin"]
    stored = json.loads(curl("--header", "Accept: application/json", *parts, f"{site.url}/uploads/"))
    assert (stored["name"], stored["size"], stored["sha256"]) == ("curl.bin", UPLOAD, sha256(upload_file))
    copy = upload_file.with_suffix(".copy")
    curl("--output", str(copy), f"{site.url}/uploads/{stored['id']}/")
    assert sha256(copy) == stored["sha256"]


def made_at(line: str) -> str:
    return line.strip().rpartition("made at ")[2]


def test_curl_reads_lines_as_they_are_made(site: SecureSite, curl: Curl) -> None:
    arguments = command("curl", *curl.options, "--no-buffer", f"{site.url}/stream/lines/?count=50&interval=200")
    with subprocess.Popen(arguments, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        lines = iter(process.stdout)
        assert next(lines).startswith("line 1 of 50, ")
        # With the first line here, one made for another visitor is older than one that is still to come.
        other = made_at(curl(f"{site.url}/stream/lines/?count=1"))
        assert any(made_at(line) > other for line in lines)
        process.terminate()


def test_nghttp(site: SecureSite) -> None:
    # It follows the page's links on the same connection; --stat lists them all.
    output = run("nghttp", "--null-out", "--get-assets", "--stat", f"{site.url}/")
    requests = re.findall(r"\s(\d{3})\s+\S+\s+(/\S*)\s*$", output, re.MULTILINE)
    assert {("200", "/"), ("200", "/static/rooms/site.css")} <= set(requests), output
    assert all(status == "200" for status, _ in requests)
    lines = run("nghttp", f"{site.url}/stream/lines/?count=20&interval=0").splitlines()
    assert [line.partition(",")[0] for line in lines] == [f"line {number} of 20" for number in range(1, 21)]


def test_h2load(site: SecureSite) -> None:
    output = run("h2load", "--requests=200", "--clients=4", "--max-concurrent-streams=10", f"{site.url}/")
    assert "Application protocol: h2" in output
    assert "200 total, 200 started, 200 done, 200 succeeded, 0 failed, 0 errored, 0 timeout" in output
    assert "200 2xx, 0 3xx, 0 4xx, 0 5xx" in output


def test_httpx(site: SecureSite, upload_file: Path) -> None:
    with site.client() as client:
        page = client.get("/accounts/login/")
        form = {"username": "alice", "password": legacy.USERS["alice"], "csrfmiddlewaretoken": legacy.csrf_token(page.text)}
        answer = client.post("/accounts/login/", data=form)
        assert (answer.http_version, answer.status_code, answer.headers["Location"]) == ("HTTP/2", 302, "/")
        assert '<strong id="me">alice</strong>' in client.get("/").text
        answers = site.parallel(["/", "/uploads/", "/static/rooms/room.js", "/rooms/lobby/"] * 10, client.cookies)
        assert {(answer.http_version, answer.status_code) for answer in answers} == {("HTTP/2", 200)}
        token = legacy.csrf_token(client.get("/uploads/").text)
        content = upload_file.read_bytes()[: 5 * MIB]
        answer = client.post(
            "/uploads/", data={"csrfmiddlewaretoken": token}, files={"file": ("httpx.bin", content)}, headers={"Accept": "application/json"}
        )
        assert (answer.status_code, answer.json()["sha256"]) == (201, hashlib.sha256(content).hexdigest())
        assert client.get(f"/uploads/{answer.json()['id']}/").content == content
        with client.stream("GET", "/stream/lines/?count=50&interval=200") as stream:
            lines = stream.iter_lines()
            assert next(lines).startswith("line 1 of 50, ")
            # On the same connection; what is left of the stream is reset at the end of the block.
            other = made_at(client.get("/stream/lines/?count=1").text)
            assert any(made_at(line) > other for line in lines)


def test_node(site: SecureSite) -> None:
    plan = {"url": site.url, "user": "alice", "password": legacy.USERS["alice"], "upload": 5 * MIB, "room": "garden"}
    report = peers.run("http2.js", plan, site.authority)
    assert (report["protocol"], report["connect"], report["login"]) == ("h2", True, 302)
    assert report["parallel"] == [200] * 40
    assert report["upload"] == {"status": 201, "size": 5 * MIB, "intact": True}
    assert report["streaming"] == {"status": 200, "ended": False}
    assert report["chat"] == {
        "types": ["history", "joined", "message"], "status": 200, "text": "from Node.js", "code": 4001
    }  # fmt: skip


@pytest.fixture(scope="module")
def browser() -> Iterator[Chromium]:
    # The browser does not know the tests' authority.
    with Chromium("--ignore-certificate-errors") as chromium:
        yield chromium


def test_two_visitors_chat(browser: Chromium, site: SecureSite) -> None:
    alice = login(browser, site, "alice", "/rooms/lobby/")
    wait_for_state(alice, "Connected")
    bob = login(browser, site, "bob", "/rooms/lobby/")
    wait_for_state(bob, "Connected")
    wait_for_line(alice, "bob joined")
    alice.type("#text", "Hello Bob, over one connection")
    wait_for_line(bob, "Hello Bob, over one connection")
    bob.type("#text", "Grüße zurück 🌱")
    wait_for_line(alice, "Grüße zurück 🌱")
    alice.screenshot(ARTEFACTS / "chat-h2-alice.png")
    bob.screenshot(ARTEFACTS / "chat-h2-bob.png")
    for window in (alice, bob):
        protocols = window.run("[...performance.getEntriesByType('navigation'), ...performance.getEntriesByType('resource')]"
                               ".map((entry) => entry.nextHopProtocol)")  # fmt: skip
        assert set(protocols) == {"h2"}
        # An extended CONNECT is answered with 200, an upgrade of HTTP/1.1 with 101.
        assert window.websocket_statuses() == [200]
        assert window.complaints() == []
    # Each visitor has one connection, which the pages and the WebSocket came over.
    accesses = site.accesses()
    sockets = [access.client for access in accesses if access.method == "WSCONNECT" and access.path == "/rooms/lobby/socket/"][-2:]
    pages = [access.client for access in accesses if access.method == "GET" and access.path == "/rooms/lobby/"][-2:]
    assert sockets == pages
    assert len(set(sockets)) == 2
    for window in (alice, bob):
        window.open(f"{site.url}/")


def test_upload(browser: Chromium, site: SecureSite, upload_file: Path) -> None:
    window = login(browser, site, "bob", "/uploads/")
    window.choose_file("input[type=file]", upload_file)
    window.click("#upload button")
    window.wait(f"document.querySelector('tbody td')?.innerText === {json.dumps(upload_file.name)}")
    cells = window.run("[...document.querySelectorAll('tbody tr:first-child td')].map((cell) => cell.innerText)")
    assert cells == [upload_file.name, str(UPLOAD), sha256(upload_file)]
    window.screenshot(ARTEFACTS / "upload-h2.png")
    assert window.run("performance.getEntriesByType('navigation')[0].nextHopProtocol") == "h2"
    assert window.complaints() == []
