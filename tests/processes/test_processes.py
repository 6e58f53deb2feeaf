"""Several processes under a master: starting, replacing, reloading, ending; processes that end after a while."""

from __future__ import annotations

import http.client
import json
import os
import re
import signal
import socket
import sys
import time
from contextlib import ExitStack
from pathlib import Path

import pytest

from greendaphne.layers.memory import MemoryChannelLayer
from greendaphne.layers.sharing import is_local
from greendaphne.processes import child, control, recycling, setup
from greendaphne.processes.pauses import LAST_PAUSE, Pauses
from tests.soak.load import wait_until
from tests.soak.managers import children, running
from tests.support.processes import APPLICATION, SERVES, command, master, write
from tests.support.server import PATIENCE, Client, serve

#: Begins each answer with the number of its process, and never ends it.
HOLDING = """
import os
from greendaphne.layers.memory import MemoryChannelLayer

channel_layer = MemoryChannelLayer()
channel_layer.routes = {
    "http.request": lambda message: message.reply({"status": 200, "content": str(os.getpid()).encode(), "more_content": True})
}
"""


def connect(directory: Path) -> Client:
    sock = socket.socket(socket.AF_UNIX)
    sock.settimeout(PATIENCE)
    sock.connect(str(directory / "s"))
    return Client(sock)


def ask(directory: Path, path: str = "/") -> dict[str, object]:
    """What a server says of itself."""
    with connect(directory) as client:
        client.send(f"GET {path} HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n".encode())
        response = client.read_response()
        assert response.status == 200
        answer: dict[str, object] = json.loads(response.body)
        return answer


def gone(pid: int) -> bool:
    """Whether a process that is no child of this one has ended."""
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return True
    state = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
    return state == "Z"


# ---- Life


def test_workers_share_a_socket_and_nothing_is_left_at_the_end(tmp_path: Path) -> None:
    with master(tmp_path) as process:
        workers = children(process.pid)
        assert len(workers) == 2
        about = ask(tmp_path)
        assert about["pid"] in workers
        environment = about["environment"]
        assert isinstance(environment, dict)
        assert environment[control.WORKER] in ("0", "1")
        # What belongs to the worker alone is not left to the programs that it starts.
        assert not environment.keys() & {control.SOCKETS, control.CONTROL, control.HEARTBEAT}
        run_directory = Path(environment[control.RUN_DIR])
        assert run_directory.stat().st_mode & 0o777 == 0o700
        process.send(signal.SIGTERM)
        assert process.wait() == 0
        assert not run_directory.exists()
        assert not (tmp_path / "s").exists()
        assert all(gone(worker) for worker in workers)
        assert process.count("ended with exit code 0") == 2


def test_the_master_knows_neither_gevent_s_patches_nor_the_application(tmp_path: Path) -> None:
    with master(tmp_path, number=1) as process:
        maps = Path(f"/proc/{process.pid}/maps").read_text()
        assert "httptools" not in maps
        assert "_openssl" not in maps


def test_port_0_is_one_port_for_all(tmp_path: Path) -> None:
    write(tmp_path)
    with running(command("-w", "2", "-p", "0"), directory=tmp_path) as process:
        process.until(lambda: process.count(SERVES) >= 2, "all workers serve")
        ports = {match.group(1) for line in process.lines if (match := re.search(r"Port 0 of endpoint \S+ is (\d+)", line))}
        assert len(ports) == 1
        connection = http.client.HTTPConnection("127.0.0.1", int(ports.pop()), timeout=PATIENCE)
        connection.request("GET", "/")
        assert connection.getresponse().status == 200
        connection.close()


def test_a_drain_answers_what_is_in_flight_and_what_waits(tmp_path: Path) -> None:
    with master(tmp_path) as process, connect(tmp_path) as busy:
        busy.send(b"GET /slow?0.5 HTTP/1.1\r\nHost: a\r\n\r\n")
        busy.read_head()
        assert busy.read_chunk() == b"begun"
        # Stopped processes accept nothing: this connection waits in the backlog when the end begins.
        for worker in children(process.pid):
            os.kill(worker, signal.SIGSTOP)
        with connect(tmp_path) as waiting:
            waiting.send(b"GET / HTTP/1.1\r\nHost: a\r\n\r\n")
            process.send(signal.SIGTERM)
            process.find("Stopping 2 workers")
            for worker in children(process.pid):
                os.kill(worker, signal.SIGCONT)
            assert waiting.read_response().status == 200
        assert busy.read_chunk() == b" and done"
        assert process.wait() == 0


