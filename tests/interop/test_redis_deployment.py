"""The Django example as it is deployed: two servers and three workers, on this layer and on asgi_redis 1.4.3, mixed, and on asgi_ipc.

Servers and workers are processes of their own.  Legacy workers run ``manage.py runworker`` on the real asgi_redis; a legacy server runs the
command with asgi_redis as its channel layer.
"""

from __future__ import annotations

import configparser
import hashlib
import json
import os
import re
import signal
import subprocess
import sys
import threading
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import pytest
import requests
import websocket

from greendaphne.settings.arguments import Command, read
from tests.support import asgi_redis, legacy
from tests.support.django_example import receive
from tests.support.ports import free_port
from tests.support.redis_server import RedisServer, redis_server

pytestmark = pytest.mark.skipif(sys.version_info >= (3, 12), reason="Django 2.2 and Channels 1 end with Python 3.11")

PATIENCE = legacy.PATIENCE
SCRIPT = legacy.ROOT / "examples" / "redis" / "run.py"
SERVERS, WORKERS = 2, 3
UPLOAD = 3 * 1024 * 1024
LAYER = "chat.asgi:channel_layer"
#: Clients that come at the same time, far more than connections that a server may have.
CROWD = 60
#: What a server on asgi_redis may open: those that send, and one that waits for replies.
LEGACY_CONNECTIONS = 16 + 1

# On top of the example's own settings.
LEGACY_SETTINGS = """
import os
from chat.settings import *

_LAYER = {"BACKEND": "asgi_redis.RedisChannelLayer", "CONFIG": {"hosts": [os.environ["CHAT_REDIS"]]}}
if "CHAT_IPC" in os.environ:
    _CONFIG = {"prefix": os.environ["CHAT_IPC"], "capacity": 100, "message_memory": 32 * 1024 * 1024, "group_memory": 1024 * 1024}
    _LAYER = {"BACKEND": "asgi_ipc.IPCChannelLayer", "CONFIG": _CONFIG}
CHANNEL_LAYERS = {"default": {**_LAYER, "ROUTING": "chat.routing.channel_routing"}}
"""


class Deployment:
    """The running processes, and the servers as visitors see them."""

    def __init__(self, directory: Path, redis_process: RedisServer, legacy_servers: bool, legacy_workers: bool, ipc: str = "") -> None:
        self.redis = redis_process
        directory.mkdir(parents=True, exist_ok=True)
        (directory / "legacy_settings.py").write_text(LEGACY_SETTINGS)
        (directory / "chat.sqlite3").write_bytes(legacy._prepared())
        env = {**legacy.environment(directory, "redis"), "CHAT_REDIS": redis_process.url}
        if ipc:
            env["CHAT_IPC"] = ipc
        old = {**env, "DJANGO_SETTINGS_MODULE": "legacy_settings", "PYTHONPATH": os.pathsep.join([str(directory), env["PYTHONPATH"]])}
        serve = asgi_redis.command("-m", "greendaphne") if legacy_servers else legacy.GREENDAPHNE
        work = asgi_redis.command("manage.py") if legacy_workers else legacy.MANAGE
        self.servers = [
            legacy.Process([*serve, "-p", "0", "-t", "5", LAYER], directory / f"server{number}.log", old if legacy_servers else env)
            for number in range(SERVERS)
        ]
        self.workers = [
            legacy.Process([*work, "runworker"], directory / f"worker{number}.log", old if legacy_workers else env)
            for number in range(WORKERS)
        ]
        self.sites: list[legacy.Site] = []
        try:
            self.sites = [legacy.Site(process, process.port(), directory) for process in self.servers]
            for worker in self.workers:
                worker.wait_for("Listening on channels")
        except BaseException:
            self.stop()
            raise

    def stop(self) -> None:
        for process in (*self.servers, *self.workers):
            process.stop()

    def unnamed_connections(self) -> int:
        """Those of asgi_redis, and the test's own."""
        return sum(not client["name"] for client in self.redis.client.client_list())


