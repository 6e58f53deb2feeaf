"""The example site in a real browser: two visitors in two windows of headless Chromium.

Pictures of what they saw are kept in ``artefacts/``.
"""

from __future__ import annotations

import hashlib
import json
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support import legacy
from tests.support.browsing import login, wait_for_line, wait_for_state
from tests.support.chromium import Chromium

pytestmark = pytest.mark.skipif(sys.version_info >= (3, 12), reason="Django 2.2 and Channels 1 end with Python 3.11")

ARTEFACTS = legacy.ROOT / "artefacts"
COMMAND = (*legacy.GREENDAPHNE, "--inline-workers", "4", "-p", "0", "chat.asgi:channel_layer")


@pytest.fixture(scope="module")
def browser() -> Iterator[Chromium]:
    with Chromium() as chromium:
        yield chromium


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Iterator[legacy.Site]:
    with legacy.serve(tmp_path_factory.mktemp("browser"), "memory", COMMAND) as served:
        yield served


def test_two_visitors_chat(browser: Chromium, site: legacy.Site) -> None:
    alice = login(browser, site, "alice", "/rooms/lobby/")
    wait_for_state(alice, "Connected")
    wait_for_line(alice, "alice joined")
    bob = login(browser, site, "bob", "/rooms/lobby/")
    wait_for_state(bob, "Connected")
    wait_for_line(alice, "bob joined")
    alice.type("#text", "Hello Bob, <b>are you there?</b>")
    wait_for_line(bob, "Hello Bob, <b>are you there?</b>")
    bob.type("#text", "Grüße zurück 🌱")
    wait_for_line(alice, "Grüße zurück 🌱")
    for window in (alice, bob):
        assert window.run("[...document.querySelectorAll('#present li')].map((item) => item.innerText)") == ["alice", "bob"]
    alice.screenshot(ARTEFACTS / "chat-alice.png")
    bob.screenshot(ARTEFACTS / "chat-bob.png")

    # Loaded again, the page shows what was said, each thing once.
    bob.call("Page.reload")
    bob.wait("performance.getEntriesByType('navigation')[0].type === 'reload' && document.readyState === 'complete'")
    wait_for_state(bob, "Connected")
    wait_for_line(bob, "Hello Bob")
    assert bob.run("[...document.querySelectorAll('#messages .message')].map((line) => line.querySelector('p').textContent)") == [
        "Hello Bob, <b>are you there?</b>",
        "Grüße zurück 🌱",
    ]

    # Who goes to another page has left the room.
    bob.open(f"{site.url}/")
    alice.wait("document.querySelector('#present').innerText.trim() === 'alice'")
    wait_for_line(alice, "bob left")
    assert alice.complaints() == []
    assert bob.complaints() == []


def test_upload_with_progress(browser: Chromium, site: legacy.Site, tmp_path: Path) -> None:
    file = tmp_path / "picture.raw"
    file.write_bytes(bytes(range(256)) * 4096 * 8)
    window = login(browser, site, "bob", "/uploads/")
    window.choose_file("input[type=file]", file)
    window.click("#upload button")
    window.wait("document.querySelector('td code')")
    cells = window.run("[...document.querySelectorAll('tbody tr:first-child td')].map((cell) => cell.innerText)")
    assert cells == ["picture.raw", str(file.stat().st_size), hashlib.sha256(file.read_bytes()).hexdigest()]
    window.screenshot(ARTEFACTS / "upload.png")
    # The page came back within the page; its form works again.
    window.click("#upload button")
    window.wait("document.querySelector('.error')?.textContent === 'This field is required.'")
    assert window.complaints() == []


def test_streamed_lines_appear_one_by_one(browser: Chromium, site: legacy.Site) -> None:
    window = browser.window()
    window.open(f"{site.url}/stream/")
    # Of all the lines the first two are awaited.
    window.run("document.querySelector('#start').dataset.url = '/stream/lines/?count=200&interval=200'; true")
    window.click("#start")
    window.wait("document.querySelector('#lines').textContent.split('\\n').length > 2")
    assert window.run("document.querySelector('#progress').textContent").endswith("parts so far.")
    window.screenshot(ARTEFACTS / "stream.png")
    assert window.complaints() == []
    window.open(f"{site.url}/")


def test_form_errors(browser: Chromium, site: legacy.Site) -> None:
    window = login(browser, site, "alice", "/rooms/new/")
    window.fill(name="?!")
    window.click("main form button")
    window.wait("document.querySelector('.field.wrong .error')?.textContent.includes('three letters')")
    window.fill(name="Reading Room")
    window.click("main form button")
    window.wait("location.pathname === '/rooms/reading-room/'")
    wait_for_state(window, "Connected")
    assert window.complaints() == []


def test_the_page_connects_again_after_the_server_restarts(browser: Chromium, tmp_path: Path) -> None:
    with legacy.serve(tmp_path, "memory", COMMAND) as first:
        window = login(browser, first, "alice", "/rooms/garden/")
        wait_for_state(window, "Connected")
        window.type("#text", "before")
        wait_for_line(window, "before")
        port = first.port
        first.server.stop()
        window.wait("!document.querySelector('#state').classList.contains('connected')")
        again = [part if part != "0" else str(port) for part in COMMAND]
        server = legacy.Process(again, tmp_path / "again.log", legacy.environment(tmp_path, "memory"))
        try:
            assert server.port() == port
            # What was said while the page was away comes with the connection.
            bob = legacy.Site(server, port, tmp_path).login("bob")
            socket = first.socket("garden", bob)
            socket.send(json.dumps({"text": "meanwhile"}))
            wait_for_state(window, "Connected")
            wait_for_line(window, "meanwhile")
            socket.close()
            window.type("#text", "after")
            wait_for_line(window, "after")
            window.screenshot(ARTEFACTS / "chat-reconnected.png")
        finally:
            server.stop()
        legacy.assert_no_traceback(server.output())