def test_a_second_signal_ends_at_once(tmp_path: Path) -> None:
    with master(tmp_path) as process, connect(tmp_path) as busy:
        busy.send(b"GET /slow?1000 HTTP/1.1\r\nHost: a\r\n\r\n")
        busy.read_head()
        process.send(signal.SIGTERM)
        process.find(r"Stopping; \d connections")
        process.send(signal.SIGINT)
        assert process.wait() == 0
        assert process.count("Stopping at once") >= 1


def test_workers_end_in_good_order_when_the_master_is_killed(tmp_path: Path) -> None:
    with master(tmp_path) as process, connect(tmp_path) as busy:
        workers = children(process.pid)
        environment = ask(tmp_path)["environment"]
        assert isinstance(environment, dict)
        busy.send(b"GET /slow?0.5 HTTP/1.1\r\nHost: a\r\n\r\n")
        busy.read_head()
        process.send(signal.SIGKILL)
        assert busy.read_chunk() == b"begun"
        assert busy.read_chunk() == b" and done"
        assert busy.read_chunk() == b""
        for worker in workers:
            wait_until(lambda: gone(worker), f"the end of worker {worker}")  # noqa: B023 - called within the round
        assert process.count("The master of this worker is gone") == 2
        assert not Path(environment[control.RUN_DIR]).exists()


def test_a_worker_that_is_killed_is_replaced(tmp_path: Path) -> None:
    with master(tmp_path) as process:
        victim = children(process.pid)[0]
        os.kill(victim, signal.SIGKILL)
        process.until(lambda: process.count(SERVES) >= 3, "a third worker")
        assert process.count(rf"\(process {victim}\) was ended by SIGKILL") == 1
        assert len(children(process.pid)) == 2


def test_a_worker_that_ends_by_itself_is_replaced_at_once(tmp_path: Path) -> None:
    with master(tmp_path) as process:
        os.kill(children(process.pid)[0], signal.SIGTERM)
        process.until(lambda: process.count(SERVES) >= 3, "a third worker")
        assert process.count("stops by itself") == 1
        assert process.count("The next worker starts in") == 0


def test_the_number_of_workers_changes(tmp_path: Path) -> None:
    with master(tmp_path, number=1) as process:
        process.send(signal.SIGTTIN)
        process.until(lambda: process.count(SERVES) >= 2, "a second worker")
        process.send(signal.SIGTTOU)
        process.until(lambda: len(children(process.pid)) == 1, "one worker")
        process.send(signal.SIGTTOU)
        process.until(lambda: process.count("The number of workers is now 1") == 2, "still one worker")
        assert ask(tmp_path)["pid"] in children(process.pid)


def test_a_worker_that_cannot_be_told_is_signalled(tmp_path: Path) -> None:
    """An application may close descriptors that it does not know."""
    text = APPLICATION.replace("import gevent\n", f"import gevent\nNUMBER = int(os.environ['{control.CONTROL}'])\n").replace(
        "def request(message):\n", "def request(message):\n    os.close(NUMBER)\n"
    )
    with master(tmp_path, text=text, number=1) as process:
        ask(tmp_path)
        process.send(signal.SIGTERM)
        assert process.wait() == 0
        assert process.count("ended with exit code 0") == 1


# ---- Reloads


def test_a_reload_runs_new_code_and_keeps_the_old_where_the_new_is_broken(tmp_path: Path) -> None:
    with master(tmp_path) as process:
        old = set(children(process.pid))
        write(tmp_path, version=2)
        process.send(signal.SIGHUP)
        process.until(lambda: process.count("All workers are replaced") >= 1, "the reload")
        # Until they hear of it, the old workers accept connections too.
        process.until(lambda: not old & set(children(process.pid)), "the end of the old workers")
        assert ask(tmp_path)["version"] == 2
        now = set(children(process.pid))
        write(tmp_path, "import nothing_of_this_name\n", version=3)
        process.send(signal.SIGHUP)
        process.find("Not reloaded: the previous workers continue to serve")
        assert process.count("did not start: it ended with exit code 1") >= 1
        process.until(lambda: set(children(process.pid)) == now, "the same workers")
        assert ask(tmp_path)["version"] == 2
        write(tmp_path, version=4)
        process.send(signal.SIGHUP)
        process.until(lambda: process.count("All workers are replaced") >= 2, "the next reload")
        process.until(lambda: not now & set(children(process.pid)), "the end of the old workers")
        assert ask(tmp_path)["version"] == 4


