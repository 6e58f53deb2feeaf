"""The demo in a real browser: what a newcomer does on the page works, and the browser has no complaint.

Pictures of the page are kept in ``artefacts/``.
"""

from __future__ import annotations

import json
import re
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from greendaphne.demo import chat as chat_module
from greendaphne.demo import new_layer
from greendaphne.demo import site as site_module
from greendaphne.demo.chat import GROUP, Chat
from greendaphne.demo.site import Site
from tests.support.chromium import PATIENCE, Chromium, Window
from tests.support.server import RunningServer, serve

ARTEFACTS = Path(__file__).resolve().parents[2] / "artefacts"
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


SIZES = {360: 640, 375: 812, 768: 1024, 1200: 800, 1440: 900}
THEMES = ("light", "dark")


def show(browser: Chromium, server: RunningServer, width: int, theme: str = "light") -> Window:
    window = browser.window()
    window.call("Emulation.setDeviceMetricsOverride", width=width, height=SIZES[width], deviceScaleFactor=1, mobile=width < 500)
    window.call("Emulation.setEmulatedMedia", features=[{"name": "prefers-color-scheme", "value": theme}])
    window.open(f"{server.url}/")
    window.wait(OPEN)
    return window


@pytest.mark.parametrize("theme", THEMES)
@pytest.mark.parametrize("width", SIZES)
def test_the_page_fits_its_window(browser: Chromium, server: RunningServer, width: int, theme: str) -> None:
    window = show(browser, server, width, theme)
    assert window.run("document.documentElement.scrollWidth <= innerWidth")
    window.screenshot(ARTEFACTS / f"demo-{width}-{theme}.png")


@pytest.mark.parametrize(("width", "last"), [(375, ".tour"), (768, "#request"), (1440, "#request")])
def test_the_first_screen_shows_the_tour(browser: Chromium, server: RunningServer, width: int, last: str) -> None:
    """On a phone up to the links to its parts, else with the whole message; the header fields are one click away."""
    window = show(browser, server, width)
    assert window.run("scrollY") == 0
    assert window.run(f"document.querySelector({json.dumps(last)}).getBoundingClientRect().bottom") <= SIZES[width]
    assert window.run("document.querySelector('.message details').open") is False
    window.click(".message summary")
    window.wait("document.querySelector('.pairs').getBoundingClientRect().height > 0")


@pytest.mark.parametrize("width", [375, 768, 1440])
def test_twelve_lines_fit_the_box_of_the_stream(
    browser: Chromium, server: RunningServer, monkeypatch: pytest.MonkeyPatch, width: int
) -> None:
    monkeypatch.setattr(site_module, "STREAM_PAUSE", 0.01)
    window = show(browser, server, width)
    window.click("#stream-start")
    wait_for_status(window, "stream-status", "Complete: 12 lines")
    box = "document.querySelector('#stream-lines')"
    assert window.run(f"{box}.scrollHeight <= {box}.clientHeight && {box}.scrollWidth <= {box}.clientWidth")
    # The box is no larger than it has to be.
    assert window.run(f"{box}.clientHeight - {box}.lastElementChild.offsetHeight * 12") < 40


# Colours of an element as the browser computes them: its border, its background (of the first ancestor that has one), its text, and what is
# around it.
_COLOURS = """((element) => {
  const solid = (node) => {
    for (; node; node = node.parentElement) {
      const colour = getComputedStyle(node).backgroundColor;
      if (!/, 0\\)$/.test(colour)) return colour;
    }
  };
  const style = getComputedStyle(element);
  return {border: style.borderTopColor, text: style.color, inside: solid(element), outside: solid(element.parentElement)};
})(document.querySelector(%s))"""


