"""What a visitor of the example site does in a browser."""

from __future__ import annotations

import json

from tests.support import legacy
from tests.support.chromium import Chromium, Window


def login(browser: Chromium, site: legacy.Site, user: str, page: str) -> Window:
    """A window of its own in which ``user`` has logged in and come to ``page``."""
    window = browser.window()
    window.open(f"{site.url}/accounts/login/?next={page}")
    window.fill(username=user, password=legacy.USERS[user])
    window.click("main form button")
    window.wait(f"location.pathname === {json.dumps(page)} && document.readyState === 'complete'")
    return window


def wait_for_state(window: Window, state: str) -> None:
    window.wait(f"document.querySelector('#state').textContent.startsWith({json.dumps(state)})")


def wait_for_line(window: Window, text: str) -> None:
    window.wait(f"[...document.querySelectorAll('#messages li')].some((line) => line.innerText.includes({json.dumps(text)}))")
