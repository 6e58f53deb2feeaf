"""The examples in a real browser."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.modern.serving import Running, command
from tests.support.chromium import Chromium, Window
from tests.support.scripts import ROOT

EXAMPLES = ROOT / "examples"


@pytest.fixture(scope="module")
def browser() -> Iterator[Chromium]:
    with Chromium() as chromium:
        yield chromium


@pytest.fixture(scope="module")
def chat(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Running]:
    log = tmp_path_factory.mktemp("flask") / "log"
    with command("app", log, "--app-dir", str(EXAMPLES / "flask"), "--graceful-timeout", "2") as running:
        yield running
    assert "Traceback" not in log.read_text()


def said(window: Window, text: str) -> None:
    """Wait for a line of the chat."""
    window.wait(f"[...document.querySelectorAll('#lines p')].some((line) => line.textContent === '{text}')")


@pytest.mark.parametrize("transports", ["", "polling", "websocket"])
def test_chat(browser: Chromium, chat: Running, transports: str) -> None:
    ada, bob = browser.window(), browser.window()
    for window, name in ((ada, "Ada"), (bob, "Bob")):
        window.open(chat.url)
        window.fill(name=name)
        # The next page has no such mark, and comes once the name is saved.
        window.run("document.before = true")
        window.click("form button")
        window.wait(f"!document.before && document.querySelector('[name=name]').value === '{name}'")
        window.open(f"{chat.url}/?transports={transports}")
        expected = transports or "websocket"
        window.wait(f"document.querySelector('#state').textContent === 'connected by {expected}'")
    for number in range(3):
        ada.type("#say [name=text]", f"{transports} {number}")
        bob.type("#say [name=text]", f"{transports} back {number}")
        for window in (ada, bob):
            said(window, f"Ada: {transports} {number}")
            said(window, f"Bob: {transports} back {number}")


def test_guest_book(browser: Chromium, tmp_path: Path) -> None:
    options = ("--app-dir", str(EXAMPLES / "django5"), "--graceful-timeout", "2")
    with command("site5.wsgi", tmp_path / "log", *options, env={"DATABASE": str(tmp_path / "guests")}) as running:
        window = browser.window()
        window.open(running.url)
        for number in range(3):
            window.fill(name="Ada", text=f"entry {number}")
            window.click("form button")
            window.wait(f"document.querySelector('#entries li')?.textContent === 'Ada: entry {number}'")
            assert window.run("document.querySelector('[name=name]').value") == "Ada"
        window.click("#ask")
        window.wait("document.querySelector('#answer').textContent === '0 1 4 9 16 | 0 1 4 9 16 | 0 1 4 9 16'")
    assert "Traceback" not in (tmp_path / "log").read_text()