VARIANTS = {"own": (False, False), "legacy-workers": (False, True), "legacy-servers": (True, False)}


#: One machine only, without Redis.
IPC = "asgi-ipc"


@pytest.fixture(scope="module", params=[*VARIANTS, IPC])
def deployment(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Deployment]:
    with redis_server() as redis_process:
        ipc = f"test-{os.getpid()}" if request.param == IPC else ""
        legacy_servers, legacy_workers = VARIANTS.get(request.param, (True, True))
        running = Deployment(tmp_path_factory.mktemp(request.param), redis_process, legacy_servers, legacy_workers, ipc)
        try:
            yield running
        finally:
            running.stop()
            if ipc:
                for left in Path("/dev/shm").glob(f"*{ipc}*"):
                    left.unlink()
        for process in (*running.servers, *running.workers):
            # A test restarts Redis, and a worker may send just then.
            legacy.assert_no_traceback(process.output(), "greendaphne.layers.LayerUnavailable: ")


def test_pages_and_uploads_of_a_logged_in_user(deployment: Deployment) -> None:
    """The session that began at one server goes on at the other."""
    first, second = deployment.sites
    session = first.login("alice")
    for site in (first, second):
        page = session.get(f"{site.url}/rooms/lobby/", timeout=PATIENCE)
        assert page.status_code == 200
        assert "alice" in page.text
    data = os.urandom(UPLOAD)
    address = f"{second.url}/uploads/"
    token = legacy.csrf_token(session.get(address, timeout=PATIENCE).text)
    answer = session.post(
        address,
        {"csrfmiddlewaretoken": token},
        files={"file": ("data.bin", data)},
        headers={"Accept": "application/json"},
        timeout=PATIENCE,
    )
    assert answer.status_code == 201, answer.text
    stored = answer.json()
    assert stored["sha256"] == hashlib.sha256(data).hexdigest()
    assert session.get(f"{first.url}/uploads/{stored['id']}/", timeout=PATIENCE).content == data


def test_chat_between_servers(deployment: Deployment) -> None:
    """Everybody hears everything once.  Several workers serve one client, so what it says in quick succession may change places."""
    first, second = deployment.sites
    with closing(first.socket("lobby", first.login("alice"))) as ours:
        receive(ours, "joined")
        with closing(second.socket("lobby", second.login("bob"))) as theirs:
            assert receive(ours, "joined")["user"] == "bob"
            texts = [f"message {number}" for number in range(20)]
            for sender, user in ((ours, "alice"), (theirs, "bob")):
                for text in texts:
                    sender.send(json.dumps({"text": text}))
                for socket in (ours, theirs):
                    heard = [receive(socket, "message")["message"] for _ in texts]
                    assert Counter((message["user"], message["text"]) for message in heard) == Counter((user, text) for text in texts)
        assert receive(ours, "left")["user"] == "bob"


