"""The watchdog: what it says of a blocked hub, how often, and that it goes when the server goes."""

from __future__ import annotations

import ctypes
import logging
import socket
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.soak.managers import GREENDAPHNE, running
from tests.support.monitoring import scrape, wait_until
from tests.support.server import PATIENCE, Client, RunningServer, serve

THRESHOLD = 0.2
BLOCKED = "The hub has been blocked"
OVER = "The hub is no longer blocked"
STALLED = "The process did not run for"


class Lines(logging.Handler):
    """What the watchdog logs, and when it has."""

    def __init__(self) -> None:
        super().__init__()
        self.lines: list[str] = []
        self.said = threading.Event()

    def emit(self, record: logging.LogRecord) -> None:
        line = record.getMessage()
        self.lines.append(line)
        # On a busy machine the process may not run for a moment at any time.
        if STALLED not in line:
            self.said.set()

    def count(self, text: str) -> int:
        return sum(text in line for line in self.lines)


@pytest.fixture
def lines() -> Iterator[Lines]:
    handler = Lines()
    logger = logging.getLogger("greendaphne.watchdog")
    logger.addHandler(handler)
    yield handler
    logger.removeHandler(handler)


@pytest.fixture
def server() -> Iterator[RunningServer]:
    with serve(metrics="tcp:0:interface=127.0.0.1", watchdog=THRESHOLD) as running_server:
        yield running_server


def in_hub(server: RunningServer, function: Callable[[], object]) -> None:
    """Run ``function`` where all of the server runs, and wait for its end."""
    done = threading.Event()

    def run() -> None:
        function()
        done.set()

    server.server._hub.loop.run_callback_threadsafe(run)
    assert done.wait(PATIENCE)


def test_a_blockage_is_reported_once_and_then_its_end(server: RunningServer, lines: Lines) -> None:
    def blocks_here() -> None:
        assert lines.said.wait(PATIENCE)
        # It goes on for several more looks.
        time.sleep(3 * THRESHOLD)

    in_hub(server, blocks_here)
    wait_until(lambda: lines.count(OVER) and lines.count(OVER) == lines.count(BLOCKED), "the end")
    (report,) = [line for line in lines.lines if "in blocks_here" in line]
    assert report.startswith(BLOCKED)
    assert "nothing else is served; it is at\n" in report
    assert "assert lines.said.wait(PATIENCE)" in report
    # How long it was is in the last line: at least what is certain.
    assert max(float(line.split()[-2]) for line in lines.lines if OVER in line) >= 3 * THRESHOLD
    numbers = scrape(server)
    assert numbers("hub_blockages_total") >= 1
    assert numbers("hub_blocked_seconds_total") >= 4 * THRESHOLD
    assert numbers("hub_lag_max_seconds") > 0


def test_each_blockage_is_one(server: RunningServer, lines: Lines) -> None:
    def first() -> None:
        assert lines.said.wait(PATIENCE)

    def second() -> None:
        assert lines.said.wait(PATIENCE)

    for culprit in (first, second):
        lines.said.clear()
        in_hub(server, culprit)
        wait_until(lambda: lines.count(OVER) and lines.count(OVER) == lines.count(BLOCKED), "the end")
    assert [lines.count(f"in {name}") for name in ("first", "second")] == [1, 1]
    assert scrape(server)("hub_blockages_total") >= 2


def test_code_that_keeps_the_interpreter(server: RunningServer, lines: Lines) -> None:
    """No other thread runs meanwhile, not even the watchdog's."""

    def computes() -> None:
        # One call in C, of as many rounds as it takes to be noticed.
        rounds = 10_000_000
        while not lines.said.is_set():
            sum(range(rounds))
            rounds *= 2
            time.sleep(0)

    in_hub(server, computes)
    wait_until(lambda: lines.lines)
    assert any("by code that stopped all threads" in line or BLOCKED in line for line in lines.lines)
    assert any("in computes" in line for line in lines.lines)
    wait_until(lambda: scrape(server)("hub_blockages_total") >= 1)


def test_a_process_that_does_not_run_is_told_from_it(server: RunningServer, lines: Lines) -> None:
    # A function of ctypes.PyDLL keeps the interpreter while it sleeps: nothing runs and nothing is computed, as when a process is stopped.
    usleep = ctypes.PyDLL(None).usleep

    def stalls() -> bool:
        in_hub(server, lambda: usleep(int(4 * THRESHOLD * 1_000_000)))
        return lines.count(STALLED) > 0

    # At a busy moment it may have computed something just before.
    wait_until(stalls, "the report")
    assert scrape(server)("process_stalls_total") >= 1


def watching() -> int:
    """How many threads watch."""
    frames = sys._current_frames().values()
    return sum(frame.f_code.co_filename.endswith("watchdog.py") and frame.f_code.co_name == "_watch" for frame in frames)


def test_it_goes_with_the_server() -> None:
    assert watching() == 0
    with serve(watchdog=THRESHOLD):
        wait_until(lambda: watching() == 1)
        with serve(watchdog=THRESHOLD):
            wait_until(lambda: watching() == 2)
    assert watching() == 0


def test_without_it_there_is_no_thread() -> None:
    with serve(metrics="tcp:0:interface=127.0.0.1") as server:
        assert watching() == 0
        # What does not watch has no numbers.
        assert "greendaphne_hub_blockages" not in scrape(server).kinds


APPLICATION = """
import time
from gevent.monkey import get_original
from greendaphne.layers.memory import MemoryChannelLayer

channel_layer = MemoryChannelLayer()

def request(message):
    culprit(float(message.content["query_string"]))
    message.reply({"status": 200, "content": b"at last"})

def culprit(seconds):
    get_original("time", "sleep")(seconds)

channel_layer.routes = {"http.request": request}
"""


def test_in_a_patched_process(tmp_path: Path) -> None:
    """Its thread is a native one, and logs, although the process has no native threads any more."""
    (tmp_path / "app.py").write_text(APPLICATION)
    command = [*GREENDAPHNE, "--inline-workers", "1", "-u", "s", "--watchdog", str(THRESHOLD), "app:channel_layer"]
    with running(command, directory=tmp_path) as process:
        process.find("Listening on channels")
        with socket.socket(socket.AF_UNIX) as sock:
            sock.settimeout(PATIENCE)
            sock.connect(str(tmp_path / "s"))
            client = Client(sock)
            client.send(b"GET /?%f HTTP/1.1\r\nHost: a\r\n\r\n" % (10 * THRESHOLD))
            process.find("WARNING.*" + BLOCKED)
            assert client.read_response().body == b"at last"
        process.find("WARNING.*" + OVER)
        assert process.count("in culprit") == 1