def luminance(colour: str) -> float:
    """Relative luminance (WCAG 2.2) of ``rgb(…)``."""
    values = [int(value) / 255 for value in re.findall(r"\d+", colour)[:3]]
    red, green, blue = (value / 12.92 if value <= 0.04045 else ((value + 0.055) / 1.055) ** 2.4 for value in values)
    return 0.2126 * red + 0.7152 * green + 0.0722 * blue


def contrast(one: str, other: str) -> float:
    """The ratio of contrast, 1 to 21."""
    light, dark = sorted((luminance(one), luminance(other)), reverse=True)
    return (light + 0.05) / (dark + 0.05)


@pytest.mark.parametrize("theme", THEMES)
def test_borders_and_bubbles_can_be_seen(browser: Chromium, server: RunningServer, theme: str) -> None:
    window, other = show(browser, server, 1440, theme), show(browser, server, 1440, theme)
    say(window, "Ada", "mine")
    say(other, "Bob", "yours")
    wait_for_message(window, "yours")

    def colours(selector: str) -> dict[str, str]:
        found: dict[str, str] = window.run(_COLOURS % json.dumps(selector))
        return found

    for selector in (
        "select",
        "input[name=target]",
        "#upload-sample",
        "#stream-lines",
        ".chat-log",
        ".said:not(.mine)",
        ".tour a",
        ".flow li",
    ):
        found = colours(selector)
        assert contrast(found["border"], found["outside"]) >= 3, (selector, found)
        assert contrast(found["border"], found["inside"]) >= 3, (selector, found)
    mine, theirs = colours(".said.mine"), colours(".said:not(.mine)")
    assert contrast(mine["inside"], theirs["inside"]) >= 3
    assert contrast(mine["text"], mine["inside"]) >= 4.5
    assert contrast(theirs["text"], theirs["inside"]) >= 4.5
    sides = "['.said.mine', '.said:not(.mine)'].map((each) => Math.round(document.querySelector(each).getBoundingClientRect().left))"
    left, right = sorted(window.run(sides))
    assert left < right


@pytest.mark.parametrize("width", [375, 1440])
def test_without_javascript_nothing_is_dead(browser: Chromium, server: RunningServer, width: int) -> None:
    """What needs scripts is not shown, what works without them is, and says how."""
    window = browser.window()
    window.call("Emulation.setDeviceMetricsOverride", width=width, height=SIZES[width], deviceScaleFactor=1, mobile=width < 500)
    window.call("Emulation.setScriptExecutionDisabled", value=True)
    window.call("Page.navigate", url=f"{server.url}/?colour=green")
    text = ""
    # Its own scripts are off, those of the debugger are not; but waiting takes timers, which are.
    end = time.monotonic() + PATIENCE
    while "JavaScript is off" not in text and time.monotonic() < end:
        text = window.run("document.readyState === 'complete' ? document.body.innerText : ''")
    assert "colour=green" in text
    assert "open the stream" in text
    assert "Twelve lines will arrive" not in text
    assert "Not connected" not in text
    assert "Nothing has been said" not in text
    visible = "[...document.querySelectorAll(%s)].filter((each) => each.offsetParent !== null).length"
    assert window.run(visible % json.dumps("button, input, select, progress")) == 0
    assert window.run("document.documentElement.scrollWidth <= innerWidth")
    window.screenshot(ARTEFACTS / f"demo-{width}-without-javascript.png")
    window.call("Page.navigate", url=f"{server.url}/stream")
    while "line 12 of 12" not in text and time.monotonic() < end:
        text = window.run("document.body ? document.body.innerText : ''")
    assert "line 12 of 12" in text


def test_the_tour_leads_to_its_parts(browser: Chromium, server: RunningServer) -> None:
    window = show(browser, server, 375)
    for target in window.run("[...document.querySelectorAll('.tour a')].map((each) => each.hash)"):
        window.click(f".tour a[href='{target}']")
        window.wait(f"location.hash === {json.dumps(target)}")
        window.wait(f"document.querySelector({json.dumps(target)}).getBoundingClientRect().top < innerHeight")
