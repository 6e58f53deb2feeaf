"""The first seconds: what the command says on a terminal and in a log, and what it says of a configuration that cannot work."""

from __future__ import annotations

import os
import pty
import re
import socket
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from greendaphne import __version__
from tests.support.certificates import issue
from tests.support.commands import LAYER, Command, connect, get, run, write

UNANSWERED = "No worker can answer requests: the channel layer is in this process' own memory"


@contextmanager
def on_a_terminal(directory: Path, *argv: str, **extra: str) -> Iterator[str]:
    """What a command writes on a terminal until it has told how to stop it."""
    ours, theirs = pty.openpty()
    try:
        with Command(directory, *argv, extra=extra, terminal=theirs):
            output = ""
            while "Ctrl-C to stop" not in output:
                output += os.read(ours, 4096).decode()
            yield output.replace("\r\n", "\n")
    finally:
        os.close(ours)
        os.close(theirs)


def test_a_banner_on_a_terminal(tmp_path: Path) -> None:
    write(tmp_path)
    with on_a_terminal(tmp_path, "-p", "0", "--inline-workers", "2", LAYER, TERM="xterm") as output:
        log, _, shown = output.partition("\n\x1b[1m")
        assert "Listening on channels" in log
        match = re.match(
            rf"greendaphne {re.escape(__version__)}\x1b\[0m\n\n  \x1b\[36mhttp://127\.0\.0\.1:(\d+)/\x1b\[0m\n"
            rf"  channel layer {re.escape(LAYER)}, 2 inline workers\n  Ctrl-C to stop",
            shown,
        )
        assert match is not None, output
        assert b"hello" in get(int(match[1]))


@pytest.mark.parametrize("extra", [{"TERM": "dumb"}, {"TERM": "xterm", "NO_COLOR": "1"}])
def test_no_colours_where_there_are_none_or_none_are_wanted(tmp_path: Path, extra: dict[str, str]) -> None:
    write(tmp_path)
    with on_a_terminal(tmp_path, "-e", "tcp:0:interface=0.0.0.0", "--inline-workers", "1", LAYER, **extra) as output:
        assert "\x1b" not in output
        assert re.search(r"  http://127\.0\.0\.1:\d+/ and every other address of this machine\n", output)
        assert "1 inline worker\n" in output


def test_the_banner_of_several_processes(tmp_path: Path) -> None:
    write(tmp_path)
    argv = ("-w", "2", "-p", "0", "--inline-workers", "1", "--tls-dev", LAYER)
    with on_a_terminal(tmp_path, *argv, TERM="dumb", HOME=str(tmp_path), XDG_CACHE_HOME=str(tmp_path)) as output:
        assert re.search(r"\n  https://127\.0\.0\.1:\d+/\n", output), output
        assert f"  channel layer {LAYER}, 2 processes, 1 inline worker each\n" in output


def test_no_banner_in_a_log(tmp_path: Path) -> None:
    write(tmp_path)
    with Command(tmp_path, "-p", "0", "--inline-workers", "3", LAYER) as command:
        command.port()
        command.process.terminate()
        assert command.wait() == 0
    assert "Ctrl-C" not in command.output
    assert command.output.count("Listening on channels http.disconnect, http.request\n") == 1


def test_nothing_is_said_to_listen_before_it_does(tmp_path: Path) -> None:
    write(tmp_path)
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        result = run(tmp_path, "-p", str(port), "--inline-workers", "1", LAYER)
        assert result.returncode == 1
        assert "Listening" not in result.stderr
        assert "Serving" not in result.stderr
        result = run(tmp_path, "-p", str(port), "-w", "1", "--inline-workers", "1", LAYER)
        assert result.returncode == 1
        assert "Listening" not in result.stderr