#: Of two that start, the first fails, and the other one goes on starting.
FAILS_ONCE = """
import os, time
try:
    os.mkdir("here")
except FileExistsError:
    time.sleep(3600)
raise RuntimeError("no")
"""


def test_a_worker_that_fails_ends_the_other_one_that_starts_with_it(tmp_path: Path) -> None:
    """Otherwise a part of the workers could serve the new version after the master has said that the old one continues."""
    with master(tmp_path) as process:
        old = set(children(process.pid))
        write(tmp_path, FAILS_ONCE, version=2)
        process.send(signal.SIGHUP)
        process.find("Not reloaded: the previous workers continue to serve")
        process.until(lambda: set(children(process.pid)) == old, "the end of the new workers")
        assert ask(tmp_path)["version"] == 1


def test_each_old_worker_ends_only_when_a_new_one_serves(tmp_path: Path) -> None:
    with master(tmp_path) as process:
        process.send(signal.SIGHUP)
        process.until(lambda: process.count("All workers are replaced") >= 1, "the reload")
        events = [line for line in process.lines if re.search(r"Worker \d+ \(process \d+\) (serves|stops)", line)]
        changes = [1 if event.endswith("serves") else -1 for event in events]
        assert changes.count(1) == 4
        assert all(sum(changes[:number]) >= 2 for number in range(2, len(changes) + 1))


def test_a_reload_does_not_wait_for_old_workers_that_drain(tmp_path: Path) -> None:
    with master(tmp_path, text=HOLDING, number=3) as process, ExitStack() as stack:
        old = children(process.pid)
        held: set[bytes] = set()
        while len(held) < 3:
            # Each worker has a request that lasts until its client leaves.
            client = stack.enter_context(connect(tmp_path))
            client.send(b"GET / HTTP/1.1\r\nHost: a\r\n\r\n")
            client.read_head()
            held.add(client.read_chunk())
        process.send(signal.SIGHUP)
        process.until(lambda: process.count("All workers are replaced") >= 1, "the reload")
        assert len(children(process.pid)) == 6
        assert set(old) < set(children(process.pid))


def test_reloads_in_quick_succession_leave_no_more_than_old_and_new_processes(tmp_path: Path) -> None:
    with master(tmp_path, number=1) as process, connect(tmp_path) as client:
        client.send(b"GET /slow?3 HTTP/1.1\r\nHost: a\r\n\r\n")
        assert client.read_until(b"begun")
        process.send(signal.SIGHUP)
        process.until(lambda: process.count("All workers are replaced") >= 1, "the first reload")
        process.send(signal.SIGHUP)
        process.find("The next worker starts when one of those that stop has ended")
        assert len(children(process.pid)) == 2
        assert b"done" in client.read_until(b"done")
        process.until(lambda: process.count("All workers are replaced") >= 2, "the second reload")
        assert process.count(r"Worker \d+ \(process \d+\) starts") == 3


def test_endpoints_change_with_a_restart_only(tmp_path: Path) -> None:
    (tmp_path / "settings").write_text('unix-socket = "s"\n')
    write(tmp_path)
    with running(command("-w", "1", "--config", "settings"), directory=tmp_path) as process:
        process.find(SERVES)
        (tmp_path / "settings").write_text('unix-socket = "other"\n')
        process.send(signal.SIGHUP)
        process.find("The endpoints are not those that the running server opened")
        process.find("Not reloaded")
        assert ask(tmp_path)["version"] == 1


def test_logs_are_opened_anew(tmp_path: Path) -> None:
    with master(tmp_path, "--access-log", "log", number=1) as process:
        ask(tmp_path)
        (tmp_path / "log").rename(tmp_path / "old")
        process.send(signal.SIGUSR1)
        wait_until((tmp_path / "log").exists, "a new log")
        ask(tmp_path)
        assert "GET /" in wait_until((tmp_path / "log").read_text, "a line in the new log")
        assert process.code is None


