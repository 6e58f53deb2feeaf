"""The logs of the command: formats, configuration files, rotation, and what happens to the service when nobody takes its lines."""

from __future__ import annotations

import json
import logging
import os
import re
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import gevent
import pytest

from greendaphne.config import Logging
from greendaphne.logs import JSONFormatter, SinkHandler, StderrHandler, TextFormatter
from greendaphne.logs.access import AccessLog, AccessRecords
from greendaphne.logs.setup import LogError, Logs, formatter, reopen_file, use_config
from greendaphne.logs.sink import Sink
from tests.support.server import PATIENCE

CHECKOUT = Path(__file__).resolve().parents[2]
DEFAULTS = Logging()


def record(message: str, *args: object, level: int = logging.INFO, **attributes: Any) -> logging.LogRecord:
    made = logging.LogRecord("daphne.server", level, "", 0, message, args, None)
    vars(made).update(attributes)
    return made


@contextmanager
def clean_logging() -> Iterator[None]:
    """A process without handlers, and all as it was in the end; decorates a test, because pytest adds handlers behind its fixtures."""
    names = ("", "daphne.access", "daphne.server", "tests.logs")
    loggers = [logging.getLogger(name) for name in names]
    before = [(each.handlers[:], each.level, each.propagate, each.disabled) for each in loggers]
    for each in loggers:
        each.handlers[:] = []
    try:
        yield
    finally:
        for each, (handlers, level, propagate, disabled) in zip(loggers, before, strict=True):
            for handler in each.handlers:
                if handler not in handlers:
                    handler.close()
            each.handlers[:], each.propagate, each.disabled = handlers, propagate, disabled
            each.setLevel(level)


# ---- formats of the log


def test_text_commands_no_terminal() -> None:
    text = TextFormatter("%(levelname)s %(message)s").format(record("a\x1b[31m\x00 %s\n\tb\x9f\x7fé", "c"))
    assert text == "INFO a\\x1b[31m\\x00 c\n    \tb\\x9f\\x7fé"
    assert TextFormatter("%(message)s").format(record("a\u2028b\u202ec\x85d")) == "a\\u2028b\\u202ec\\x85d"
    assert TextFormatter("%(message)s").format(record("plain")) == "plain"


def test_what_a_client_sent_is_no_record_of_its_own() -> None:
    # Django logs decoded paths like this.
    text = TextFormatter("%(levelname)s %(message)s").format(record("Not Found: %s", "/\nERROR forged\r\nERROR again"))
    assert text == "INFO Not Found: /\n    ERROR forged\\x0d\n    ERROR again"