def test_urls_in_the_log(tmp_path: Path) -> None:
    write(tmp_path)
    argv = ("-e", "tcp6:0:interface=\\:\\:1", "-p", "0", "-u", "s", "--inline-workers", "1", LAYER)
    with Command(tmp_path, *argv) as command:
        command.wait_for("Listening on channels")
    lines = [line.partition("INFO     ")[2] for line in command.output.splitlines()]
    served = [line for line in lines if line.startswith("Serving at")]
    assert "Listening on endpoint tcp:port=0:interface=127.0.0.1" in lines
    # In the order of the endpoints, which is that of their strings.
    assert [re.sub(r"\d{4,}", "N", line) for line in served] == [
        "Serving at http://[::1]:N/",
        "Serving at http://127.0.0.1:N/",
        "Serving at unix:s",
    ]


# ---- Configurations in which nothing can answer


@pytest.mark.parametrize("workers", [(), ("-w", "1")], ids=["single", "master"])
def test_a_layer_that_no_worker_can_reach_is_warned_of_at_once(tmp_path: Path, workers: tuple[str, ...]) -> None:
    write(tmp_path)
    with Command(tmp_path, *workers, "-p", "0", LAYER) as command:
        command.wait_for(UNANSWERED)
    assert f"WARNING  {UNANSWERED}" in command.output


def test_checking_a_layer_that_no_worker_can_reach(tmp_path: Path) -> None:
    write(tmp_path)
    result = run(tmp_path, "--check-config", LAYER)
    assert result.returncode == 0
    assert f"WARNING  {UNANSWERED}" in result.stderr
    assert "Nothing is wrong" not in result.stderr
    result = run(tmp_path, "--check-config", "--inline-workers", "1", LAYER)
    assert (result.returncode, UNANSWERED in result.stderr, "Nothing is wrong" in result.stderr) == (0, False, True)


# ---- Mistakes are one line that says what to do


@pytest.mark.parametrize(
    ("argv", "message"),
    [
        (["--bnd", "0.0.0.0", LAYER], "unrecognized arguments: --bnd; did you mean --bind?"),
        (["--host", "0.0.0.0", LAYER], "unrecognized arguments: --host; here it is --bind=HOST"),
        (["--uds=/run/s", LAYER], "unrecognized arguments: --uds=/run/s; here it is --unix-socket=PATH"),
        (["--ssl-keyfile", "k", LAYER], "unrecognized arguments: --ssl-keyfile; here it is --keyfile=FILE"),
        (["--inline_workers=2", LAYER], "unrecognized arguments: --inline_workers=2; did you mean --inline-workers?"),
        (
            ["-b", "0.0.0.0:8000", LAYER],
            "argument -b/--bind: must be an address without a port, as in --bind=0.0.0.0 --port=8000, not '0.0.0.0:8000'",
        ),
        (
            ["--bind", "[::1]:8000", LAYER],
            "argument -b/--bind: must be an address without a port, as in --bind=[::1] --port=8000, not '[::1]:8000'",
        ),
        (["-b", "unix:/s", LAYER], "argument -b/--bind: must be an address; a UNIX socket is --unix-socket=/s, not 'unix:/s'"),
        (
            ["--log-level", "trace", LAYER],
            "argument --log-level: must be debug, info, warning, error or critical, not 'trace'",
        ),
    ],
)
def test_wrong_options(tmp_path: Path, argv: list[str], message: str) -> None:
    result = run(tmp_path, *argv)
    assert (result.returncode, result.stdout) == (2, "")
    assert result.stderr == f"greendaphne: error: {message} (greendaphne --help shows all options)\n"


@pytest.mark.parametrize(
    ("place", "message"),
    [
        ("site_under_test.py:channel_layer", "; did you mean site_under_test:channel_layer?"),
        (
            "./site_under_test.py",
            "The application './site_under_test.py' is not written module.path:attribute.path; did you mean site_under_test?",
        ),
        ("site_under_tets:channel_layer", "No module named 'site_under_tets'; did you mean site_under_test?"),
        ("site_under_test:channel_layr", "has no attribute 'channel_layr'; did you mean channel_layer?"),
    ],
)
def test_wrong_places(tmp_path: Path, place: str, message: str) -> None:
    write(tmp_path)
    result = run(tmp_path, "-p", "0", place)
    assert result.returncode == 1
    assert result.stderr.count("\n") == 1
    assert message in result.stderr


