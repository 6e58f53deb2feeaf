"""Circus and supervisor with the configuration files of ``examples``, and a few rounds of each long test of ``tests.soak``."""

from __future__ import annotations

import re
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from tests.soak import http1
from tests.soak.load import Context, Report, Target, load, wait_until
from tests.soak.managers import ROOT, Circus, Process, running, signal_of
from tests.soak.run import Run
from tests.soak.scenarios import SCENARIOS
from tests.soak.sites import APPLICATION, site
from tests.support.ports import free_port
from tests.support.server import PATIENCE

EXAMPLES = ROOT / "examples"
needs_django = pytest.mark.skipif(sys.version_info >= (3, 12), reason="Django 2.2 and Channels 1 end with Python 3.11")
#: What stands in the examples and is somewhere else here; tests/interop/test_pages.py runs them as they stand.
REPLACED = {
    r"/srv/mysite/venv/bin/greendaphne": f"{sys.executable} -m greendaphne",
    r"project\.asgi:channel_layer": APPLICATION,
    r"(working_dir|directory) = /srv/mysite/current": rf"\1 = {ROOT}",
    r"--inline-workers 8": "--inline-workers 2",
    r"--access-log /var/log/mysite/access\.log ": "",
}


def example(path: str, replaced: dict[str, str]) -> str:
    """The text of an example with what is somewhere else here."""
    text = (EXAMPLES / path).read_text()
    for pattern, replacement in {**REPLACED, **replaced}.items():
        text, found = re.subn(pattern, replacement, text)
        assert found, f"{path} has no {pattern}"
    return text


@contextmanager
def plain_load(port: int) -> Iterator[None]:
    """Clients that check every answer, without TLS; none of them may meet a failure."""
    target = Target(("127.0.0.1", port), ("", 0))
    clients = {"keep-alive": (http1.keep_alive, 2), "new": (http1.new_connections, 1), "stream": (http1.streams, 1)}
    with load(target, clients) as report:
        yield
    assert sum(report.requests.values()) > 0
    assert not report.failures, str(report)


def ask(port: int) -> None:
    """One request on a new connection."""
    http1.new_connections(Context(Target(("127.0.0.1", port), ("", 0)), Report(), threading.Event()))


# ---- Circus


@contextmanager
def circus(tmp_path: Path) -> Iterator[tuple[Process, Circus, int]]:
    settings = tmp_path / "circus.ini"
    settings.write_text(
        example(
            "circus/circus.ini",
            {
                r"port = 8000": "port = 0",
                r"check_delay = 5": "check_delay = 0.5",
                r"ipc:///run/mysite\.circus-events": f"ipc://{tmp_path}/events\n[env]\nPYTHONPATH = {ROOT}",
                r"ipc:///run/mysite\.circus\n": f"ipc://{tmp_path}/control\n",
                r"uid = mysite\ngid = mysite\n": "",
                # To Circus' own output, which the test reads.
                r"std\w+_stream.*\n": "",
            },
        )
    )
    with running([sys.executable, "-c", "from circus.circusd import main; main()", str(settings)]) as process:
        process.until(lambda: process.count("Listening on channels") >= 2, "both servers listen")
        manager = Circus(tmp_path, process)
        port = re.search(r'"port": (\d+)', manager.control("--json", "listsockets"))
        assert port is not None
        yield process, manager, int(port.group(1))


def test_circus(tmp_path: Path) -> None:
    with circus(tmp_path) as (_, manager, port):
        first = set(manager.pids())
        assert len(first) == 2
        with plain_load(port):
            manager.control("incr", "web", "--waiting")
            assert len(manager.pids()) == 3
            manager.control("decr", "web", "--waiting")
            wait_until(lambda: len(manager.pids()) == 2, "two servers")
            manager.control("reload", "web", "--waiting")
            wait_until(lambda: not first & set(manager.pids()), "other servers")
        # One that is killed takes its clients with it; Circus starts another one.
        victim = manager.pids()[0]
        signal_of(victim, signal.SIGKILL)
        wait_until(lambda: victim not in manager.pids() and len(manager.pids()) == 2, "another server")
        ask(port)


# ---- supervisor


@contextmanager
def supervisor(tmp_path: Path) -> Iterator[tuple[Process, int]]:
    port = free_port()
    settings = tmp_path / "supervisord.conf"
    settings.write_text(
        example(
            "supervisor/supervisord.conf",
            {
                r"tcp://127\.0\.0\.1:8000": f"tcp://127.0.0.1:{port}",
                r"/run/mysite|/var/log/mysite": str(tmp_path),
                r"user = mysite": "nodaemon = true",
            },
        )
    )
    with running([sys.executable, "-m", "supervisor.supervisord", "-c", str(settings)], directory=tmp_path) as process:
        # A program runs for a second until supervisor takes it for started.
        process.until(lambda: process.count(r"success: web\d entered RUNNING") >= 2, "both servers run")
        yield process, port


def supervisorctl(tmp_path: Path, *command: str) -> None:
    program = [sys.executable, "-m", "supervisor.supervisorctl", "-c", str(tmp_path / "supervisord.conf")]
    result = subprocess.run([*program, *command], capture_output=True, text=True, timeout=PATIENCE * 3, check=False)
    assert result.returncode == 0, result.stdout + result.stderr


def test_supervisor(tmp_path: Path) -> None:
    with supervisor(tmp_path) as (process, port), plain_load(port):
        for name in ("web:web0", "web:web1"):
            supervisorctl(tmp_path, "restart", name)
        assert process.count("stopped: web") == 2


# ---- The long tests, in short


@pytest.mark.parametrize(
    ("scenario", "layer", "rounds"),
    [
        ("workers-reload", "memory", 1),
        ("workers-end", "memory", 2),
        ("workers-recycle", "memory", 2),
        ("sigterm", "memory", 2),
        ("systemd-restart", "memory", 2),
        ("circus-restart", "memory", 1),
        ("workers-reload", "redis", 2),
        ("workers-storm", "redis", 3),
        ("sigterm", "redis", 2),
        ("systemd-reload", "redis", 1),
        ("circus-reload", "redis", 1),
        pytest.param("workers-reload", "redis-channels", 1, marks=needs_django),
        ("consumers-restart", "redis-workers", 2),
        pytest.param("consumers-restart", "redis-runworker", 2, marks=needs_django),
        pytest.param("workers-reload", "legacy", 1, marks=needs_django),
    ],
)
def test_no_request_fails(tmp_path: Path, scenario: str, layer: str, rounds: int) -> None:
    with site(layer) as found:
        report = SCENARIOS[scenario](Run(tmp_path, rounds, found))
    kinds = {"keep-alive", "new", "upload", "stream", "websocket", "http2"}
    assert {kind for kind, number in report.requests.items() if number} == kinds
    assert not report.failures, str(report)
