"""A headless Chromium under test, driven through the DevTools protocol by a plain WebSocket client.

``Chromium`` starts one browser with a profile of its own; ``window()`` opens a window in a new context, that is with cookies of its own,
so that two windows are two visitors.  Every wait happens inside the page, on a condition, with a time limit.
"""

from __future__ import annotations

import base64
import json
import os
import shutil
import subprocess
import tempfile
import time
from contextlib import AbstractContextManager
from pathlib import Path
from types import TracebackType
from typing import Any

import websocket

#: Seconds for a condition on a page; generous because the machine may be busy.
PATIENCE = 30.0
NAMES = ("chromium", "chromium-browser", "google-chrome")
FLAGS = (
    "--headless",
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--no-default-browser-check",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
    "--disable-dev-shm-usage",
    "--disable-background-timer-throttling",
    "--disable-backgrounding-occluded-windows",
    "--disable-renderer-backgrounding",
    "--remote-debugging-port=0",
    "--remote-allow-origins=*",
)
_WAIT = """new Promise((resolve, reject) => {
  const end = Date.now() + %(milliseconds)d;
  (function look() {
    let value = null;
    try { value = (%(expression)s); } catch (error) { value = null; }
    if (value) resolve(value);
    else if (Date.now() > end) reject(new Error("waited in vain"));
    else setTimeout(look, 20);
  })();
})"""


class PageError(AssertionError):
    """A script in the page failed, or a condition did not come true in time."""


class Chromium(AbstractContextManager["Chromium"]):
    """The browser process; a context manager."""

    def __init__(self, *flags: str) -> None:
        executable = next(filter(None, map(shutil.which, NAMES)), None)
        if executable is None:
            raise RuntimeError("these tests need Chromium; on Debian: apt-get install chromium")
        self._profile = Path(tempfile.mkdtemp(prefix="chromium-"))
        self._process = subprocess.Popen(
            [executable, *FLAGS, *flags, f"--user-data-dir={self._profile}", "about:blank"],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            start_new_session=True,
            env={**os.environ, "HOME": str(self._profile)},
        )
        try:
            self._socket = websocket.create_connection(self._address(), timeout=2 * PATIENCE, suppress_origin=True)
        except BaseException:
            self._kill()
            raise
        self._last_id = 0
        #: DevTools events received while waiting for an answer, by session.
        self.events: list[dict[str, Any]] = []

    def _address(self) -> str:
        """The address that Chromium writes into its profile once it listens."""
        file = self._profile / "DevToolsActivePort"
        end = time.monotonic() + 2 * PATIENCE
        while time.monotonic() < end:
            if self._process.poll() is not None:
                raise RuntimeError(f"Chromium ended with code {self._process.returncode}")
            lines = file.read_text().split("\n") if file.exists() else []
            if len(lines) == 2:
                return f"ws://127.0.0.1:{lines[0]}{lines[1]}"
            time.sleep(0.02)
        raise RuntimeError("Chromium did not start in time")

    def call(self, method: str, session: str | None = None, **params: object) -> dict[str, Any]:
        """Call a DevTools method and return its result."""
        self._last_id += 1
        message = {"id": self._last_id, "method": method, "params": params}
        if session is not None:
            message["sessionId"] = session
        self._socket.send(json.dumps(message))
        while True:
            answer = json.loads(self._socket.recv())
            if answer.get("id") != self._last_id:
                self.events.append(answer)
            elif "error" in answer:
                raise PageError(f"{method}: {answer['error']['message']}")
            else:
                return dict(answer["result"])

    def window(self, width: int = 1100, height: int = 720) -> Window:
        """A new window without cookies."""
        context = self.call("Target.createBrowserContext")["browserContextId"]
        target = self.call("Target.createTarget", url="about:blank", browserContextId=context, newWindow=True, width=width, height=height)
        session = self.call("Target.attachToTarget", targetId=target["targetId"], flatten=True)["sessionId"]
        return Window(self, session)

    def close(self) -> None:
        """End the browser and remove its profile."""
        try:
            self.call("Browser.close")
        except (OSError, websocket.WebSocketException):
            pass
        self._socket.close()
        self._kill()

    def _kill(self) -> None:
        try:
            self._process.wait(5)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
        shutil.rmtree(self._profile, ignore_errors=True)

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self.close()