@pytest.mark.parametrize(
    ("argument", "code", "text"),
    [
        ("0", 0, ""),
        ("3", 3, f"The application {LAYER} ended the process with exit code 3 while it was imported"),
        ("'no disk'", 1, "no disk"),
    ],
)
def test_an_application_that_ends_its_import(tmp_path: Path, argument: str, code: int, text: str) -> None:
    write(tmp_path, f"import sys\nsys.exit({argument})\n")
    result = run(tmp_path, "-p", "0", LAYER)
    assert (result.returncode, result.stderr.count("\n")) == (code, bool(text))
    assert text in result.stderr


def test_an_app_dir_that_is_missing(tmp_path: Path) -> None:
    result = run(tmp_path, "-p", "0", "--app-dir", "nowhere", LAYER)
    assert result.returncode == 1
    assert result.stderr.count("\n") == 1
    assert "there is no directory " in result.stderr
    assert "nowhere (--app-dir)." in result.stderr


def test_the_redis_layer_without_its_packages(tmp_path: Path) -> None:
    text = "import sys\nsys.modules['redis'] = None\nfrom greendaphne.layers.redis import RedisChannelLayer\n"
    write(tmp_path, text.replace("import sys\n", "import sys\nsys.modules.pop('msgpack', None)\n"))
    result = run(tmp_path, "-p", "0", LAYER)
    assert result.returncode == 1
    assert result.stderr.count("\n") == 1, result.stderr
    assert "needs a package that is not installed, redis: pip install 'greendaphne[redis]'.\n" in result.stderr


def test_service_links_of_kubernetes_are_ignored(tmp_path: Path) -> None:
    write(tmp_path)
    links = {
        "GREENDAPHNE_REDIS_SERVICE_HOST": "10.0.0.1",
        "GREENDAPHNE_REDIS_SERVICE_PORT": "6379",
        "GREENDAPHNE_REDIS_SERVICE_PORT_HTTP": "80",
        "GREENDAPHNE_REDIS_PORT": "tcp://10.0.0.1:6379",
        "GREENDAPHNE_REDIS_PORT_6379_TCP": "tcp://10.0.0.1:6379",
        "GREENDAPHNE_REDIS_PORT_6379_TCP_PROTO": "tcp",
        "GREENDAPHNE_REDIS_PORT_6379_TCP_PORT": "6379",
        "GREENDAPHNE_REDIS_PORT_6379_TCP_ADDR": "10.0.0.1",
        "GREENDAPHNE_SERVICE_HOST": "10.0.0.2",
        "GREENDAPHNE_SERVICE_PORT": "8000",
        "GREENDAPHNE_PORT": "tcp://10.0.0.2:8000",
        "GREENDAPHNE_PORT_8000_TCP": "tcp://10.0.0.2:8000",
        "GREENDAPHNE_PORT_8000_TCP_ADDR": "10.0.0.2",
    }
    assert run(tmp_path, "--check-config", "--inline-workers", "1", LAYER, extra=links).returncode == 0
    result = run(tmp_path, "--check-config", LAYER, extra={"GREENDAPHNE_REDIS_HOST": "10.0.0.1"})
    assert (result.returncode, "GREENDAPHNE_REDIS_HOST is unknown" in result.stderr) == (2, True)


# ---- Relative paths, and the process as the system sees it


