"""``--reload``: what is watched, and what a developer sees while the code changes."""

from __future__ import annotations

import os
import selectors
import socket
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from greendaphne.processes import watching
from greendaphne.processes.watching import Watcher
from tests.soak.managers import GREENDAPHNE, Process, running
from tests.support.server import PATIENCE, Client, Response

CODE = """
def application(environ, start_response):
    start_response("200 OK", [("Content-Type", "text/plain")])
    return [b"VERSION"]
"""
SERVES = r"Worker \d+ \(process (\d+)\) serves"


# ---- files


@pytest.fixture(autouse=True)
def often(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(watching, "INTERVAL", 0.02)


@pytest.fixture
def watcher(tmp_path: Path) -> Iterator[Watcher]:
    (tmp_path / "app.py").write_text("1")
    (tmp_path / "page.html").write_text("1")
    for place in ("sub", ".hidden", "venv", "node_modules", "sub/skipped"):
        (tmp_path / place).mkdir()
        (tmp_path / place / "module.py").write_text("1")
    (tmp_path / "venv" / "pyvenv.cfg").touch()
    watcher = Watcher([str(tmp_path)], ["*.py", "*.html"], ["*_test.py", "sub/skipped/*"])
    watcher.start()
    time.sleep(0.1)
    yield watcher
    watcher.close()


def changes(watcher: Watcher, seconds: float = PATIENCE) -> list[str]:
    with selectors.DefaultSelector() as selector:
        selector.register(watcher, selectors.EVENT_READ)
        return watcher.changed() if selector.select(seconds) else []


def touch(path: Path) -> None:
    path.write_text(path.read_text() + "\n#" if path.exists() else "1")


@pytest.mark.parametrize("name", ["app.py", "page.html", "sub/module.py", "new.py", "sub/new.py"])
def test_a_file_that_changes_or_appears(watcher: Watcher, tmp_path: Path, name: str) -> None:
    assert watcher.changed() == []
    touch(tmp_path / name)
    assert changes(watcher) == [str(tmp_path / name)]


def test_a_file_that_is_removed(watcher: Watcher, tmp_path: Path) -> None:
    (tmp_path / "app.py").unlink()
    assert changes(watcher) == [str(tmp_path / "app.py")]


@pytest.mark.parametrize(
    "name", ["data.txt", "app_test.py", "sub/skipped/module.py", ".hidden/module.py", "venv/module.py", "node_modules/module.py"]
)
def test_a_file_that_does_not_count(watcher: Watcher, tmp_path: Path, name: str) -> None:
    touch(tmp_path / name)
    touch(tmp_path / "last.py")
    assert changes(watcher) == [str(tmp_path / "last.py")]


def test_the_number_of_files_is_bounded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(watching, "MAX_FILES", 3)
    for number in range(10):
        (tmp_path / f"{number}.py").touch()
    watcher = Watcher([str(tmp_path)])
    assert len(watcher._look()) == 3
    watcher.close()


# ---- the command


def write(directory: Path, text: str) -> None:
    path = directory / "site.py"
    path.write_text(text)
    (directory / "code.py").write_text(text)
    os.utime(directory / "code.py", (time.time() + write.times, time.time() + write.times))  # type: ignore[attr-defined]
    write.times += 10  # type: ignore[attr-defined]


write.times = 10  # type: ignore[attr-defined]


def get(directory: Path, accept: bytes = b"*/*") -> Response:
    sock = socket.socket(socket.AF_UNIX)
    sock.settimeout(PATIENCE)
    sock.connect(str(directory / "s"))
    with Client(sock) as client:
        client.send(b"GET /a HTTP/1.1\r\nHost: a\r\nAccept: " + accept + b"\r\n\r\n")
        return client.read_response()


def served(process: Process, number: int) -> None:
    """Wait until the worker of this number serves, and those before it, which shared its socket for a moment, have ended."""
    process.until(lambda: process.count(SERVES) >= number, f"worker {number} serves")
    process.until(lambda: process.count("ended with exit code 0") >= number - 1, f"worker {number - 1} ends")


def test_a_change_is_served_and_a_mistake_is_shown(tmp_path: Path) -> None:
    write(tmp_path, CODE.replace("VERSION", "one"))
    with running([*GREENDAPHNE, "--reload", "-u", "s", "code"], directory=tmp_path) as process:
        served(process, 1)
        assert get(tmp_path).body == b"one"
        write(tmp_path, CODE.replace("VERSION", "two"))
        served(process, 2)
        assert get(tmp_path).body == b"two"
        write(tmp_path, CODE + "<tag> = (")
        process.until(lambda: process.count("Not reloaded") == 1, "the mistake is noticed")
        # The code of before answers; a browser that navigates sees the traceback.
        assert get(tmp_path).body == b"two"
        page = get(tmp_path, b"text/html,*/*")
        assert (page.status, page.header("cache-control")) == (500, "no-store")
        assert b"SyntaxError" in page.body
        assert b"&lt;tag&gt;" in page.body
        write(tmp_path, CODE.replace("VERSION", "three"))
        served(process, 3)
        assert get(tmp_path, b"text/html").body == b"three"


@pytest.mark.parametrize("mistake", ["import nothing_of_this_name", "1 / 0", "application = None", "x = 1"])
def test_code_that_has_never_loaded(tmp_path: Path, mistake: str) -> None:
    write(tmp_path, mistake)
    with running([*GREENDAPHNE, "--reload", "-u", "s", "code"], directory=tmp_path) as process:
        served(process, 1)
        page = get(tmp_path)
        assert page.status == 500
        assert b"The server tries again when a file changes." in page.body
        write(tmp_path, mistake + " # again")
        served(process, 2)
        assert get(tmp_path).status == 500
        write(tmp_path, CODE)
        served(process, 3)
        assert get(tmp_path).body == b"VERSION"
