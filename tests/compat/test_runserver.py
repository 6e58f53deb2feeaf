"""``manage.py runserver`` and ``runworker`` of Channels 1: exit codes, options of the project, TLS."""

from __future__ import annotations

import os
import shutil
import signal
import socket
import ssl
import subprocess
import sys
import time
from collections.abc import Mapping
from pathlib import Path

import pytest
import requests

from tests.support import legacy

pytestmark = pytest.mark.skipif(sys.version_info >= (3, 12), reason="Django 2.2 and Channels 1 end with Python 3.11")


def manage(
    directory: Path, *argv: str, site: Path = legacy.EXAMPLE, extra: Mapping[str, str] | None = None
) -> subprocess.CompletedProcess[str]:
    """Run a command that is expected to end by itself."""
    environment = {**legacy.environment(directory, "memory"), **(extra or {})}
    (directory / "chat.sqlite3").write_bytes(legacy._prepared())
    return subprocess.run(
        [*legacy.MANAGE, *argv], cwd=site, env=environment, capture_output=True, text=True, timeout=legacy.PATIENCE, check=False
    )


def errors(result: subprocess.CompletedProcess[str]) -> list[str]:
    return [line for line in result.stderr.splitlines() if line.startswith(("Error:", "CommandError:", "Traceback"))]


@pytest.mark.parametrize("options", [(), ("--noreload",)], ids=["reloader", "noreload"])
def test_a_taken_port_is_one_line_and_exit_code_1(tmp_path: Path, options: tuple[str, ...]) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        result = manage(tmp_path, "runserver", f"127.0.0.1:{port}", *options)
    assert result.returncode == 1
    message = f"Error: Couldn't listen on 127.0.0.1:{port}: [Errno 98] Address already in use; another program listens there."
    assert errors(result) == [message]


@pytest.mark.parametrize("options", [(), ("--noreload",)], ids=["reloader", "noreload"])
@pytest.mark.parametrize(
    ("address", "extra", "message"),
    [
        (
            "127.0.0.1:99999",
            {},
            "Error: Endpoint 'tcp:port=99999:interface=127.0.0.1': port must be a number from 0 to 65535, not '99999'.",
        ),
        (
            "0",
            {"GREENDAPHNE_HTP_TIMEOUT": "4"},
            "Error: environment variable GREENDAPHNE_HTP_TIMEOUT is unknown; did you mean GREENDAPHNE_HTTP_TIMEOUT?",
        ),
    ],
)
def test_wrong_addresses_and_options(tmp_path: Path, options: tuple[str, ...], address: str, extra: dict[str, str], message: str) -> None:
    result = manage(tmp_path, "runserver", address, *options, extra=extra)
    assert (result.returncode, errors(result)) == (1, [message])


def test_runworker_refuses_a_layer_that_other_processes_do_not_see(tmp_path: Path) -> None:
    result = manage(tmp_path, "runworker")
    assert result.returncode == 1
    assert len(errors(result)) == 1
    assert errors(result)[0].startswith("CommandError: You cannot span multiple processes with the in-memory layer.")


def test_tls_and_limits_of_the_development_server(tmp_path: Path) -> None:
    (tmp_path / "chat.sqlite3").write_bytes(legacy._prepared())
    environment = {
        **legacy.environment(tmp_path, "memory"),
        "GREENDAPHNE_TLS_DEV": "1",
        "GREENDAPHNE_LIMIT_REQUEST_BODY": "10",
        "HOME": str(tmp_path),
        "XDG_CACHE_HOME": str(tmp_path),
    }
    server = legacy.Process([*legacy.MANAGE, "runserver", "127.0.0.1:0", "--noreload"], tmp_path / "log", environment)
    try:
        port = server.port()
        context = ssl.create_default_context()
        context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
        with socket.create_connection(("127.0.0.1", port), timeout=legacy.PATIENCE) as raw, context.wrap_socket(raw) as client:
            client.sendall(b"POST / HTTP/1.1\r\nHost: localhost\r\nContent-Length: 11\r\n\r\nhello world")
            assert client.recv(100).startswith(b"HTTP/1.1 413 ")
        server.wait_for(f"Serving at https://127.0.0.1:{port}/")
    finally:
        assert server.stop() == 0