class Window:
    """One page of the browser."""

    def __init__(self, browser: Chromium, session: str) -> None:
        self._browser = browser
        self._session = session
        for domain in ("Page", "Runtime", "Log", "Network"):
            self.call(f"{domain}.enable")

    def call(self, method: str, **params: object) -> dict[str, Any]:
        """Call a DevTools method of this page."""
        return self._browser.call(method, self._session, **params)

    def run(self, expression: str) -> Any:
        """The value of a JavaScript expression; a promise is awaited."""
        result = self.call("Runtime.evaluate", expression=expression, awaitPromise=True, returnByValue=True, userGesture=True)
        if "exceptionDetails" in result:
            details = result["exceptionDetails"]
            raise PageError(f"{expression}: {details.get('exception', {}).get('description') or details['text']}")
        return result["result"].get("value")

    def wait(self, expression: str, patience: float = PATIENCE) -> Any:
        """Wait until ``expression`` is true in the page, across navigations; returns its value."""
        end = time.monotonic() + patience
        while True:
            milliseconds = max(0, int((end - time.monotonic()) * 1000))
            try:
                return self.run(_WAIT % {"expression": expression, "milliseconds": milliseconds})
            except PageError as error:
                # A navigation throws away the page that the promise lived in; the next page is asked the same.
                if time.monotonic() >= end:
                    text = self.run("document.body ? document.body.innerText : ''")
                    raise PageError(f"{expression} did not come true in {patience} s ({error}); the page says:\n{text}") from None

    def open(self, url: str) -> None:
        """Go to ``url`` and wait until the page is complete."""
        answer = self.call("Page.navigate", url=url)
        if answer.get("errorText"):
            raise PageError(f"{url}: {answer['errorText']}")
        self.wait("document.readyState === 'complete' && location.href !== 'about:blank'")

    def fill(self, **values: str) -> None:
        """Put values into the form fields with these names."""
        for name, value in values.items():
            self.run(f"document.querySelector('[name={name}]').value = {json.dumps(value)}; true")

    def click(self, selector: str) -> None:
        """Click on the first element that ``selector`` finds."""
        self.run(f"document.querySelector({json.dumps(selector)}).click(); true")

    def type(self, selector: str, text: str) -> None:
        """Type ``text`` into an element, as the keyboard would, and press Enter."""
        self.run(f"document.querySelector({json.dumps(selector)}).focus(); true")
        self.call("Input.insertText", text=text)
        for kind in ("keyDown", "keyUp"):
            self.call("Input.dispatchKeyEvent", type=kind, key="Enter", code="Enter", windowsVirtualKeyCode=13, text="\r")

    def choose_file(self, selector: str, path: Path) -> None:
        """Choose a file in a file field."""
        root = self.call("DOM.getDocument")["root"]["nodeId"]
        node = self.call("DOM.querySelector", nodeId=root, selector=selector)["nodeId"]
        self.call("DOM.setFileInputFiles", nodeId=node, files=[str(path)])

    def complaints(self) -> list[str]:
        """What scripts threw and what the browser logged as an error in this page so far."""
        found = []
        for event in self._browser.events:
            if event.get("sessionId") != self._session:
                continue
            params = event.get("params", {})
            if event["method"] == "Runtime.exceptionThrown":
                found.append(str(params["exceptionDetails"]["text"]))
            elif event["method"] == "Log.entryAdded" and params["entry"]["level"] == "error":
                found.append(f"{params['entry']['text']} {params['entry'].get('url', '')}")
        return found

    def websocket_statuses(self) -> list[int]:
        """The statuses with which servers answered the WebSocket handshakes of this page so far."""
        return [
            event["params"]["response"]["status"]
            for event in self._browser.events
            if event.get("sessionId") == self._session and event["method"] == "Network.webSocketHandshakeResponseReceived"
        ]

    def screenshot(self, path: Path) -> None:
        """Save the window as a PNG picture."""
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(base64.b64decode(self.call("Page.captureScreenshot", format="png")["data"]))
