"""``docs/migrating``: a site on Channels 1, whose workers are in an environment of their own, beside a site on Django 5 and Channels 4.

The example site's workers run in the main environment, with Django 2.2 and asgiref 1; this environment has the server.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import httpx
import pytest
import websocket

from tests.modern.django_projects import make_project
from tests.support import legacy
from tests.support.django_example import receive
from tests.support.redis_server import redis_server
from tests.support.scripts import PATIENCE, ROOT

#: The environment of Channels 1; the documentation calls it ``old``.
OLD = ROOT / ".venv" / "bin" / "python"


def has_channels_1() -> bool:
    probe = "import django, channels; assert django.VERSION < (3,) and channels.__version__ < '2'"
    return OLD.exists() and subprocess.run([OLD, "-c", probe], capture_output=True, check=False).returncode == 0


pytestmark = pytest.mark.skipif(not has_channels_1(), reason="the environment of Channels 1 is not there: make test")

BRIDGE = """
from greendaphne.layers.redis import RedisChannelLayer

old = RedisChannelLayer(hosts=[{url!r}])
"""
FURTHER = """
SESSION_COOKIE_NAME = "new_session"
CSRF_COOKIE_NAME = "new_csrf"
"""


@contextmanager
def both(directory: Path, *options: str) -> Iterator[legacy.Site]:
    """Two workers of the old site, and the server with ``options`` in the directory of the new one."""
    project = make_project(directory / "new", ["channels"], FURTHER)
    data = directory / "old"
    data.mkdir()
    with redis_server() as redis:
        (project / "bridge.py").write_text(BRIDGE.format(url=redis.url))
        old = {**legacy.environment(data, "redis"), "CHAT_REDIS": redis.url}
        subprocess.run([OLD, "manage.py", "demo"], cwd=legacy.EXAMPLE, env=old, check=True, timeout=PATIENCE, stdout=subprocess.DEVNULL)
        new = {**os.environ, "PYTHONPATH": str(ROOT), "PYTHONUNBUFFERED": "1"}
        processes = []
        try:
            for number in range(2):
                processes.append(legacy.Process([str(OLD), "manage.py", "runworker"], data / f"worker{number}.log", old))
            command = [sys.executable, "-m", "greendaphne", "-p", "0", "--graceful-timeout", "5", *options]
            processes.append(legacy.Process(command, directory / "server.log", new, project))
            yield legacy.Site(processes[-1], processes[-1].port(), directory)
        finally:
            codes = [process.stop() for process in processes]
        for process in processes:
            legacy.assert_no_traceback(process.output())
        assert codes == [0, 0, 0]
        shutil.rmtree(data / "media", ignore_errors=True)


def assert_old(site: legacy.Site) -> None:
    """The old site answers: pages, forms with a session, static files of Django 2.2, and a chat between two users."""
    assert "Lobby" in httpx.get(f"{site.url}/", timeout=PATIENCE).text
    alice, bob = site.login("alice"), site.login("bob")
    ours = site.socket("lobby", alice)
    assert receive(ours, "joined")["present"] == ["alice"]
    theirs = site.socket("lobby", bob)
    assert receive(ours, "joined")["present"] == ["alice", "bob"]
    ours.send(json.dumps({"text": "Grüße"}))
    for socket in (ours, theirs):
        assert receive(socket, "message")["message"]["text"] == "Grüße"
        socket.close()


def assert_new(site: legacy.Site, mount: str) -> None:
    """The new site answers below ``mount``, by a page, an asynchronous view and a consumer of Channels 4."""
    assert httpx.get(f"{site.url}{mount}/", timeout=PATIENCE).text.startswith("hello from ASGIRequest")
    assert httpx.get(f"{site.url}{mount}/slow", timeout=PATIENCE).text == "slow"
    client = websocket.create_connection(f"ws://127.0.0.1:{site.port}{mount}/echo", timeout=PATIENCE)
    client.send("hello")
    assert client.recv() == "hello"
    client.close()


def test_the_new_site_below_a_path_of_the_old(tmp_path: Path) -> None:
    with both(tmp_path, "--mount", "/shop=site5.asgi:application", "bridge:old") as site:
        assert_old(site)
        assert_new(site, "/shop")
        # A name that begins like the mount point belongs to the old site.
        assert httpx.get(f"{site.url}/shopping/", timeout=PATIENCE).status_code == 404


@pytest.mark.parametrize(
    "options",
    [
        ("site5.asgi:application",),
        ("--asgi", "site5.asgi:application"),
        ("--websocket-app", "site5.asgi:application", "site5.wsgi:application"),
    ],
    ids=["asgi", "asgi-said", "wsgi-and-asgi"],
)
def test_the_old_site_below_a_path_of_the_new(tmp_path: Path, options: tuple[str, ...]) -> None:
    with both(tmp_path, "--mount", "/legacy=bridge:old,channels", *options) as site:
        new = httpx.get(f"{site.url}/", timeout=PATIENCE).text
        assert new.startswith("hello from WSGIRequest" if "--websocket-app" in options else "hello from ASGIRequest")
        client = websocket.create_connection(f"ws://127.0.0.1:{site.port}/echo", timeout=PATIENCE)
        client.send("hello")
        assert client.recv() == "hello"
        page = httpx.get(f"{site.url}/legacy/", timeout=PATIENCE).text
        assert "Lobby" in page
        # Links of the old site begin with its mount point.
        assert 'href="/legacy/accounts/login/' in page
        with pytest.raises(websocket.WebSocketBadStatusException) as refused:
            websocket.create_connection(f"ws://127.0.0.1:{site.port}/legacy/rooms/lobby/socket/", timeout=PATIENCE)
        assert refused.value.status_code == 403
        # The socket of the new site lived beside all that.
        client.send("still here")
        assert client.recv() == "still here"
        client.close()
