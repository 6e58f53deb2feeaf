"""``manage.py runserver`` of Django 5 with Channels 4, under both names of the application."""

from __future__ import annotations

import socket
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import httpx
import pytest
import websocket

from tests.modern.django_projects import STYLE, environment, make_project, runserver
from tests.support import legacy
from tests.support.scripts import PATIENCE

STATIC = "django.contrib.staticfiles"


@contextmanager
def served(project: Path, *options: str) -> Iterator[tuple[legacy.Process, int]]:
    process = runserver(project, *options)
    try:
        yield process, process.port()
    finally:
        process.stop()
    legacy.assert_no_traceback(process.output())


def manage(project: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    """Run a command that ends by itself."""
    command = [sys.executable, "manage.py", *arguments]
    return subprocess.run(command, cwd=project, env=environment(), capture_output=True, text=True, timeout=PATIENCE, check=False)


def get(port: int, path: str = "/") -> httpx.Response:
    return httpx.get(f"http://127.0.0.1:{port}{path}", timeout=PATIENCE)


@pytest.mark.parametrize("options", [(), ("--noreload",)], ids=["reloader", "noreload"])
@pytest.mark.parametrize("apps", [["daphne", STATIC], ["greendaphne", STATIC], ["greendaphne", "daphne", "channels", STATIC]], ids="-".join)
def test_pages_static_files_and_websockets(tmp_path: Path, apps: list[str], options: tuple[str, ...]) -> None:
    with served(make_project(tmp_path, apps), *options) as (process, port):
        process.wait_for("Quit the server with CONTROL-C.")
        assert "Starting ASGI/greendaphne version" in process.output()
        assert get(port).text.startswith("hello from ASGIRequest")
        assert get(port, "/slow").text == "slow"
        style = get(port, "/static/site.css")
        assert (style.status_code, style.text) == (200, STYLE)
        assert get(port, "/nowhere").status_code == 404
        client = websocket.create_connection(f"ws://127.0.0.1:{port}/echo", timeout=PATIENCE)
        client.send("Grüße")
        assert client.recv() == "Grüße"
        client.close()
        for line in ("HTTP GET / 200", "HTTP GET /nowhere 404", "WebSocket CONNECT /echo", "WebSocket DISCONNECT /echo"):
            process.wait_for(line)
    if options:
        # Without the reloader it handles signals itself.
        assert process.stop() == 0


def test_changed_code_is_served(tmp_path: Path) -> None:
    with served(make_project(tmp_path, ["daphne", STATIC])) as (process, port):
        assert get(port).text.startswith("hello")
        process.wait_for("Quit the server")
        urls = tmp_path / "site5" / "urls.py"
        process.change(urls, urls.read_text().replace("hello from", "good day from"))
        process.wait_for("Quit the server", times=2)
        assert get(process.port()).text.startswith("good day")


def test_nostatic_and_insecure(tmp_path: Path) -> None:
    project = make_project(tmp_path, ["daphne", STATIC])
    with served(project, "--nostatic", "--noreload") as (_, port):
        assert get(port, "/static/site.css").status_code == 404
    settings = project / "site5" / "settings.py"
    settings.write_text(settings.read_text().replace("DEBUG = True", "DEBUG = False"))
    with served(project, "--noreload") as (_, port):
        assert get(port, "/static/site.css").status_code == 404
    with served(project, "--insecure", "--noreload") as (_, port):
        assert get(port, "/static/site.css").text == STYLE


@pytest.mark.parametrize("options", [("--noasgi",), ("--noasgi", "--noreload")], ids=["reloader", "noreload"])
def test_noasgi_is_django_s_own_server(tmp_path: Path, options: tuple[str, ...]) -> None:
    with served(make_project(tmp_path, ["daphne", STATIC]), *options) as (_, port):
        assert get(port).text.startswith("hello from WSGIRequest")
        assert get(port, "/static/site.css").text == STYLE


def test_limits_by_options_settings_and_the_environment(tmp_path: Path) -> None:
    further = """
        DAPHNE_WEBSOCKET_MAX_FRAME_SIZE = 20
        GREENDAPHNE = {"server-name": "mine"}
        FORCE_SCRIPT_NAME = "/below"
    """
    project = make_project(tmp_path, ["daphne", STATIC], further)
    options = ("--noreload", "--websocket-max-message-size", "10", "--http_timeout", "30", "--websocket_handshake_timeout", "4")
    with served(project, *options) as (_, port):
        assert get(port, "/below/").headers["Server"] == "mine"
        client = websocket.create_connection(f"ws://127.0.0.1:{port}/below/echo", timeout=PATIENCE)
        client.send("0123456789")
        assert client.recv() == "0123456789"
        client.send("0123456789a")
        opcode, payload = client.recv_data()
        assert (opcode, payload[:2]) == (websocket.ABNF.OPCODE_CLOSE, (1009).to_bytes(2, "big"))
        assert client.sock is not None
        client.sock.close()


@pytest.mark.parametrize(
    ("apps", "further", "message"),
    [
        (
            ["daphne"],
            "del ASGI_APPLICATION",
            "CommandError: ASGI_APPLICATION is not set in the settings. Set it, or run runserver --noasgi.",
        ),
        (["daphne"], 'ASGI_APPLICATION = "asgi"', "CommandError: ASGI_APPLICATION = 'asgi' is not written module.path.name."),
        (
            ["greendaphne"],
            'ASGI_APPLICATION = "site5.asgj.application"',
            "CommandError: ASGI_APPLICATION = 'site5.asgj.application': No module named 'site5.asgj'.",
        ),
        (
            ["greendaphne"],
            'ASGI_APPLICATION = "site5.asgi.app"',
            "CommandError: ASGI_APPLICATION = 'site5.asgi.app': module 'site5.asgi' has no attribute 'app'.",
        ),
    ],
)
def test_a_wrong_setting_is_one_line(tmp_path: Path, apps: list[str], further: str, message: str) -> None:
    result = manage(make_project(tmp_path, apps, further), "runserver", "127.0.0.1:0", "--noreload")
    assert (result.returncode, result.stderr.strip()) == (1, message)


@pytest.mark.parametrize("options", [(), ("--noreload",)], ids=["reloader", "noreload"])
def test_a_taken_port_is_one_line_and_exit_code_1(tmp_path: Path, options: tuple[str, ...]) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        result = manage(make_project(tmp_path, ["daphne"]), "runserver", f"127.0.0.1:{port}", *options)
    assert result.returncode == 1
    lines = [line for line in result.stderr.splitlines() if "rror" in line or "Traceback" in line]
    assert lines == [f"Error: Couldn't listen on 127.0.0.1:{port}: [Errno 98] Address already in use; another program listens there."]


def test_the_reloader_waits_for_a_right_setting(tmp_path: Path) -> None:
    project = make_project(tmp_path, ["daphne"], 'ASGI_APPLICATION = "site5.asgj.application"')
    process = runserver(project)
    try:
        process.wait_for("CommandError: ASGI_APPLICATION = 'site5.asgj.application': No module named 'site5.asgj'.")
        settings = project / "site5" / "settings.py"
        process.change(settings, settings.read_text().replace("asgj", "asgi"))
        process.wait_for("Quit the server")
        assert get(process.port()).status_code == 200
    finally:
        process.stop()
    legacy.assert_no_traceback(process.output())


def test_greendaphne_without_an_asgi_application_runs_django_s_server(tmp_path: Path) -> None:
    with served(make_project(tmp_path, ["greendaphne", STATIC], "del ASGI_APPLICATION"), "--noreload") as (process, port):
        assert "ASGI_APPLICATION is not set; Django's WSGI development server serves WSGI_APPLICATION." in process.output()
        assert get(port).text.startswith("hello from WSGIRequest")


@pytest.mark.parametrize("name", ["daphne", "greendaphne"])
def test_the_order_of_applications_is_checked(tmp_path: Path, name: str) -> None:
    result = manage(make_project(tmp_path, [STATIC, name]), "check")
    assert result.returncode == 1
    assert "(daphne.E001) Daphne must be listed before django.contrib.staticfiles in INSTALLED_APPS." in result.stderr


def test_the_check_is_quiet_in_the_right_order(tmp_path: Path) -> None:
    result = manage(make_project(tmp_path, ["daphne", STATIC]), "check")
    assert (result.returncode, result.stdout) == (0, "System check identified no issues (0 silenced).\n")


LIVE_TESTS = """
from channels.testing import ChannelsLiveServerTestCase, WebsocketCommunicator
from urllib.request import urlopen

import websocket


class LiveTests(ChannelsLiveServerTestCase):
    def test_pages(self):
        for _ in range(3):
            self.assertTrue(urlopen(self.live_server_url, timeout=60).read().startswith(b"hello from ASGIRequest"))
        self.assertIn(b"green", urlopen(self.live_server_url + "/static/site.css", timeout=60).read())

    def test_websocket(self):
        client = websocket.create_connection(self.live_server_ws_url + "/echo", timeout=60)
        client.send("hello")
        self.assertEqual(client.recv(), "hello")
        client.close()
"""


def test_live_tests_of_channels(tmp_path: Path) -> None:
    further = 'DATABASES["default"]["TEST"] = {"NAME": str(Path(__file__).parent / "test.sqlite3")}'
    project = make_project(tmp_path, ["daphne", STATIC], further)
    (project / "site5" / "tests.py").write_text(LIVE_TESTS)
    result = manage(project, "test", "site5")
    assert result.returncode == 0, result.stderr
    assert "Ran 2 tests" in result.stderr


def test_settings_and_scripts_import_daphne(tmp_path: Path) -> None:
    further = "import daphne.server\nfrom daphne.endpoints import build_endpoint_description_strings"
    result = manage(make_project(tmp_path, ["channels", "daphne"], further), "check")
    assert result.returncode == 0, result.stderr
