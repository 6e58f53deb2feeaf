"""Django 2.2 and Channels 1.1.8, served as a legacy project is: pages, forms, uploads, streams and WebSockets.

Every test runs on each way of serving: the command with workers in its process, on its own channel layer and on asgiref's; Django's
development server; and the command beside workers in processes of their own, with Redis in between.  Neither daphne nor Twisted is
installed.
"""

from __future__ import annotations

import hashlib
import importlib.util
import json
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import nullcontext
from importlib import metadata
from pathlib import Path
from typing import Any

import pytest
import requests
import websocket

from tests.support import legacy
from tests.support.django_example import PATIENCE, receive
from tests.support.redis_server import redis_server

pytestmark = pytest.mark.skipif(sys.version_info >= (3, 12), reason="Django 2.2 and Channels 1 end with Python 3.11")

LAYER = "chat.asgi:channel_layer"
INLINE = (*legacy.GREENDAPHNE, "--inline-workers", "4", "-p", "0", LAYER)
RUNSERVER = (*legacy.MANAGE, "runserver", "127.0.0.1:0")
#: The channel layer, the server's command, and those of workers beside it.
SERVERS: dict[str, tuple[str, tuple[str, ...], tuple[tuple[str, ...], ...]]] = {
    "command": ("memory", INLINE, ()),
    "command-asgiref": ("inmemory", INLINE, ()),
    "runserver": ("memory", (*RUNSERVER, "--noreload"), ()),
    # With --threads a worker that is at work would survive SIGTERM: Channels takes the signal for an error of the consumer.
    "redis": ("redis", (*legacy.GREENDAPHNE, "-p", "0", LAYER), ((*legacy.MANAGE, "runworker"),) * 3),
}
UPLOAD = 50 * 1024 * 1024


