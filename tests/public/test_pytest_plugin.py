"""The fixtures for live tests, in projects of their own: Django 2.2 with Channels 1.1.8, and none of both; patched and not."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import textwrap
from pathlib import Path

import pytest

from tests.support import legacy
from tests.support.documented import programs

needs_channels = pytest.mark.skipif(sys.version_info >= (3, 12), reason="Django 2.2 and Channels 1 end with Python 3.11")

PATCHED = "from gevent import monkey; monkey.patch_all(); import pytest, sys; sys.exit(pytest.main(sys.argv[1:]))"


def run_pytest(directory: Path, *arguments: str, patched: bool = False, **environ: str) -> str:
    """Run the tests in ``directory``; returns the last line."""
    command = [sys.executable, "-c", PATCHED] if patched else [sys.executable, "-m", "pytest"]
    process = subprocess.run(
        [*command, "-q", "-p", "no:cacheprovider", "-p", "no:anyio", "-p", "no:hypothesispytest", *arguments],
        cwd=directory,
        env={**legacy.environment(directory, "memory"), **environ},
        capture_output=True,
        text=True,
        timeout=legacy.PATIENCE * 8,
        check=False,
    )
    assert process.returncode == 0, process.stdout + process.stderr
    legacy.assert_no_traceback(process.stdout + process.stderr)
    return process.stdout.splitlines()[-1]


def write(path: Path, source: str) -> None:
    path.write_text(textwrap.dedent(source), encoding="utf-8")


# --- A project of Channels ---

#: Tests as such a project has them.
LIVE = """
    import json

    import pytest
    import requests
    import websocket
    from channels import Group
    from channels.asgi import channel_layers
    from django.conf import settings
    from django.contrib.auth import get_user_model
    from rooms.models import Message, Room

    layers = []


    @pytest.fixture
    def room(greendaphne_server_factory):
        # Requested first, it brings the database along.
        return Room.objects.create(name="Lobby", slug="lobby")


    def logged_in(server, name):
        get_user_model().objects.create_user(name, password="secret")
        session = requests.Session()
        # An idle connection would have a second when the server stops.
        session.headers["Connection"] = "close"
        page = session.get(f"{server.url}/accounts/login/", timeout=30)
        form = {"username": name, "password": "secret", "csrfmiddlewaretoken": session.cookies["csrftoken"]}
        assert session.post(page.url, form, timeout=30).url == f"{server.url}/"
        return session


    def enter(server, session, room):
        cookie = f"sessionid={session.cookies['sessionid']}"
        return websocket.create_connection(f"{server.ws_url}/rooms/{room.slug}/socket/", cookie=cookie, timeout=30)


    def receive(socket, kind):
        while True:
            content = json.loads(socket.recv())
            if content["type"] == kind:
                return content


    def test_pages_and_static_files(greendaphne_server, room):
        assert str(greendaphne_server) == greendaphne_server.url == f"http://127.0.0.1:{greendaphne_server.port}"
        assert "Lobby" in requests.get(greendaphne_server.url, timeout=30).text
        assert requests.get(f"{greendaphne_server.url}/static/rooms/site.css", timeout=30).status_code == 200
        assert requests.get(f"{greendaphne_server.url}/nowhere/", timeout=30).status_code == 404


    @pytest.mark.parametrize("time", [1, 2])
    def test_what_is_said_is_stored_and_passed_on(greendaphne_server, room, time):
        alice, bob = (logged_in(greendaphne_server, name) for name in ("alice", "bob"))
        first = enter(greendaphne_server, alice, room)
        assert receive(first, "history")["messages"] == []
        second = enter(greendaphne_server, bob, room)
        assert receive(first, "joined")["user"] in ("alice", "bob")
        first.send(json.dumps({"text": "Hello"}))
        assert receive(second, "message")["message"]["text"] == "Hello"
        assert Message.objects.get().text == "Hello"
        # What the test sends comes from the same layer.
        Group(room.group).send({"text": json.dumps({"type": "news", "time": time})})
        assert receive(second, "news")["time"] == time
        first.close()
        second.close()


    def test_every_test_has_a_layer_and_a_database_of_its_own(greendaphne_server):
        assert not Message.objects.exists()
        assert greendaphne_server.layer is channel_layers["default"].channel_layer
        assert greendaphne_server.layer not in layers
        layers.append(greendaphne_server.layer)


    def test_the_projects_layer_is_back(request):
        before = channel_layers["default"].channel_layer
        hosts = list(settings.ALLOWED_HOSTS)
        server = request.getfixturevalue("greendaphne_server")
        assert channel_layers["default"].channel_layer is server.layer is not before
        request.addfinalizer(lambda: None)
        layers.append((before, hosts))


    def test_the_projects_layer_is_back_now():
        before, hosts = layers[-1]
        assert channel_layers["default"].channel_layer is before
        assert settings.ALLOWED_HOSTS == hosts


    def test_servers_of_one_test_share_a_layer(greendaphne_server_factory, room):
        first = greendaphne_server_factory(workers=2)
        second = greendaphne_server_factory(workers=0, server_name="second")
        assert first.layer is second.layer
        answer = requests.get(second.url, timeout=30)
        assert (answer.status_code, answer.headers["Server"]) == (200, "second")


    class TestOptions:
        @pytest.fixture
        def greendaphne_options(self):
            return {"workers": 3, "serve_static": False, "server_name": "optional"}

        def test_of_a_project(self, greendaphne_server):
            answer = requests.get(f"{greendaphne_server.url}/static/rooms/site.css", timeout=30)
            assert (answer.status_code, answer.headers["Server"]) == (404, "optional")