def test_a_crowd_is_served_over_few_connections(deployment: Deployment) -> None:
    statuses: Counter[int] = Counter()
    barrier = threading.Barrier(CROWD)

    def visit(number: int) -> None:
        site = deployment.sites[number % SERVERS]
        barrier.wait(PATIENCE)
        statuses[requests.get(f"{site.url}/", timeout=2 * PATIENCE).status_code] += 1

    threads = [threading.Thread(target=visit, args=(number,)) for number in range(CROWD)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(2 * PATIENCE)
    assert set(statuses) <= {200, 503}
    assert statuses[200] + statuses[503] == CROWD
    assert statuses[200] > CROWD // 2
    own = deployment.redis.connections()
    unnamed = deployment.unnamed_connections()
    # Each of ours has one that sends and one that receives.
    assert own <= 2 * (SERVERS + WORKERS)
    assert unnamed <= SERVERS * LEGACY_CONNECTIONS + 1


# A worker on asgi_redis ends when Redis does, for its supervisor to start it again.
@pytest.mark.parametrize("deployment", ["own", "legacy-servers"], indirect=True)
def test_redis_is_restarted(deployment: Deployment) -> None:
    """Servers and workers live on, whichever layer the servers have."""
    site = deployment.sites[0]
    session = site.login("alice")
    socket = site.socket("garden", session)
    receive(socket, "joined")
    deployment.redis.kill()
    end = time.monotonic() + PATIENCE
    while (answer := requests.get(site.url, timeout=PATIENCE)).status_code != 503:
        assert time.monotonic() < end
    assert answer.headers["Retry-After"] == "1"
    assert "127.0.0.1" not in answer.text.replace(site.url, "")
    deployment.redis.restart()
    while requests.get(site.url, timeout=PATIENCE).status_code != 200:
        assert time.monotonic() < end
    while True:
        opcode, data = socket.recv_data(control_frame=True)
        if opcode == websocket.ABNF.OPCODE_CLOSE:
            assert int.from_bytes(data[:2], "big") == 1012
            break
    socket.shutdown()  # type: ignore[no-untyped-call]
    again = site.socket("garden", session)
    receive(again, "history")
    again.send(json.dumps({"text": "back"}))
    assert receive(again, "message")["message"]["text"] == "back"
    again.close()


def test_the_script_of_the_example(tmp_path: Path) -> None:
    """It starts everything, starts Redis again when that crashes, and leaves nothing behind."""
    ports = [free_port(), free_port()]
    command = [sys.executable, str(SCRIPT), "--directory", str(tmp_path / "data"), "--ports", *map(str, ports)]
    script = legacy.Process(command, tmp_path / "log", {**os.environ, "PYTHONUNBUFFERED": "1", "PYTHONPATH": str(legacy.ROOT)}, tmp_path)
    try:
        script.wait_for("redis-server is process ")
        members = set(legacy.family(script.pid))
        for port in ports:
            assert "Lobby" in requests.get(f"http://127.0.0.1:{port}/", timeout=PATIENCE).text
        (pid,) = re.findall(r"redis-server is process (\d+)", script.output())
        os.kill(int(pid), signal.SIGKILL)
        script.wait_for("redis-server is process ", times=2)
        members |= set(legacy.family(script.pid))
        end = time.monotonic() + PATIENCE
        while requests.get(f"http://127.0.0.1:{ports[0]}/", timeout=PATIENCE).status_code != 200:
            assert time.monotonic() < end
        assert len(members) == 1 + 2 + SERVERS + WORKERS
    finally:
        code = script.stop()
    assert code == 0, script.output()
    assert not any(Path(f"/proc/{member}").exists() for member in members)
    # Redis may hand a reply to the server and be killed before it answers the worker that sent it.
    legacy.assert_no_traceback(script.output(), "greendaphne.layers.LayerUnavailable: ")


def test_the_script_says_what_is_missing(tmp_path: Path) -> None:
    done = subprocess.run(
        [sys.executable, str(SCRIPT)], cwd=tmp_path, env={**os.environ, "PATH": str(tmp_path)}, capture_output=True, text=True, check=False
    )
    assert (done.returncode, done.stderr) == (1, "redis-server is missing: apt-get install redis-server\n")


def test_the_units_of_the_example() -> None:
    """What the units and Circus' file run are commands that exist, and their options are understood."""
    lines = [line for path in sorted((SCRIPT.parent / "systemd").glob("*.service")) for line in path.read_text().splitlines()]
    commands = [line.partition("=")[2] for line in lines if line.startswith("ExecStart=")]
    circus = configparser.ConfigParser(interpolation=None)
    circus.read(SCRIPT.parent / "circus.ini")
    commands += [circus[section]["cmd"] for section in circus.sections() if section.startswith("watcher:")]
    assert len(commands) == 4
    for command in commands:
        program, *arguments = command.replace("%i", "8001").replace("$(circus.sockets.web)", "5").split()
        if program.endswith("greendaphne"):
            assert isinstance(read(arguments, {}), Command)
        else:
            assert arguments == ["manage.py", "runworker"]
    assert circus["watcher:worker"].getint("numprocesses") == WORKERS
    assert circus["watcher:server"].getint("numprocesses") == SERVERS