def test_what_cannot_be_logged_goes_to_the_log_and_nowhere_else(capfd: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    sink = Sink.open(str(tmp_path / "log"), "the log")
    handler = SinkHandler(sink)
    handler.handle(record("%d", "no number\x1b"))
    sink.close()
    text = (tmp_path / "log").read_text()
    assert text.startswith("Cannot log what :0 says:\nTraceback")
    assert "\nTypeError: " in text
    assert capfd.readouterr() == ("", "")


def test_json_is_one_line_with_everything() -> None:
    try:
        raise ValueError("a\nb\x1b")
    except ValueError:
        info = sys.exc_info()
    made = record("x %s\x7f", "é", level=logging.ERROR, exc_info=info, stack_info="Stack:\n x", status=503, thing=Path("/x"), logger="mine")
    made.created = 1.5
    text = JSONFormatter().format(made)
    assert text.isascii()
    assert text.isprintable()
    value = json.loads(text)
    assert value.pop("exception").splitlines()[0] == "Traceback (most recent call last):"
    assert value == {
        "time": "1970-01-01T00:00:01.500Z",
        "level": "error",
        "logger": "daphne.server",
        "message": "x é\x7f",
        "pid": os.getpid(),
        "stack": "Stack:\n x",
        "status": 503,
        "thing": "/x",
    }


def test_json_of_what_json_has_not() -> None:
    circle: list[Any] = []
    circle.append(circle)
    value = json.loads(JSONFormatter().format(record("x", circle=circle, mapping={(1, 2): 3}, number=1)))
    assert value["circle"] == "[[...]]"
    assert value["mapping"] == "{(1, 2): 3}"
    assert value["number"] == 1


def test_formats() -> None:
    assert isinstance(formatter("json"), JSONFormatter)
    for text in None, "text":
        assert re.fullmatch(r"[0-9-]{10} [0-9:,]{12} INFO     hello", formatter(text).format(record("hello")))
    assert formatter("%(name)s: %(message)s").format(record("hello")) == "daphne.server: hello"
    for text in "no field", "%(nothing)s", "%(message)", "%(message)y":
        with pytest.raises(LogError, match=r"^--log-format must be text, json or a format such as %\(levelname\)s %\(message\)s: .*\.$"):
            formatter(text)


# ---- options


@clean_logging()
@pytest.mark.parametrize(
    ("verbosity", "level", "expected"),
    [
        (-1, None, "WARNING"),
        (0, None, "WARNING"),
        (1, None, "INFO"),
        (3, None, "DEBUG"),
        (0, "debug", "DEBUG"),
        (2, "critical", "CRITICAL"),
    ],
)
def test_levels(verbosity: int, level: str | None, expected: str) -> None:
    Logs(replace(DEFAULTS, verbosity=verbosity, level=level)).close()
    assert logging.getLevelName(logging.getLogger().level) == expected


@clean_logging()
def test_handlers_that_are_there_stay_alone() -> None:
    """As with logging.basicConfig()."""
    handler = logging.NullHandler()
    logging.getLogger().addHandler(handler)
    logs = Logs(DEFAULTS)
    logs.close()
    assert logging.getLogger().handlers == [handler]


@clean_logging()
def test_access_log_that_cannot_be_had(tmp_path: Path) -> None:
    logs = Logs(DEFAULTS)
    for options, message in (
        (replace(DEFAULTS, access_log=str(tmp_path)), f"Cannot open the access log {tmp_path}: Is a directory."),
        (replace(DEFAULTS, access_log="/dev/null/log"), "Cannot open the access log /dev/null/log: Not a directory."),
        (replace(DEFAULTS, access_log_format="jason"), "--access-log-format: must be daphne, json, common, combined or text with atoms "),
    ):
        with pytest.raises(LogError) as caught:
            Logs(options).access()
        assert str(caught.value).startswith(message)
    logs.close()


@clean_logging()
def test_where_accesses_go(tmp_path: Path) -> None:
    assert Logs(replace(DEFAULTS, verbosity=0)).access() is None
    assert Logs(replace(DEFAULTS, verbosity=0, access_log="")).access() is None
    assert isinstance(Logs(replace(DEFAULTS, verbosity=0, access_log="logging:")).access(), AccessRecords)
    logs = Logs(replace(DEFAULTS, verbosity=0, access_log=str(tmp_path / "log")))
    assert type(logs.access()) is AccessLog
    logs.close()
    assert (tmp_path / "log").read_text() == ""


# ---- configuration files

CONFIG = {
    "formatters": {"json": {"()": "greendaphne.logs.JSONFormatter"}},
    "handlers": {"all": {"class": "logging.FileHandler", "filename": "all.log", "formatter": "json"}},
    "root": {"level": "INFO", "handlers": ["all"]},
}
TOML = """
[formatters.json]
"()" = "greendaphne.logs.JSONFormatter"
[handlers.all]
class = "logging.FileHandler"
filename = "all.log"
formatter = "json"
[root]
level = "INFO"
handlers = ["all"]
"""
INI = """
[loggers]
keys=root
[handlers]
keys=all
[formatters]
keys=json
[logger_root]
level=INFO
handlers=all
[handler_all]
class=FileHandler
args=("all.log",)
formatter=json
[formatter_json]
class=greendaphne.logs.JSONFormatter
"""


@clean_logging()
@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("log.json", json.dumps(CONFIG)),
        ("log.toml", TOML),
        ("log.ini", INI),
        ("log", INI),
    ],
)
def test_configuration_file(name: str, content: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / name).write_text(content)
    logger = logging.getLogger("tests.logs")
    logs = Logs(replace(DEFAULTS, config=name, level="warning"))
    logger.info("not this")
    logger.warning("but this")
    logs.close()
    assert json.loads((tmp_path / "all.log").read_text())["message"] == "but this"