def site_with(directory: Path, *apps: str, further: str = "") -> Path:
    """A copy of the example with ``apps`` in the place of its first one, ``"greendaphne"``."""
    site = directory / "site"
    shutil.copytree(legacy.EXAMPLE, site)
    settings = site / "chat" / "settings.py"
    text = settings.read_text()
    assert text.count('    "greendaphne",\n') == 1
    settings.write_text(f"{further}\n" + text.replace('    "greendaphne",\n', "".join(f'    "{app}",\n' for app in apps)))
    return site


@pytest.mark.parametrize("options", [(), ("--noreload",)], ids=["reloader", "noreload"])
@pytest.mark.parametrize(
    ("apps", "further"),
    [((), ""), (("daphne",), ""), ((), "import daphne.server"), (("daphne", "greendaphne"), "")],
    ids=["missing", "daphne", "import", "both"],
)
def test_runserver_without_greendaphne_in_the_settings(
    tmp_path: Path, apps: tuple[str, ...], further: str, options: tuple[str, ...]
) -> None:
    site = site_with(tmp_path, *apps, further=further)
    with legacy.serve(tmp_path / "data", "memory", (*legacy.MANAGE, "runserver", "127.0.0.1:0", *options), code=site) as served:
        assert "Lobby" in requests.get(served.url, timeout=legacy.PATIENCE).text
        assert "Starting Channels development server" in served.server.output()
        socket = served.socket("lobby", served.login("alice"))
        socket.close()


def test_runworker_without_greendaphne_in_the_settings_refuses_a_local_layer(tmp_path: Path) -> None:
    result = manage(tmp_path, "runworker", site=site_with(tmp_path))
    assert result.returncode == 1
    assert errors(result)[0].startswith("CommandError: You cannot span multiple processes with the in-memory layer.")


SETTINGS = """
import os
import django
from django.conf import settings

settings.configure(GREENDAPHNE={"http-timeout": 7, "websocket_max_message_size": "2K", "ws-protocol": ("a", "b")})
from greendaphne.config import Config, ConfigurationError
from greendaphne.layers.memory import MemoryChannelLayer
from greendaphne.server import Server

layer = MemoryChannelLayer()
config = Server(layer, endpoints=["tcp:0"]).config
assert (config.timeouts.http, config.limits.websocket_message, config.websockets.protocols) == (7, 2048, ("a", "b")), config
os.environ["GREENDAPHNE_HTTP_TIMEOUT"] = "8"
assert Server(layer, endpoints=["tcp:0"]).config.timeouts.http == 8
assert Server(layer, endpoints=["tcp:0"], http_timeout=9).config.timeouts.http == 9
assert Server(layer, endpoints=["tcp:0"], config=Config()).config.timeouts.http == 120
settings.GREENDAPHNE["http-timout"] = 1
try:
    Server(layer, endpoints=["tcp:0"])
except ConfigurationError as error:
    assert str(error) == "settings.GREENDAPHNE: http-timout is unknown; did you mean http-timeout?", error
else:
    raise AssertionError
"""


def test_options_in_django_s_settings() -> None:
    environment = {**os.environ, "PYTHONPATH": str(legacy.ROOT)}
    subprocess.run([sys.executable, "-c", SETTINGS], env=environment, timeout=legacy.PATIENCE, check=True)


def test_the_end_of_its_terminal_ends_the_development_server(tmp_path: Path) -> None:
    import pty

    (tmp_path / "chat.sqlite3").write_bytes(legacy._prepared())
    number, terminal = pty.fork()
    if number == 0:
        os.chdir(legacy.EXAMPLE)
        os.execve(sys.executable, [*legacy.MANAGE, "runserver", "127.0.0.1:0", "--noreload"], legacy.environment(tmp_path, "memory"))
    ended = 0
    try:
        output = b""
        while b"Serving at" not in output:
            output += os.read(terminal, 4096)
        # It handles signals once it answers.
        port = legacy.listening_port(number)
        with socket.create_connection(("127.0.0.1", port or 0), timeout=legacy.PATIENCE) as client:
            client.sendall(b"GET /nothing HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n")
            while client.recv(4096):
                pass
        os.close(terminal)
        deadline = time.monotonic() + legacy.PATIENCE
        while not ended and time.monotonic() < deadline:
            ended, _ = os.waitpid(number, os.WNOHANG)
            time.sleep(0.02)
        assert ended
    finally:
        if not ended:
            os.kill(number, signal.SIGKILL)
            os.waitpid(number, 0)