# ---- Trouble


def test_a_first_worker_that_cannot_start_ends_the_master(tmp_path: Path) -> None:
    with master(tmp_path, text="import nothing_of_this_name\n", wait=False) as process:
        assert process.wait() == 1
        assert process.count("nothing_of_this_name") >= 1
        assert process.count(r"The first worker ended with exit code 1; the reason is above") == 1
        assert process.count("starts$") == 1


def test_an_address_in_use_is_one_line(tmp_path: Path) -> None:
    (tmp_path / "s").write_text("")
    with master(tmp_path, wait=False) as process:
        assert process.wait() == 1
        assert process.lines[-1].endswith("Couldn't listen on s: a file that is not a socket is there.")


def test_no_place_for_what_workers_share_is_one_line(tmp_path: Path) -> None:
    write(tmp_path)
    with running(
        command("-w", "2", "-u", "s"), directory=tmp_path, environment={"RUNTIME_DIRECTORY": str(tmp_path / "nowhere")}
    ) as process:
        assert process.wait() == 1
        assert process.lines[-1].partition("ERROR")[2].strip().startswith("Cannot make the directory that the workers share: [Errno 2]")


def test_workers_that_die_again_and_again_are_started_with_pauses(tmp_path: Path) -> None:
    dying = APPLICATION + "\ngevent.spawn_later(0.01, os._exit, 7)\n"
    with master(tmp_path, text=dying, number=1, wait=False) as process:
        process.find("The next worker starts in 2 seconds")
        assert process.count("exit code 7") == 2
        assert process.count("The next worker starts in 1 seconds") == 1
        process.send(signal.SIGTERM)
        assert process.wait() == 0


def test_pauses_grow_up_to_a_bound() -> None:
    pauses = Pauses()
    found = []
    for _ in range(8):
        pauses.until = 0
        pauses.add()
        found.append(round(pauses.until - time.monotonic()))
    assert found == [1, 2, 4, 8, 16, 30, 30, LAST_PAUSE]
    pauses.end()
    assert pauses.until == 0
    pauses.add()
    assert round(pauses.until - time.monotonic()) == 1


@pytest.mark.parametrize("layer", ["memory", "other"])
def test_a_layer_in_memory_is_warned_of(tmp_path: Path, layer: str) -> None:
    text = APPLICATION
    if layer == "other":
        text = text.replace("channel_layer = MemoryChannelLayer()", "class Other:\n  pass\nmemory = MemoryChannelLayer()\n") + (
            "class Other:\n    routes = memory.routes\n    extensions = []\n    def __getattr__(self, name):\n"
            "        return getattr(memory, name)\nchannel_layer = Other()\n"
        ).replace("memory.routes", "{'http.request': request}")
        text = text.replace('channel_layer.routes = {"http.request": request}', "")
    with master(tmp_path, text=text) as process:
        assert process.count("The channel layer is in each process' own memory") == (layer == "memory")


# ---- Processes that end after a while


def test_a_process_ends_after_its_requests(tmp_path: Path) -> None:
    write(tmp_path)
    with running(command("-u", "s", "--max-requests", "3"), directory=tmp_path) as process:
        process.find("Listening on channels")
        for _ in range(3):
            ask(tmp_path)
        assert process.wait() == 0
        assert process.count("The server ends, to be started again: 3 requests") == 1


def test_a_process_ends_when_it_has_grown(tmp_path: Path) -> None:
    write(tmp_path)
    with running(command("-u", "s", "--max-rss", "1M"), directory=tmp_path) as process:
        assert process.wait() == 0
        assert process.count(r"The server ends, to be started again: \d+ MiB of memory") == 1


def test_a_worker_is_replaced_after_its_requests(tmp_path: Path) -> None:
    with master(tmp_path, "--max-requests", "2", "--max-requests-jitter", "1", number=1) as process:
        first = ask(tmp_path)["pid"]
        wait_until(lambda: ask(tmp_path)["pid"] != first, "an answer of another worker")
        # The successor may answer before the master has read that it serves.
        wait_until(lambda: process.log.count(" serves") >= 2 and " stops" in process.log, "the end of the first worker")
        assert process.count(r"is to be replaced: [23] requests") >= 1
        lines = process.log
        # The first one stops when the next one serves.
        assert lines.index("is to be replaced") < [match.start() for match in re.finditer(" serves", lines)][1] < lines.index(" stops")