@clean_logging()
@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("none", None, "Cannot read --log-config none: No such file or directory."),
        ("log.json", "{", "Cannot use --log-config log.json: Expecting property name"),
        ("log.json", "[]", "--log-config must be an object whose keys are those of logging.config.dictConfig."),
        ("log.json", '{"version": 2}', "Cannot use --log-config log.json: Unsupported version: 2."),
        (
            "log.json",
            '{"handlers": {"a": {"class": "logging.FileHandler", "filename": "/dev/null/x"}}, "root": {"handlers": ["a"]}}',
            "Cannot use --log-config log.json: Unable to configure handler 'a': [Errno 20] Not a directory: '/dev/null/x'.",
        ),
        ("log.ini", "nonsense", "Cannot use --log-config log.ini: "),
        ("log.ini", "", "Cannot use --log-config log.ini: "),
        ("log.toml", "x = " + "[" * 20000, "Cannot use --log-config log.toml: its values are nested too deeply."),
        ("log.ini", " " * ((1 << 20) + 1), "--log-config log.ini is larger than 1048576 bytes."),
    ],
)
def test_configuration_file_that_cannot_be_used(
    name: str, content: str | None, message: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    if content is not None:
        (tmp_path / name).write_text(content)
    with pytest.raises(LogError) as caught:
        use_config(name)
    assert str(caught.value).startswith(message)
    assert "\n" not in str(caught.value)


def test_configuration_file_has_its_own_formats() -> None:
    with pytest.raises(LogError, match="--log-format has no meaning with --log-config"):
        Logs(replace(DEFAULTS, config="x", format="json"))


@clean_logging()
def test_configured_access_logger_gets_accesses(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "log.json").write_text(json.dumps({**CONFIG, "loggers": {"daphne.access": {"handlers": ["all"], "propagate": False}}}))
    assert isinstance(Logs(replace(DEFAULTS, config="log.json")).access(), AccessRecords)
    logs = Logs(replace(DEFAULTS, config="log.json", access_log="access.log"))
    assert type(logs.access()) is AccessLog
    logs.close()


# ---- files of logging


@pytest.mark.parametrize("mode", ["a", "w"])
def test_file_of_logging_is_opened_anew_once_it_was_renamed(mode: str, tmp_path: Path) -> None:
    path = tmp_path / "log"
    handler = logging.FileHandler(path, mode)
    handler.handle(record("a"))
    reopen_file(handler)
    handler.handle(record("b"))
    path.rename(tmp_path / "log.1")
    reopen_file(handler)
    handler.handle(record("c"))
    path.unlink()
    path.mkdir()
    with pytest.raises(IsADirectoryError):
        reopen_file(handler)
    handler.handle(record("d"))
    handler.close()
    assert (tmp_path / "log.1").read_text() == "a\nb\n"
    reopen_file(handler)


def test_file_of_logging_that_is_not_open_yet_is_left_alone(tmp_path: Path) -> None:
    handler = logging.FileHandler(tmp_path / "log", delay=True)
    reopen_file(handler)
    assert not (tmp_path / "log").exists()
    handler.close()


@clean_logging()
def test_all_files_are_opened_anew(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    good, bad = (logging.FileHandler(tmp_path / name) for name in ("good", "bad"))
    for handler in good, bad:
        logging.getLogger("tests.logs").addHandler(handler)
    logging.getLogger().addHandler(caplog.handler)
    logs = Logs(replace(DEFAULTS, access_log=str(tmp_path / "access")))
    access = logs.access()
    assert access is not None
    for name in "good", "bad", "access":
        (tmp_path / name).unlink()
    (tmp_path / "bad").mkdir()
    logs.reopen()
    logs.close()
    assert (tmp_path / "good").exists()
    assert (tmp_path / "access").exists()
    assert f"Cannot reopen the log {tmp_path / 'bad'}: [Errno 21]" in caplog.text


# ---- greenlets that fail


@clean_logging()
def test_failing_greenlets_are_logged(caplog: pytest.LogCaptureFixture) -> None:
    logging.getLogger().addHandler(caplog.handler)

    def fail() -> None:
        raise ZeroDivisionError("told once")

    def run() -> None:
        logs = Logs(DEFAULTS)
        logs.adopt_hub()
        gevent.spawn(fail).join()
        gevent.get_hub().loop.run_callback(fail)
        gevent.sleep(0)
        gevent.wait(timeout=PATIENCE)
        logs.close()
        gevent.get_hub().destroy(destroy_loop=True)

    thread = threading.Thread(target=run)
    thread.start()
    thread.join(PATIENCE)
    assert [each.levelname for each in caplog.records if each.exc_info and "told once" in str(each.exc_info[1])] == ["ERROR", "ERROR"]


# ---- the command

APPLICATION = """
from greendaphne.layers.memory import MemoryChannelLayer

channel_layer = MemoryChannelLayer()
channel_layer.routes = {"http.request": lambda message: message.reply({"status": 200, "content": b"x"})}
"""


class Running:
    """The command in a directory of its own."""

    def __init__(self, directory: Path, process: subprocess.Popen[bytes]) -> None:
        self.directory = directory
        self.process = process

    def connect(self) -> socket.socket:
        deadline = time.monotonic() + PATIENCE * 2
        while True:
            sock = socket.socket(socket.AF_UNIX)
            sock.settimeout(PATIENCE)
            try:
                sock.connect(str(self.directory / "s"))
            except OSError:
                sock.close()
                assert self.process.poll() is None, "the server has ended"
                assert time.monotonic() < deadline, "the server did not start"
                time.sleep(0.02)
            else:
                return sock

    def get(self, number: int = 1, path: str = "/") -> None:
        """Make requests, one after the other."""
        with self.connect() as sock:
            for _ in range(number):
                sock.sendall(f"GET {path} HTTP/1.1\r\nHost: a\r\n\r\n".encode())
                answer = b""
                while not answer.endswith(b"\r\nx\r\n0\r\n\r\n"):
                    piece = sock.recv(65536)
                    assert piece, answer
                    answer += piece

    def stop(self) -> int:
        self.process.terminate()
        return self.process.wait(PATIENCE)


@contextmanager
def running(directory: Path, *options: str, **streams: Any) -> Iterator[Running]:
    (directory / "app.py").write_text(APPLICATION)
    command = [sys.executable, "-m", "greendaphne", "-u", "s", "--inline-workers", "1", *options, "app:channel_layer"]
    streams = {"stdout": subprocess.DEVNULL, "stderr": subprocess.PIPE, **streams}
    process = subprocess.Popen(command, cwd=directory, env={**os.environ, "PYTHONPATH": str(CHECKOUT)}, **streams)
    try:
        yield Running(directory, process)
    finally:
        process.kill()
        process.wait()
        for stream in process.stdout, process.stderr:
            if stream is not None:
                stream.close()


def error_lines(server: Running) -> list[str]:
    """What it said on standard error until its end, without the time."""
    assert server.process.stderr is not None
    return [re.sub(r"^[0-9-]{10} [0-9:,]{12} ", "", line) for line in server.process.stderr.read().decode().splitlines()]


def test_pipe_that_nobody_reads_stops_nothing(tmp_path: Path) -> None:
    reader, writer = os.pipe()
    try:
        with running(tmp_path, "-v", "2", stdout=writer, stderr=writer) as server:
            # Far more than a pipe holds, on standard output and on standard error.
            server.get(300, "/" + "x" * 1000)
            assert server.stop() == 0
    finally:
        os.close(reader)
        os.close(writer)


def test_broken_pipe_stops_nothing_and_is_told_once(tmp_path: Path) -> None:
    """As behind ``| head -1``."""
    with running(tmp_path, stdout=subprocess.PIPE) as server:
        server.get(1, "/first")
        assert server.process.stdout is not None
        assert b'"GET /first" 200 1' in server.process.stdout.readline()
        server.process.stdout.close()
        server.get(3)
        assert server.stop() == 0
        lines = [line for line in error_lines(server) if "access log" in line]
    assert lines == [
        "ERROR    Cannot write to the access log: [Errno 32] Broken pipe; lines are lost until that is possible",
        "WARNING  3 lines of the access log were lost",
    ]


def test_full_disk_stops_nothing_and_is_told_once(tmp_path: Path) -> None:
    with running(tmp_path, "--access-log", "/dev/full") as server:
        server.get(3)
        assert server.stop() == 0
        lines = [line for line in error_lines(server) if "access log" in line]
    assert lines == [
        "ERROR    Cannot write to the access log: [Errno 28] No space left on device; lines are lost until that is possible",
        "WARNING  3 lines of the access log were lost",
    ]


def test_rotation(tmp_path: Path) -> None:
    """What was logged before the signal is in the old files, what is logged behind it in new ones."""
    (tmp_path / "log.json").write_text(json.dumps(CONFIG))
    with running(tmp_path, "--access-log", "access.log", "--access-log-format", "%(U)s", "--log-config", "log.json") as server:
        server.get(2, "/before")
        while (tmp_path / "access.log").read_text().count("\n") < 2:
            time.sleep(0.01)
        for name in "access.log", "all.log":
            (tmp_path / name).rename(tmp_path / f"{name}.1")
        server.process.send_signal(signal.SIGUSR1)
        while not (tmp_path / "all.log").exists():
            time.sleep(0.01)
        server.get(1, "/behind")
        assert server.stop() == 0
    assert (tmp_path / "access.log.1").read_text() == "/before\n/before\n"
    assert (tmp_path / "access.log").read_text() == "/behind\n"
    messages = [json.loads(line)["message"] for line in (tmp_path / "all.log").read_text().splitlines()]
    assert messages[0].startswith("Stopping; ")
    assert "Reopening log files" in (tmp_path / "all.log.1").read_text()


@pytest.mark.parametrize("number", [signal.SIGUSR1, signal.SIGHUP])
def test_signals_that_come_too_early_end_nothing(tmp_path: Path, number: signal.Signals) -> None:
    (tmp_path / "early.py").write_text(
        "import os\n"
        "from greendaphne.layers.memory import MemoryChannelLayer\n"
        "channel_layer = MemoryChannelLayer()\n"
        "channel_layer.routes = {'http.request': print}\n"
        f"os.kill(os.getpid(), {int(number)})\n"
    )
    command = [sys.executable, "-m", "greendaphne", "--check-config", "--inline-workers", "1", "-v", "0", "early:channel_layer"]
    environment = {**os.environ, "PYTHONPATH": f"{CHECKOUT}{os.pathsep}{tmp_path}"}
    done = subprocess.run(command, check=False, cwd=tmp_path, env=environment, capture_output=True, text=True, timeout=PATIENCE)
    assert (done.returncode, done.stderr) == (0, "")


def test_everything_as_json_on_standard_error(tmp_path: Path) -> None:
    with running(tmp_path, "--log-format", "json", "--access-log", "logging:") as server:
        server.get(1, "/x")
        assert server.stop() == 0
        values = [json.loads(line) for line in error_lines(server)]
    assert {"level", "logger", "message", "time", "pid"} == set(values[0])
    (access,) = [value for value in values if value["logger"] == "daphne.access"]
    assert (access["path"], access["status"], access["event"]) == ("/x", 200, "request")
    assert access["message"].endswith('"GET /x HTTP/1.1" 200 1')


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--access-log", "/dev/null/log"], "Cannot open the access log /dev/null/log: Not a directory."),
        (["--access-log-format", "%(x)s"], "--access-log-format: unknown atom %(x)s; known are "),
        (["--log-format", "%(x)s"], "greendaphne: error: --log-format must be text, json or a format "),
        (["--log-config", "none"], "greendaphne: error: Cannot read --log-config none: No such file or directory."),
    ],
)
def test_what_cannot_be_followed_is_one_line(tmp_path: Path, options: list[str], message: str) -> None:
    with running(tmp_path, *options) as server:
        assert server.process.wait(PATIENCE * 2) == 1
        (line,) = error_lines(server)
    assert message in line