@pytest.mark.parametrize("workers", [(), ("-w", "1")], ids=["single", "master"])
@pytest.mark.parametrize("how", ["module", "option"])
def test_relative_paths_begin_where_the_command_was_given(tmp_path: Path, workers: tuple[str, ...], how: str) -> None:
    issue("localhost").write(tmp_path / "localhost.pem")
    (tmp_path / "elsewhere").mkdir()
    argv = ["-u", "s", "--certfile", "localhost.pem", "--access-log", "access.log", "--inline-workers", "1", "--pid", "pid"]
    argv += ["-e", "ssl:0:privateKey=localhost.pem:interface=127.0.0.1", *workers]
    write(tmp_path if how == "module" else tmp_path / "elsewhere")
    if how == "module":
        path = tmp_path / "site_under_test.py"
        path.write_text("import os\nos.chdir('elsewhere')\n" + path.read_text(encoding="utf-8"), encoding="utf-8")
    else:
        argv += ["--chdir", "elsewhere"]
    with Command(tmp_path, *argv, LAYER) as command:
        command.wait_for("Listening on channels")
        assert (tmp_path / "s").is_socket()
        assert (tmp_path / "access.log").exists()
        assert (tmp_path / "pid").read_text(encoding="ascii") == f"{command.pid}\n"
        command.process.terminate()
        assert command.wait() == 0, command.output
    assert not (tmp_path / "s").exists()
    assert not (tmp_path / "pid").exists()
    assert list((tmp_path / "elsewhere").glob("*.log")) == []


def test_a_process_file_of_a_process_that_lives(tmp_path: Path) -> None:
    write(tmp_path)
    (tmp_path / "pid").write_text(f"{os.getpid()}\n", encoding="ascii")
    result = run(tmp_path, "-p", "0", "--pid", "pid", LAYER)
    assert result.returncode == 1
    assert result.stderr.endswith(f"pid names process {os.getpid()}, which runs.\n")
    (tmp_path / "pid").write_text("999999999\n", encoding="ascii")
    with Command(tmp_path, "-p", "0", "--inline-workers", "1", "--pid", "pid", LAYER) as command:
        command.port()


STATUS = """
import os
from greendaphne.layers.memory import MemoryChannelLayer


def http(message):
    mask = os.umask(0)
    os.umask(mask)
    text = f"{os.getuid()} {os.geteuid()} {os.getgid()} {os.getegid()} {mask:o} {os.getgroups()}"
    message.reply({"status": 200, "content": text.encode()})


channel_layer = MemoryChannelLayer()
channel_layer.routes = {"http.request": http}
"""


@pytest.mark.skipif(os.getuid() != 0, reason="only root may become another user")
@pytest.mark.parametrize("workers", [(), ("-w", "1")], ids=["single", "master"])
def test_another_user_and_group(tmp_path: Path, workers: tuple[str, ...]) -> None:
    # Another group alone, since the interpreter of the tests may be out of reach for other users.
    write(tmp_path, STATUS)
    argv = (*workers, "-p", "0", "--inline-workers", "1", "--group", "12345", "--umask", "027", LAYER)
    with Command(tmp_path, *argv) as command:
        assert b"0 0 12345 12345 27 [" in get(command.port())
        command.process.terminate()
        assert command.wait() == 0, command.output


@pytest.mark.parametrize(
    ("argv", "message"),
    [
        (["--user", "no-such-user"], "There is no user no-such-user (--user)."),
        (["--group", "no-such-group"], "There is no group no-such-group (--group)."),
        (["--chdir", "no-such-directory"], "--chdir: cannot change to no-such-directory: No such file or directory."),
        (["--pid", "no-such-directory/pid"], "no-such-directory/pid: No such file or directory."),
    ],
)
@pytest.mark.parametrize("workers", [(), ("-w", "1")], ids=["single", "master"])
def test_process_options_that_cannot_be_followed(tmp_path: Path, argv: list[str], message: str, workers: tuple[str, ...]) -> None:
    write(tmp_path)
    result = run(tmp_path, "-p", "0", *argv, *workers, LAYER)
    assert result.returncode == 1
    assert message in result.stderr
    assert "Traceback" not in result.stderr


# ---- Clients that leave


def test_a_client_that_leaves_is_noticed_within_a_second_and_holds_no_drain_up(tmp_path: Path) -> None:
    write(tmp_path)
    with Command(tmp_path, "-p", "0", "--inline-workers", "1", LAYER) as command:
        port = command.port()
        connect(port, "/slow").close()
        connect(port, "/slow").close()
        with connect(port, "/slow") as waiting:
            command.process.terminate()
            command.wait_for("have 30 seconds to finish")
            waiting.close()
        # Far less than the graceful time, which is the ceiling of a hang here.
        assert command.process.wait(15) == 0