def test_requests_are_counted_once(tmp_path: Path) -> None:
    reasons: list[str] = []
    recycler = recycling.Recycler(4, 0, 0, reasons.append)
    with serve(observers=[recycler], lifecycle=[recycler]) as server:
        wait_until(lambda: recycler._server is not None, "the start")
        with server.connect() as client:
            for _ in range(2):
                client.send(b"GET / HTTP/1.1\r\nHost: a\r\n\r\n")
                server.app.answer()
                client.read_response()
            client.send(b"broken\r\n\r\n")
            assert client.read_response().status == 400
        assert reasons == []
        with server.connect() as client:
            client.send(
                b"GET / HTTP/1.1\r\nHost: a\r\nUpgrade: websocket\r\nConnection: Upgrade\r\nSec-WebSocket-Version: 13\r\n"
                b"Sec-WebSocket-Key: AAAAAAAAAAAAAAAAAAAAAA==\r\n\r\n"
            )
            _, message = server.app.receive("websocket.connect")
            server.app.reply(message, accept=False)
            assert client.read_response().status == 403
        wait_until(lambda: reasons, "the end of the count")
    assert reasons == ["4 requests"]


def test_the_jitter_is_above_the_number() -> None:
    numbers = {recycling.Recycler(10, 5, 0, None)._max_requests for _ in range(500)}
    assert numbers == set(range(10, 16))
    assert recycling.Recycler(0, 5, 0, None)._max_requests == 0


def test_the_process_knows_its_size() -> None:
    assert 1_000_000 < recycling.resident_size() < 10_000_000_000


# ---- Pieces


def test_lines_come_whole() -> None:
    lines = control.Lines()
    assert lines.feed(b"one\ntw") == [b"one"]
    assert lines.feed(b"o\n\nthree") == [b"two", b""]
    assert lines.feed(b"x" * 5000) == []
    assert len(lines.feed(b"\n")[0]) <= control.MAX_LINE


def test_what_a_worker_inherits() -> None:
    environment = {
        control.SOCKETS: control.encode_sockets([("tcp:0", 5), ("tcp:0", 6)]),
        control.CONTROL: "7",
        control.WORKER: "3",
        control.RUN_DIR: "/run/x",
    }
    assert control.opened(environment) == ["tcp:0", "tcp:0"]
    assert control.inheritance(environment) == control.Inheritance([("tcp:0", 5), ("tcp:0", 6)], 7, 3, 0.0)
    assert environment == {control.WORKER: "3", control.RUN_DIR: "/run/x"}
    assert control.inheritance(environment) is None


def test_the_command_is_the_same_line_anew() -> None:
    assert setup.command(["-w", "2", "a:b"]) == [sys.executable, "-m", "greendaphne", "-w", "2", "a:b"]


def test_the_directory_is_the_one_by_which_it_was_entered(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "release1").mkdir()
    (tmp_path / "release2").mkdir()
    (tmp_path / "current").symlink_to("release1")
    monkeypatch.chdir(tmp_path / "current")
    monkeypatch.setenv("PWD", str(tmp_path / "current"))
    assert child.working_directory() == str(tmp_path / "current")
    monkeypatch.setenv("PWD", str(tmp_path / "release2"))
    assert child.working_directory() == str(tmp_path / "release1")
    monkeypatch.setenv("PWD", "nowhere")
    assert child.working_directory() == str(tmp_path / "release1")


@pytest.mark.parametrize(
    ("code", "text"),
    [(0, "ended with exit code 0"), (3, "ended with exit code 3"), (-9, "was ended by SIGKILL"), (-60, "was ended by signal 60")],
)
def test_how_a_process_ended(code: int, text: str) -> None:
    assert child.describe(code) == text


def test_a_layer_behind_channels_wrapper_counts_as_what_it_is() -> None:
    class Wrapper:
        channel_layer = MemoryChannelLayer()

    assert is_local(Wrapper())
    assert is_local(MemoryChannelLayer())
    assert not is_local(object())
