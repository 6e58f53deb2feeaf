"""The demo in a real browser: what a newcomer does on the page works, and the browser has no complaint.

Pictures of the page are kept in ``artefacts/``.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import pytest

from greendaphne.demo import chat as chat_module
from greendaphne.demo import new_layer
from greendaphne.demo.chat import GROUP, Chat
from greendaphne.demo.site import Site
from tests.support.chromium import Chromium, Window
from tests.support.server import RunningServer, serve

ARTEFACTS = Path(__file__).resolve().parent.parent / "artefacts"
OPEN = "document.querySelector('#chat-state').dataset.state === 'open'"


@pytest.fixture(scope="module")
def browser() -> Iterator[Chromium]:
    with Chromium() as chromium:
        yield chromium


@pytest.fixture
def server() -> Iterator[RunningServer]:
    with serve(new_layer(Site(), Chat()), inline_workers=4) as running:
        yield running


def visit(browser: Chromium, server: RunningServer) -> Window:
    window = browser.window()
    window.open(f"{server.url}/")
    return window


def say(window: Window, name: str, text: str) -> None:
    window.run(f"document.querySelector('#chat-form [name=name]').value = {json.dumps(name)}; true")
    window.type("#chat-form [name=text]", text)


def wait_for_message(window: Window, text: str) -> None:
    window.wait(f"[...document.querySelectorAll('.said p')].some((line) => line.textContent === {json.dumps(text)})")


def wait_for_status(window: Window, element: str, start: str) -> None:
    window.wait(f"document.querySelector('#{element}').textContent.startsWith({json.dumps(start)})")


def test_two_windows_chat(browser: Chromium, server: RunningServer) -> None:
    ada, bob = visit(browser, server), visit(browser, server)
    for window in (ada, bob):
        window.wait(OPEN)
        window.wait("document.querySelector('#chat-state').textContent === 'Connected, 2 windows'")
    say(ada, "Ada", "<img src=x onerror=alert(1)>")
    say(bob, "Bob", "Grüße 🌿")
    for window in (ada, bob):
        wait_for_message(window, "<img src=x onerror=alert(1)>")
        wait_for_message(window, "Grüße 🌿")
        assert window.run("document.querySelectorAll('.said.mine').length") == 1
    ada.screenshot(ARTEFACTS / "demo.png")
    assert ada.complaints() == bob.complaints() == []


def test_the_chat_comes_back_by_itself_with_what_was_said(browser: Chromium, server: RunningServer) -> None:
    window = visit(browser, server)
    window.wait(OPEN)
    say(window, "Ada", "before")
    wait_for_message(window, "before")
    window.run(
        "window.states = []; new MutationObserver(() => states.push(document.querySelector('#chat-state').dataset.state))"
        ".observe(document.querySelector('#chat-state'), {attributeFilter: ['data-state']}); true"
    )
    server.layer.send_group(GROUP, {"close": True})
    window.wait("states.length === 3")
    assert window.run("states") == ["closed", "connecting", "open"]
    wait_for_message(window, "before")
    say(window, "Ada", "after")
    wait_for_message(window, "after")
    assert window.run("document.querySelectorAll('.said').length") == 2


def test_a_chat_that_cannot_connect_says_so_and_can_be_tried_again(
    browser: Chromium, server: RunningServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    with monkeypatch.context() as patch:
        patch.setattr(chat_module, "ROOM_LIMIT", 0)
        window = visit(browser, server)
        window.wait("!document.querySelector('#chat-notice').hidden")
        assert "could not connect" in window.run("document.querySelector('#chat-notice').innerText")
        assert window.run("document.querySelector('#chat-form button').disabled") is True
    window.click("#chat-retry")
    window.wait(OPEN)
    assert window.run("document.querySelector('#chat-notice').hidden") is True


def test_a_stream_an_upload_and_a_request(browser: Chromium, server: RunningServer) -> None:
    window = visit(browser, server)
    window.click("#stream-start")
    window.wait("document.querySelectorAll('#stream-lines li').length >= 2")
    window.click("#stream-stop")
    wait_for_status(window, "stream-status", "Stopped")

    window.click("#upload-sample")
    wait_for_status(window, "upload-status", "Arrived whole")
    assert "body channel" in window.run("document.querySelector('#upload-way').textContent")

    window.fill(method="PUT", target="/caf%C3%A9?colour=green&z=<i>")
    window.click("#request-form button")
    wait_for_status(window, "request-status", "The table shows")
    table = window.run("document.querySelector('#request-message').innerText")
    assert "'PUT'" in table
    assert "'/request/café'" in table
    assert "colour=green&z=%3Ci%3E" in table
    assert window.complaints() == []


@pytest.mark.parametrize("width", [360, 1200])
def test_the_page_fits_its_window(browser: Chromium, server: RunningServer, width: int) -> None:
    window = browser.window()
    window.call("Emulation.setDeviceMetricsOverride", width=width, height=800, deviceScaleFactor=1, mobile=width < 500)
    window.open(f"{server.url}/")
    assert window.run("document.documentElement.scrollWidth <= innerWidth")
    window.screenshot(ARTEFACTS / f"demo-{width}.png")