@pytest.fixture(scope="module", params=list(SERVERS))
def site(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[legacy.Site]:
    layer, command, workers = SERVERS[request.param]
    with redis_server() if layer == "redis" else nullcontext() as redis:
        url = redis.url if redis else ""
        with legacy.serve(tmp_path_factory.mktemp(request.param), layer, command, workers, redis=url) as served:
            yield served


@pytest.fixture(scope="module")
def upload_file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("upload") / "data.bin"
    block = os.urandom(1024 * 1024)
    with path.open("wb") as file:
        for number in range(UPLOAD // len(block)):
            file.write(number.to_bytes(8, "big") + block[8:])
    return path


def sha256(path: Path) -> str:
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while block := file.read(1024 * 1024):
            digest.update(block)
    return digest.hexdigest()


def get(site: legacy.Site, path: str, **options: Any) -> requests.Response:
    return requests.get(site.url + path, timeout=PATIENCE, **options)


def test_neither_daphne_nor_twisted_is_installed() -> None:
    # "import daphne" finds greendaphne.
    assert not [name for name in ("daphne", "twisted") if any(metadata.distributions(name=name))]
    assert importlib.util.find_spec("twisted") is None


def test_pages(site: legacy.Site) -> None:
    answer = get(site, "/")
    assert answer.status_code == 200
    assert answer.headers["Content-Type"] == "text/html; charset=utf-8"
    assert "Lobby" in answer.text
    assert int(answer.headers["Content-Length"]) == len(answer.content)
    assert get(site, "/nowhere/").status_code == 404
    assert get(site, "/rooms/lobby/", allow_redirects=False).headers["Location"] == "/accounts/login/?next=/rooms/lobby/"


def test_head_has_the_head_alone(site: legacy.Site) -> None:
    answer = requests.head(site.url, timeout=PATIENCE)
    assert (answer.status_code, answer.content) == (200, b"")
    assert int(answer.headers["Content-Length"]) == len(get(site, "/").content)


@pytest.mark.parametrize(
    ("name", "content_type"), [("site.css", "text/css"), ("room.js", "javascript"), ("icon.svg", "image/svg+xml")], ids=lambda value: value
)
def test_static_files(site: legacy.Site, name: str, content_type: str) -> None:
    answer = get(site, f"/static/rooms/{name}")
    assert answer.status_code == 200
    assert content_type in answer.headers["Content-Type"]
    assert answer.content == (legacy.EXAMPLE / "rooms" / "static" / "rooms" / name).read_bytes()
    again = get(site, f"/static/rooms/{name}", headers={"If-Modified-Since": answer.headers["Last-Modified"]})
    assert (again.status_code, again.content) == (304, b"")


def test_login_needs_the_csrf_token(site: legacy.Site) -> None:
    session = requests.Session()
    page = session.get(f"{site.url}/accounts/login/", timeout=PATIENCE)
    form = {"username": "alice", "password": legacy.USERS["alice"]}
    assert session.post(page.url, form, timeout=PATIENCE).status_code == 403
    token = legacy.csrf_token(page.text)
    wrong = session.post(page.url, {**form, "password": "wrong", "csrfmiddlewaretoken": token}, timeout=PATIENCE)
    assert "Please enter a correct username and password" in wrong.text
    right = session.post(page.url, {**form, "csrfmiddlewaretoken": token}, timeout=PATIENCE)
    assert right.url == f"{site.url}/"
    assert '<strong id="me">alice</strong>' in right.text
    assert "sessionid" in session.cookies


def test_logout(site: legacy.Site) -> None:
    session = site.login("bob")
    token = legacy.csrf_token(session.get(site.url, timeout=PATIENCE).text)
    page = session.post(f"{site.url}/accounts/logout/", {"csrfmiddlewaretoken": token}, timeout=PATIENCE)
    assert "Log in" in page.text
    assert "sessionid" not in session.cookies


def test_form_with_errors_then_without(site: legacy.Site) -> None:
    session = site.login("alice")
    address = f"{site.url}/rooms/new/"
    token = legacy.csrf_token(session.get(address, timeout=PATIENCE).text)
    page = session.post(address, {"name": "", "csrfmiddlewaretoken": token}, timeout=PATIENCE)
    assert "This field is required." in page.text
    page = session.post(address, {"name": "?!", "csrfmiddlewaretoken": token}, timeout=PATIENCE)
    assert "at least three letters" in page.text
    page = session.post(address, {"name": "Lobby", "csrfmiddlewaretoken": token}, timeout=PATIENCE)
    assert "already" in page.text
    page = session.post(address, {"name": "Café Größe", "topic": "ünïcode & <tags>", "csrfmiddlewaretoken": token}, timeout=PATIENCE)
    assert page.url == f"{site.url}/rooms/cafe-groe/"
    assert "ünïcode &amp; &lt;tags&gt;" in page.text


def test_upload_of_50_mib(site: legacy.Site, upload_file: Path) -> None:
    session = site.login("alice")
    address = f"{site.url}/uploads/"
    token = legacy.csrf_token(session.get(address, timeout=PATIENCE).text)
    with upload_file.open("rb") as file:
        answer = session.post(
            address,
            {"csrfmiddlewaretoken": token},
            files={"file": ("data.bin", file, "application/octet-stream")},
            headers={"Accept": "application/json"},
            timeout=2 * PATIENCE,
        )
    assert answer.status_code == 201, answer.text
    assert answer.json() == {"id": answer.json()["id"], "name": "data.bin", "size": UPLOAD, "sha256": sha256(upload_file)}
    digest = hashlib.sha256()
    with session.get(f"{address}{answer.json()['id']}/", stream=True, timeout=2 * PATIENCE) as download:
        assert download.headers["Content-Length"] == str(UPLOAD)
        for block in download.iter_content(1024 * 1024):
            digest.update(block)
    assert digest.hexdigest() == answer.json()["sha256"]


def test_upload_and_page_by_curl(site: legacy.Site, upload_file: Path, tmp_path: Path) -> None:
    def curl(*arguments: str) -> str:
        command = ["curl", "--silent", "--show-error", "--fail", "--cookie", str(tmp_path / "jar"), "--cookie-jar", str(tmp_path / "jar")]
        done = subprocess.run([*command, *arguments], capture_output=True, text=True, timeout=2 * PATIENCE, check=False)
        assert done.returncode == 0, done.stderr
        return done.stdout

    token = legacy.csrf_token(curl(f"{site.url}/accounts/login/"))
    form = {"username": "bob", "password": legacy.USERS["bob"], "csrfmiddlewaretoken": token}
    curl(*(part for name, value in form.items() for part in ("--data", f"{name}={value}")), f"{site.url}/accounts/login/")
    token = legacy.csrf_token(curl(f"{site.url}/uploads/"))
    # curl asks for "100 Continue" before it sends a body of this size.
    file = f"file=@{upload_file};filename=curl.bin"
    stored = json.loads(
        curl("--header", "Accept: application/json", "--form", f"csrfmiddlewaretoken={token}", "--form", file, f"{site.url}/uploads/")
    )
    assert (stored["name"], stored["size"], stored["sha256"]) == ("curl.bin", UPLOAD, sha256(upload_file))
    assert stored["sha256"] in curl(f"{site.url}/uploads/")


def test_upload_without_a_file(site: legacy.Site) -> None:
    session = site.login("alice")
    token = legacy.csrf_token(session.get(f"{site.url}/uploads/", timeout=PATIENCE).text)
    page = session.post(f"{site.url}/uploads/", {"csrfmiddlewaretoken": token}, files={"other": b"x"}, timeout=PATIENCE)
    assert "This field is required." in page.text


def made_at(line: str) -> str:
    return line.strip().rpartition("made at ")[2]


def assert_streamed(site: legacy.Site, lines: Iterator[str]) -> None:
    """With the first of ``lines`` here, a line made for another visitor is older than one that is still to come."""
    assert next(lines).startswith("line 1 of 50, ")
    other = made_at(get(site, "/stream/lines/?count=1").text)
    assert any(made_at(line) > other for line in lines)


def test_streamed_response_arrives_as_it_is_made(site: legacy.Site) -> None:
    with get(site, "/stream/lines/?count=50&interval=200", stream=True) as answer:
        assert answer.headers["Transfer-Encoding"] == "chunked"
        assert_streamed(site, (line.decode() for line in answer.iter_lines(chunk_size=1)))


def test_streamed_response_arrives_at_curl(site: legacy.Site) -> None:
    command = ["curl", "--silent", "--no-buffer", f"{site.url}/stream/lines/?count=50&interval=200"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as curl:
        assert curl.stdout is not None
        assert_streamed(site, iter(curl.stdout))
        curl.terminate()


def test_streamed_response_is_complete(site: legacy.Site) -> None:
    answer = get(site, "/stream/lines/?count=100&interval=0")
    assert [line.partition(",")[0] for line in answer.text.splitlines()] == [f"line {number} of 100" for number in range(1, 101)]


@pytest.mark.parametrize("room", ["lobby", "no-such-room"])
def test_socket_without_login_or_room_is_refused(site: legacy.Site, room: str) -> None:
    session = None if room == "lobby" else site.login("alice")
    with pytest.raises(websocket.WebSocketBadStatusException) as refused:
        site.socket(room, session)
    assert refused.value.status_code == 403


def test_chat_between_two_users(site: legacy.Site) -> None:
    alice, bob = site.login("alice"), site.login("bob")
    ours = site.socket("lobby", alice)
    assert receive(ours, "joined")["present"] == ["alice"]
    theirs = site.socket("lobby", bob)
    assert receive(theirs, "history")["present"] == ["alice", "bob"]
    assert receive(ours, "joined") == {"type": "joined", "user": "bob", "present": ["alice", "bob"]}
    ours.send(json.dumps({"text": "Grüße an alle 🌱"}))
    for socket in (ours, theirs):
        message = receive(socket, "message")["message"]
        assert (message["user"], message["text"]) == ("alice", "Grüße an alle 🌱")
    for wrong in ("no json", "[]", '{"text": ""}', json.dumps({"text": "x" * 3000})):
        theirs.send(wrong)
        assert receive(theirs, "error")["text"]
    theirs.close()
    assert receive(ours, "left") == {"type": "left", "user": "bob", "present": ["alice"]}
    ours.close()
    # What was said is on the page when it is loaded again.
    page = bob.get(f"{site.url}/rooms/lobby/", timeout=PATIENCE).text
    assert "Grüße an alle 🌱" in page


def test_messages_stay_in_order_and_are_sent_again_after_a_pause(site: legacy.Site) -> None:
    session = site.login("alice")
    socket = site.socket("garden", session)
    receive(socket, "joined")
    texts = [f"number {number}" for number in range(30)]
    for text in texts:
        socket.send(json.dumps({"text": text}))
    stored = [receive(socket, "message")["message"] for _ in texts]
    assert [message["text"] for message in stored] == texts
    socket.close()
    again = site.socket("garden", session, since=stored[9]["id"])
    assert [message["text"] for message in receive(again, "history")["messages"]] == texts[10:]
    again.close()


def test_many_come_and_go_at_once(site: legacy.Site) -> None:
    session = site.login("bob")

    def visit(number: int) -> None:
        for _ in range(3):
            socket = site.socket("lobby", session)
            receive(socket, "history")
            socket.send(json.dumps({"text": f"from {number}"}))
            while receive(socket, "message")["message"]["text"] != f"from {number}":
                continue
            socket.close()

    with ThreadPoolExecutor(8) as pool:
        for done in [pool.submit(visit, number) for number in range(8)]:
            done.result()


def test_runserver_starts_again_when_the_code_changes(tmp_path: Path) -> None:
    # A copy, as its code is about to change.
    site = tmp_path / "site"
    shutil.copytree(legacy.EXAMPLE, site)
    with legacy.serve(tmp_path / "data", "memory", RUNSERVER, code=site) as served:
        assert "Lobby" in get(served, "/").text
        view = site / "rooms" / "views.py"
        served.server.change(view, view.read_text() + "\nHISTORY = 49\n")
        served.server.wait_for("Quit the server", times=2)
        again = legacy.Site(served.server, served.server.port(), tmp_path)
        assert "Lobby" in get(again, "/").text


def run_own_tests(directory: Path, layer: str, **variables: str) -> str:
    """Run ``manage.py test`` and return what it reports."""
    done = subprocess.run(
        [*legacy.MANAGE, "test"],
        cwd=legacy.EXAMPLE,
        env={**legacy.environment(directory, layer), **variables},
        capture_output=True,
        text=True,
        timeout=2 * PATIENCE,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return done.stderr.strip()


def test_the_sites_own_tests(tmp_path: Path) -> None:
    assert "OK (skipped=2)" in run_own_tests(tmp_path, "memory")


def test_the_sites_own_tests_with_a_live_server(tmp_path: Path) -> None:
    with redis_server() as redis:
        assert "\nOK" in run_own_tests(tmp_path, "redis", CHAT_REDIS=redis.url)


def test_live_server_beside_an_installed_twisted(tmp_path: Path) -> None:
    package = tmp_path / "twisted" / "internet"
    package.mkdir(parents=True)
    (package.parent / "__init__.py").touch()
    (package / "__init__.py").touch()
    (package / "reactor.py").write_text("def callLater(*args): raise AssertionError('this reactor does not run')\n")
    path = os.pathsep.join([str(tmp_path), str(legacy.ROOT)])
    with redis_server() as redis:
        assert "\nOK" in run_own_tests(tmp_path, "redis", CHAT_REDIS=redis.url, PYTHONPATH=path)