def test_closed_standard_output(tmp_path: Path) -> None:
    """Without it there is nowhere to log accesses to, which is an error only where it was asked for."""
    script = "import os, sys; os.close(1); os.execv(sys.executable, [sys.executable, '-m', 'greendaphne', *sys.argv[1:]])"
    (tmp_path / "app.py").write_text(APPLICATION)
    command = [sys.executable, "-c", script, "-u", "s", "--access-log", "-", "app:channel_layer"]
    environment = {**os.environ, "PYTHONPATH": str(CHECKOUT)}
    result = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True, timeout=PATIENCE * 2, check=False)
    assert result.returncode == 1
    assert result.stderr.endswith("ERROR    Cannot write accesses to standard output: it is closed.\n")


def test_handler_for_standard_error(tmp_path: Path) -> None:
    """Also behind what Django does when it is set up."""
    script = (
        "import logging, logging.config\n"
        "from greendaphne.logs import StderrHandler\n"
        "logging.getLogger().addHandler(StderrHandler())\n"
        "logging.config.dictConfig({'version': 1, 'disable_existing_loggers': False})\n"
        "for number in range(100): logging.warning('%d', number)\n"
    )
    result = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, cwd=CHECKOUT, timeout=PATIENCE * 2, check=True)
    assert result.stderr.split() == [str(number) for number in range(100)]
    assert issubclass(StderrHandler, logging.Handler)
