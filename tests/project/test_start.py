"""What a server has imported when it serves its first request: a list of packages, since no test can bound the time."""

from __future__ import annotations

import re
import signal
import subprocess
import sys
import threading
from pathlib import Path
from urllib.request import urlopen

import pytest

ROOT = Path(__file__).resolve().parents[2]
PATIENCE = 60.0

#: Answers with the names of all imported modules.
LAYER = """
import sys
from greendaphne.layers.memory import MemoryChannelLayer

layer = MemoryChannelLayer()
layer.routes = {"http.request": lambda message: message.reply({"status": 200, "content": " ".join(sys.modules).encode()})}
"""

#: The same without the command, in a process that is not patched.
LIBRARY = """
from application import layer
from greendaphne.server import Server

server = Server(channel_layer=layer, endpoints=["tcp:0:interface=127.0.0.1"], inline_workers=1)
server.start()
print("PORT", server.port, flush=True)
server.serve_forever(signal_handlers=True)
"""

#: Third-party packages.
PACKAGES = {"gevent", "greenlet", "zope", "httptools", "asgiref", "six", "docopt"}
#: Of this package, what any server of a channel layer needs.
OURS = {
    "aio",
    "applications",
    "cli",
    "compat",
    "config",
    "core",
    "http1",
    "http2",
    "layers",
    "logs",
    "monitoring",
    "net",
    "processes",
    "running",
    "server",
    "serving",
    "settings",
    "websocket",
    "worker",
}
#: What only some servers need.
LATE = {
    "OpenSSL",
    "cryptography",
    "h2",
    "hpack",
    "hyperframe",
    "websockets",
    "geventwebsocket",
    "gevent.pywsgi",
    "prometheus_client",
    "redis",
    "msgpack",
    "channels",
    "django",
    "twisted",
    "tomllib",
    "tomli",
    "logging.config",
    "unittest",
    "http.server",
    "greendaphne.acme",
    "greendaphne.applications.asgi",
    "greendaphne.applications.wsgi",
    "greendaphne.demo",
    "greendaphne.http2.engine",
    "greendaphne.layers.redis",
    "greendaphne.monitoring.exposition",
    "greendaphne.monitoring.metrics",
    "greendaphne.net.tls",
    "greendaphne.processes.master",
    "greendaphne.websocket.connection",
}
if sys.version_info < (3, 14):
    # From 3.14 on, gevent imports it when it patches.
    LATE.add("multiprocessing")


def modules(line: list[str], directory: Path) -> set[str]:
    """The modules of a server that ``line`` starts, when it serves its first request."""
    (directory / "application.py").write_text(LAYER)
    process = subprocess.Popen(
        [sys.executable, "-I", "-c", f"import sys; sys.path[:0] = [{str(directory)!r}, {str(ROOT)!r}]\n" + line[0], *line[1:]],
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        cwd=directory,
    )
    # A server that says nothing ends all the same.
    timer = threading.Timer(PATIENCE, process.kill)
    timer.start()
    try:
        assert process.stdout is not None
        said = []
        for text in process.stdout:
            said.append(text)
            if port := re.search(r"^PORT ([0-9]+)$|^.* Port 0 of endpoint .* is ([0-9]+)$", text):
                with urlopen(f"http://127.0.0.1:{port[1] or port[2]}/", timeout=PATIENCE) as response:
                    return set(response.read().decode().split())
        raise AssertionError("".join(said))
    finally:
        timer.cancel()
        process.send_signal(signal.SIGTERM)
        process.communicate(timeout=PATIENCE)


def check(names: set[str], ours: set[str]) -> None:
    def top(name: str) -> str:
        return name.partition(".")[0]

    late = {name for name in names if any(name == each or name.startswith(f"{each}.") for each in LATE)}
    assert late == set()
    known = sys.stdlib_module_names
    foreign = {top(name) for name in names} - set(known) - {"greendaphne", "application", "__main__", "__mp_main__"}
    # What is installed in the editable way has a finder of its own, and extension modules have what Cython made.
    assert {name for name in foreign if not name.startswith(("__editable__", "_distutils_hack", "_cython", "cython_runtime"))} <= PACKAGES
    assert {name.split(".")[1] for name in names if name.startswith("greendaphne.")} <= ours


@pytest.mark.parametrize("arguments", [[], ["-v", "2"], ["--access-log", "-"]])
def test_the_command(arguments: list[str], tmp_path: Path) -> None:
    code = "from greendaphne.cli import main; sys.exit(main())"
    line = [code, *arguments, "--inline-workers", "1", "-e", "tcp:0:interface=127.0.0.1", "application:layer"]
    check(modules(line, tmp_path), OURS)


def test_the_library(tmp_path: Path) -> None:
    names = modules([LIBRARY], tmp_path)
    check(names, OURS - {"cli", "aio", "monitoring"})
    assert "asyncio" not in names