"""

#: For those who have no pytest-django: what it does.
CONFTEST = """
    import django
    import pytest
    from django.core.management import call_command
    from django.test.utils import setup_databases, setup_test_environment, teardown_databases, teardown_test_environment

    django.setup(set_prefix=False)


    @pytest.fixture(scope="session", autouse=True)
    def database():
        setup_test_environment(debug=False)
        databases = setup_databases(verbosity=0, interactive=False)
        yield
        teardown_databases(databases, verbosity=0)
        teardown_test_environment()


    @pytest.fixture(autouse=True)
    def flush():
        yield
        call_command("flush", verbosity=0, interactive=False)
"""

#: A database that exists in one connection alone.
IN_MEMORY = """
    from chat.settings import *  # noqa: F403

    DATABASES = {"default": {"ENGINE": "django.db.backends.sqlite3", "NAME": ":memory:"}}
    ALLOWED_HOSTS = []
    DEBUG = False
"""


@pytest.fixture(scope="module")
def project(tmp_path_factory: pytest.TempPathFactory) -> Path:
    directory = tmp_path_factory.mktemp("project")
    shutil.copytree(legacy.EXAMPLE, directory, dirs_exist_ok=True, ignore=shutil.ignore_patterns("__pycache__", "*.sqlite3", "media"))
    write(directory / "test_live.py", LIVE)
    write(directory / "in_memory.py", IN_MEMORY)
    documented = programs("library.rst")
    write(directory / "test_site.py", documented["test_site.py"])
    # A test case of Django, by the name that its own runner looks for.
    write(directory / "test_case.py", documented["tests.py"])
    return directory


@needs_channels
@pytest.mark.parametrize(("settings", "patched"), [("chat.settings", False), ("in_memory", True)], ids=["unpatched", "patched"])
def test_with_pytest_django(project: Path, settings: str, patched: bool) -> None:
    last = run_pytest(project, "test_live.py", "test_site.py", "test_case.py", patched=patched, DJANGO_SETTINGS_MODULE=settings)
    assert last.startswith("12 passed")


@needs_channels
def test_without_pytest_django(project: Path) -> None:
    directory = project / "without"
    directory.mkdir()
    write(directory / "conftest.py", CONFTEST)
    write(directory / "test_live.py", LIVE)
    python_path = os.pathsep.join([str(project), str(legacy.ROOT)])
    last = run_pytest(directory, "-p", "no:django", DJANGO_SETTINGS_MODULE="in_memory", PYTHONPATH=python_path)
    assert last.startswith("8 passed")


# --- Without Django ---

PLAIN = """
    import ssl
    import urllib.error
    import urllib.request

    import pytest
    from greendaphne.layers.memory import MemoryChannelLayer
    from greendaphne.testing import live_server


    def hello(message):
        message.reply({"status": 200, "content": b"hello"})


    def test_routes(greendaphne_server_factory):
        server = greendaphne_server_factory(routes={"http.request": hello})
        assert urllib.request.urlopen(server.url).read() == b"hello"


    def test_the_test_is_the_application(greendaphne_server):
        import threading

        answers = []
        client = threading.Thread(target=lambda: answers.append(urllib.request.urlopen(greendaphne_server.url).read()))
        client.start()
        [(_, request)] = greendaphne_server.layer.receive_batch(["http.request"], 1, 30)
        greendaphne_server.layer.send(request["reply_channel"], {"status": 200, "content": b"by hand"})
        client.join(30)
        assert answers == [b"by hand"]


    class TestLayer:
        @pytest.fixture
        def greendaphne_layer(self):
            layer = MemoryChannelLayer()
            layer.routes = {"http.request": hello}
            return layer

        def test_of_a_project(self, greendaphne_server, greendaphne_layer):
            assert greendaphne_server.layer is greendaphne_layer
            assert urllib.request.urlopen(greendaphne_server.url).read() == b"hello"


    def test_what_fails_is_said(greendaphne_server_factory):
        with pytest.raises(TypeError, match="unexpected keyword argument"):
            greendaphne_server_factory(no_such_option=1)
        with pytest.raises(ValueError, match="No consumers for inline workers"):
            greendaphne_server_factory(workers=1)


    def test_other_frameworks():
        with live_server(routes={"http.request": hello}) as server:
            assert urllib.request.urlopen(server.url).read() == b"hello"
        with pytest.raises(urllib.error.URLError):
            urllib.request.urlopen(server.url)
"""


@pytest.mark.parametrize("patched", [False, True], ids=["unpatched", "patched"])
def test_without_django(tmp_path: Path, patched: bool) -> None:
    write(tmp_path / "test_plain.py", PLAIN)
    write(tmp_path / "test_documented.py", programs("library.rst")["test_plain.py"])
    # Settings may be named for another purpose, but there is no Django then.
    environ = {"DJANGO_SETTINGS_MODULE": ""}
    assert run_pytest(tmp_path, "-W", "error", "-p", "no:django", patched=patched, **environ).startswith("6 passed")


def test_the_plugin_costs_nothing_where_it_is_not_used(tmp_path: Path) -> None:
    write(
        tmp_path / "test_nothing.py",
        """
        import sys

        def test_imports(request):
            assert request.config.pluginmanager.hasplugin("greendaphne")
            heavy = ("gevent", "django", "channels", "asgiref", "greendaphne.server", "greendaphne.testing")
            assert not [name for name in heavy if name in sys.modules]
        """,
    )
    assert run_pytest(tmp_path, "-p", "no:django", DJANGO_SETTINGS_MODULE="").startswith("1 passed")
