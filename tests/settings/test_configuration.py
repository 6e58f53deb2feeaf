"""Options from the environment and from a file: every option of the table, which place counts, what is refused, and ``--check-config``."""

from __future__ import annotations

import contextlib
import os
import re
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import fields, is_dataclass
from operator import attrgetter
from pathlib import Path
from typing import Any

import pytest

from greendaphne.config import COMMAND, Config, Timeouts
from greendaphne.core.converters import LONGEST
from greendaphne.settings import sources as settings
from greendaphne.settings.arguments import COMMAND_LINE, read
from greendaphne.settings.check import effective
from greendaphne.settings.option import Option, Takes, UsageError
from greendaphne.settings.options import OPTIONS
from greendaphne.settings.sample import sample
from greendaphne.settings.sources import CHANNEL_LAYER, CONFIG_VARIABLE, ITEMS, MAX_FILE, Setting, key, literal, variable
from tests.support.certificates import issue
from tests.support.server import PATIENCE
from tests.support.settings import LAYER, command, value

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

ROOT = Path(__file__).resolve().parents[2]
FLAGS = [item for item in ITEMS if item.takes is Takes.NOTHING]

#: Texts that some option or other takes.
CANDIDATES = [
    *("1", "2", "3", "4", "20000", "30000", "40000", "70000", "80000", "90000"),
    *("a", "b", "c", "tcp:1", "tcp:2", "tcp:3", "/a", "/b", "/c", "10.0.0.1", "10.0.0.2", "10.0.0.3"),
    *("A=1", "B=2", "C=3", "/a=b", "/b=c:d", "/c=e,wsgi"),
]


def texts(item: Option) -> list[str]:
    """Three texts, or as many as there are, that stand for different values of ``item``, none of them the default."""
    if item.takes is Takes.NOTHING:
        return ["true"]
    default = attrgetter(item.to)(COMMAND) if item.to else None
    found: dict[Any, str] = {}
    candidates = [*CANDIDATES]
    for text in candidates:
        try:
            value = item.convert(text)
        except ValueError as error:
            # "must be none, optional or require"
            candidates += [word for word in re.findall(r"[\w.-]+", str(error)) if word not in candidates]
            continue
        if value != default:
            found.setdefault(repr(value), text)
    assert found, f"no text is known that {item.name} takes"
    return [*found.values()][:3]


def on_command_line(item: Option, text: str) -> list[str]:
    if item is CHANNEL_LAYER:
        return ["--", text]
    return [item.name] if item.takes is Takes.NOTHING else [f"{item.name}={text}"]


def in_file(item: Option, text: str) -> str:
    written = literal(item, text == "true" if item.takes is Takes.NOTHING else [text])
    return f"{key(item)} = {written}\n"


def options(argv: list[str], environ: dict[str, str] | None = None) -> Config:
    """The configuration that a command line and an environment make."""
    return command(*argv, environ=environ).config


@pytest.fixture
def file(tmp_path: Path) -> Path:
    return tmp_path / "greendaphne.toml"


def ids(item: Option) -> str:
    return key(item)


# --- Every option ---


def test_every_option_but_those_about_the_file_itself_is_there() -> None:
    assert {item.name for item in OPTIONS} - {item.name for item in ITEMS} == {"--config", "--check-config"}
    assert len({key(item) for item in ITEMS}) == len({variable(item) for item in ITEMS}) == len(ITEMS)
    assert all(re.fullmatch(r"GREENDAPHNE_[A-Z0-9_]+", variable(item)) for item in ITEMS)
    assert CONFIG_VARIABLE not in map(variable, ITEMS)


@pytest.mark.parametrize("item", ITEMS, ids=ids)
def test_every_option_means_the_same_in_every_place(item: Option, file: Path) -> None:
    base = {} if item is CHANNEL_LAYER else {variable(CHANNEL_LAYER): LAYER}
    for text in texts(item):
        expected = command(*on_command_line(item, text), environ=base)
        assert item is CHANNEL_LAYER or expected.config != COMMAND
        given = command(environ=base | {variable(item): text})
        assert given[:3] == expected[:3]
        for name in (key(item), key(item).replace("-", "_")):
            file.write_text(in_file(item, text).replace(key(item), name, 1), encoding="utf-8")
            given = command("--config", str(file), environ=base)
            assert given[:3] == expected[:3]
            assert given.settings[key(item)].origin == str(file)
        if item.to:
            converted = True if item.takes is Takes.NOTHING else item.convert(text)
            assert COMMAND.changed({item.to: (converted,) if item.takes in (Takes.EACH, Takes.MANY) else converted}) == expected.config


def test_every_target_exists_and_every_value_has_one_row_at_most() -> None:
    targets = [item.to for item in OPTIONS if not item.command_line_only]
    assert all(targets)
    assert len(set(targets)) == len(targets)
    names = {
        f"{group.name}.{each.name}"
        for group in fields(Config)
        if is_dataclass(getattr(COMMAND, group.name))
        for each in fields(getattr(COMMAND, group.name))
    }
    names |= {each.name for each in fields(Config) if not is_dataclass(getattr(COMMAND, each.name))}
    assert set(targets) <= names
    # Values without an option are for Python alone.
    assert names - set(targets) == PYTHON_ALONE


#: Bounds that no operator had a reason to change yet, and the protocols of TLS.
PYTHON_ALONE = {
    *(
        f"limits.{name}"
        for name in ("request_head", "body_chunk", "buffered_bodies", "spooled_bodies", "reply_queue", "websocket_contexts")
    ),
    *(f"timeouts.{name}" for name in ("body_rate", "linger", "websocket_close")),
    *(f"http2.{name}" for name in ("upload_window_size", "upload_windows", "header_list_excess", "continuation_frames")),
    *(f"http2.{name}" for name in ("client_resets", "server_resets", "control_frames", "period", "write_buffer", "control_buffer")),
    *(f"http2.{name}" for name in ("late_frames", "small_data_frames", "settings", "window_update_step")),
    "tls.alpn",
    # Set together with ``timeouts.http``.
    "asgi.response_timeout",
}


def test_unknown_targets_are_refused() -> None:
    for target in ("nothing", "nothing.header", "timeouts.nothing", "root_path.nothing"):
        with pytest.raises(TypeError):
            Config().changed({target: 1})


def test_a_value_of_a_group_counts_before_the_whole_group() -> None:
    changed = Config().changed({"timeouts.http": 1, "timeouts": Timeouts(http=2, header=3)})
    assert changed.timeouts == Timeouts(http=1, header=3)


@pytest.mark.parametrize("item", [item for item in ITEMS if len(texts(item)) == 3], ids=ids)
def test_command_line_then_environment_then_file(item: Option, file: Path) -> None:
    first, second, third = texts(item)
    file.write_text(in_file(item, third), encoding="utf-8")
    base = {CONFIG_VARIABLE: str(file)} | ({} if item is CHANNEL_LAYER else {variable(CHANNEL_LAYER): LAYER})
    both = base | {variable(item): second}
    places = [(on_command_line(item, first), both, first), ([], both, second), ([], base, third)]
    for argv, environ, text in places:
        assert value(command(*argv, environ=environ), item) == (
            (item.convert(text),) if item.takes in (Takes.EACH, Takes.MANY) else item.convert(text)
        )


@pytest.mark.parametrize("item", FLAGS, ids=ids)
def test_a_flag_that_the_file_sets_is_switched_off_by_the_environment(item: Option, file: Path) -> None:
    file.write_text(in_file(item, "true"), encoding="utf-8")
    base = {CONFIG_VARIABLE: str(file), variable(CHANNEL_LAYER): LAYER}
    assert attrgetter(item.to)(options([], base)) is True
    assert attrgetter(item.to)(options([], base | {variable(item): "0"})) is False
    assert attrgetter(item.to)(options([item.name], base | {variable(item): "0"})) is True


# --- The environment ---


@pytest.mark.parametrize(
    ("name", "text", "target", "expected"),
    [
        *[("PROXY_HEADERS", text, "proxies.headers", True) for text in ("1", "true", "True", "YES", "on")],
        *[("PROXY_HEADERS", text, "proxies.headers", False) for text in ("0", "false", "No", "off", "")],
        ("ENDPOINT", "tcp:80 unix:/run/a.sock\n\ttcp:81", "endpoints", ("tcp:80", "unix:/run/a.sock", "tcp:81")),
        ("WS_PROTOCOL", "chat", "websockets.protocols", ("chat",)),
        ("ACCESS_LOG", "a file with blanks", "logging.access_log", "a file with blanks"),
        ("LIMIT_REQUEST_BODY", "1M", "limits.request_body", 1024**2),
        ("BIND", "", "listening.host", None),
        ("WEBSOCKET_TIMEOUT", "-1", "timeouts.websocket", -1),
    ],
)
def test_values_in_the_environment(name: str, text: str, target: str, expected: object) -> None:
    assert attrgetter(target)(options([LAYER], {f"GREENDAPHNE_{name}": text})) == expected


def test_other_variables_are_nobodys_business() -> None:
    assert options([LAYER], {"PORT": "x", "_GREENDAPHNE_X": "y", "greendaphne_port": "1", "GREENDAPHNE": "z"}) == options([LAYER])


@pytest.mark.parametrize(
    ("name", "text", "message"),
    [
        ("HTP_TIMEOUT", "1", "is unknown; did you mean GREENDAPHNE_HTTP_TIMEOUT?"),
        ("HOST", "::", "is unknown; did you mean GREENDAPHNE_BIND?"),
        ("CONFG", "x", "is unknown; did you mean GREENDAPHNE_CONFIG?"),
        ("CHECK_CONFIG", "1", "is unknown: --check-config belongs on the command line"),
        ("XYZZY", "", "is unknown"),
        ("PROXY_HEADERS", "maybe", "must be true, 1, yes or on, or false, 0, no or off, not 'maybe'"),
        ("LIMIT_REQUEST_BODY", "1T", "must be a number of bytes, such as 65536, 64K, 1M or 2G, not '1T'"),
    ],
)
def test_variables_refused(name: str, text: str, message: str) -> None:
    with pytest.raises(UsageError) as error:
        options([LAYER], {f"GREENDAPHNE_{name}": text})
    assert str(error.value) == f"environment variable GREENDAPHNE_{name} {message}"


def test_a_name_of_several_lines_is_refused_in_one() -> None:
    with pytest.raises(UsageError) as error:
        options([LAYER], {"GREENDAPHNE_A\nB": "1"})
    assert str(error.value) == r"environment variable 'GREENDAPHNE_A\nB' is unknown"


# --- The file ---


@pytest.mark.parametrize(
    ("text", "target", "expected"),
    [
        ("port = 8001", "listening.port", 8001),
        ('port = "8001"', "listening.port", 8001),
        ("http_timeout = 0.5", "timeouts.http", 0.5),
        ("websocket-timeout = -1", "timeouts.websocket", -1),
        ("limit-request-body = 1_000", "limits.request_body", 1000),
        ('limit-request-body = "1M"', "limits.request_body", 1024**2),
        ('endpoint = ["tcp:80", "unix:/run/a b.sock"]', "endpoints", ("tcp:80", "unix:/run/a b.sock")),
        ('endpoint = "tcp:80"', "endpoints", ("tcp:80",)),
        ("ws-protocol = []", "websockets.protocols", ()),
        ("proxy-headers = false", "proxies.headers", False),
        ('root-path = ""', "root_path", ""),
        ('"bind" = "::"', "listening.host", "::"),
        ("http-timeout = 1e300", "timeouts.http", LONGEST),
        (f"http-timeout = 1{'0' * 400}", "timeouts.http", LONGEST),
        ("", "listening.port", None),
    ],
)
def test_values_in_a_file(file: Path, text: str, target: str, expected: object) -> None:
    file.write_text(text, encoding="utf-8")
    assert attrgetter(target)(options([f"--config={file}", LAYER])) == expected


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("\n\nhtp-timeout = 1", ", line 3: htp-timeout is unknown; did you mean http-timeout?"),
        ("socket_strings = []", ", line 1: socket_strings is unknown; did you mean endpoint?"),
        ('config = "x"', ", line 1: config is unknown: --config belongs on the command line"),
        ("xyzzy = 1", ", line 1: xyzzy is unknown"),
        ('"two\\nlines" = 1', r": 'two\nlines' is unknown"),
        ("[tls]\ncertfile = 1", ": tls is a table; all options stand at the top of the file"),
        ("http-timeout = 1\nhttp_timeout = 1", ", line 2: http_timeout is there twice, with hyphens and with underscores"),
        ("http-timeout = 0", ", line 1: http-timeout must be a number of seconds above 0, not 0"),
        ("http-timeout = nan", ", line 1: http-timeout must be a number of seconds above 0, not nan"),
        ("port = 80.5", ", line 1: port must be a number from 0 to 65535, not 80.5"),
        ("port = true", ", line 1: port must be a number, or a text as on the command line, not true"),
        ("bind = 80", ", line 1: bind must be a text in quotes, not 80"),
        ("bind = 1979-05-27", ", line 1: bind must be a text in quotes, not 1979-05-27"),
        ("bind = {a = 1}", ", line 1: bind must be a text in quotes, not a table"),
        (r'access-log = "a\u0000b"', r', line 1: access-log must not contain a NUL character, not "a\u0000b"'),
        ("endpoint = [1]", ", line 1: endpoint must be a text in quotes, not [1]"),
        ("bind = ['a', false]", ', line 1: bind must be a text in quotes, not ["a", false]'),
        ('proxy-headers = "yes"', ', line 1: proxy-headers must be true or false, not "yes"'),
        ("proxy-headers = 1", ", line 1: proxy-headers must be true or false, not 1"),
        ('on-layer-loss = "panic"', ', line 1: on-layer-loss must be shed, keep or exit, not "panic"'),
    ],
)
def test_keys_and_values_refused(file: Path, text: str, message: str) -> None:
    file.write_text(text, encoding="utf-8")
    with pytest.raises(UsageError) as error:
        options([f"--config={file}", LAYER])
    assert str(error.value) == f"{file}{message}"


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (None, "cannot read the configuration file {}: No such file or directory"),
        (b"\xff", "the configuration file {} is not written in UTF-8"),
        (b"port = ", "the configuration file {} is not TOML: Invalid value (at end of document)"),
        (b"port = 1\nport = 2", "the configuration file {} is not TOML: Cannot overwrite a value (at end of document)"),
        (b"port = " + b"[" * 20000, "the configuration file {} is not TOML: its values are nested too deeply"),
        (b"port = " + b"1" * 5000, "the configuration file {} is not TOML: a number is too large"),
        (b"#" * (MAX_FILE + 1), f"the configuration file {{}} is larger than {MAX_FILE} bytes"),
    ],
)
def test_files_refused(file: Path, content: bytes | None, message: str) -> None:
    if content is not None:
        file.write_bytes(content)
    with pytest.raises(UsageError) as error:
        options([f"--config={file}", LAYER])
    assert str(error.value) == message.format(file)


def test_a_directory_is_no_file(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=r"^cannot read the configuration file .*: Is a directory$"):
        options([f"--config={tmp_path}", LAYER])


@pytest.fixture
def heeded_interrupts() -> Iterator[None]:
    """Whoever starts the tests in the background of a shell has SIGINT ignored, and processes inherit it."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)


def interrupted(process: subprocess.Popen[str]) -> str:
    """What a process that reads or sleeps writes to standard error until SIGINT has ended it."""
    # Python sees a signal that comes right before the system call only after that; the next one interrupts the call.
    for _ in range(3):
        process.send_signal(signal.SIGINT)
        with contextlib.suppress(subprocess.TimeoutExpired):
            process.wait(PATIENCE / 2)
            break
    return process.communicate(timeout=PATIENCE)[1]


@pytest.mark.usefixtures("heeded_interrupts")
def test_who_interrupts_the_import_of_the_application(tmp_path: Path) -> None:
    (tmp_path / "slow.py").write_text("import time\nprint('importing', flush=True)\ntime.sleep(60)\n", encoding="utf-8")
    command = [sys.executable, "-m", "greendaphne", "-p", "0", "slow:channel_layer"]
    pipe = subprocess.PIPE
    with subprocess.Popen(command, cwd=tmp_path, stdout=pipe, stderr=pipe, text=True) as process:
        try:
            assert process.stdout is not None
            assert process.stdout.readline() == "importing\n"
            errors = interrupted(process)
        finally:
            process.kill()
    assert (process.returncode, errors.strip()) == (130, "")


@pytest.mark.usefixtures("heeded_interrupts")
def test_who_waits_for_a_file_may_interrupt(file: Path) -> None:
    os.mkfifo(file)
    command = [sys.executable, "-m", "greendaphne", f"--config={file}", LAYER]
    with subprocess.Popen(command, cwd=ROOT, stderr=subprocess.PIPE, text=True) as process:
        try:
            # It has opened the file once this returns.
            with open(file, "wb"):
                errors = interrupted(process)
        finally:
            process.kill()
    assert (process.returncode, errors) == (130, "")


def test_which_file(file: Path) -> None:
    other = file.with_name("other.toml")
    file.write_text("port = 1", encoding="utf-8")
    other.write_text("port = 2", encoding="utf-8")
    environ = {CONFIG_VARIABLE: str(file)}
    assert options([LAYER], environ).listening.port == 1
    assert command(LAYER, environ=environ).settings["config"].value == str(file)
    for argv in (["-c", str(other)], [f"-c{other}"], [f"--config={other}"], [f"--conf={other}"]):
        assert options([*argv, "--", LAYER], environ).listening.port == 2
    # None at all.
    assert options(["--config=", LAYER], environ).listening.port is None
    assert options([LAYER], {CONFIG_VARIABLE: ""}).listening.port is None


def test_the_channel_layer_has_to_stand_somewhere() -> None:
    with pytest.raises(UsageError, match="the following arguments are required: channel_layer"):
        options([], {"GREENDAPHNE_CHANNEL_LAYER": ""})
    environ = {"GREENDAPHNE_CHANNEL_LAYER": LAYER}
    assert command(environ=environ).channel_layer == LAYER
    assert command("--", "other:layer", environ=environ).channel_layer == "other:layer"


def test_lists_of_several_places_are_not_put_together(file: Path) -> None:
    file.write_text('endpoint = ["tcp:1", "tcp:2"]\nws-protocol = ["a"]', encoding="utf-8")
    given = options(["-e", "tcp:3", "--ws-protocol", "--", LAYER], {CONFIG_VARIABLE: str(file), "GREENDAPHNE_ENDPOINT": "tcp:4 tcp:5"})
    assert given.endpoints == ("tcp:3",)
    # Given without any value.
    assert given.websockets.protocols == ()


def test_secrets_are_repeated_nowhere(file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    item = next(item for item in ITEMS if key(item) == "port")._replace(secret=True)
    monkeypatch.setitem(settings._BY_KEY, "port", item)
    monkeypatch.setitem(settings._BY_VARIABLE, "GREENDAPHNE_PORT", item)
    file.write_text('port = "hunter2"', encoding="utf-8")
    for environ in ({CONFIG_VARIABLE: str(file)}, {"GREENDAPHNE_PORT": "hunter2"}):
        with pytest.raises(UsageError) as error:
            options([LAYER], environ)
        assert "hunter2" not in str(error.value)


def test_help_and_version_whatever_the_environment_says() -> None:
    environ = {"GREENDAPHNE_XYZZY": "1", CONFIG_VARIABLE: "/nowhere"}
    for word in ("--help", "--version"):
        assert isinstance(read([word], environ), Option)


# --- What is in force ---


def test_what_is_in_force_is_a_configuration_file(file: Path) -> None:
    environ = {variable(item): texts(item)[0] for item in ITEMS[::2]}
    argv = [word for item in ITEMS[1::2] for word in on_command_line(item, texts(item)[0])]
    first = command(*argv, environ=environ)
    secrets = [item for item in OPTIONS if item.secret]
    hidden = {key(item) for item in secrets}
    file.write_text(effective({name: setting for name, setting in first.settings.items() if name not in hidden}), encoding="utf-8")
    again = command("-c", str(file))
    defaults = {item.to: attrgetter(item.to)(COMMAND) for item in secrets}
    assert (again.config, again.channel_layer) == (first.config.changed(defaults), first.channel_layer)


def test_what_is_in_force_names_places_and_hides_secrets(file: Path) -> None:
    file.write_text("http-timeout = 30", encoding="utf-8")
    given = command("-p", "1", "-c", str(file), LAYER, environ={"GREENDAPHNE_WS_PROTOCOL": 'a "b"'})
    assert given.settings["port"] == Setting(1, "1", COMMAND_LINE)
    secrets = {key(item): Setting("hunter2", '"hunter2"', "x") for item in OPTIONS if item.secret}
    lines = effective({**given.settings, **secrets}).splitlines()
    assert lines[:2] == [f"# Configuration file: {file} (command line)", f'channel-layer = "{LAYER}"  # command line']
    assert "port = 1  # command line" in lines
    assert f"http-timeout = 30  # {file}" in lines
    assert 'ws-protocol = ["a", "\\"b\\""]  # GREENDAPHNE_WS_PROTOCOL' in lines
    assert "proxy-headers = false  # default" in lines
    assert "# certfile is not set" in lines
    assert not [line for line in lines if "hunter2" in line]


@pytest.mark.parametrize("text", ["", '"', "\\", "\n", "\x7f", "\x1b", "é", "\udcff", "007", "1", "-1.5", "1e3", "+3"])
def test_texts_as_toml(text: str) -> None:
    item = next(item for item in ITEMS if item.number and item.takes is Takes.ONE)
    for each in (item, CHANNEL_LAYER):
        (value,) = tomllib.loads(f"a = {literal(each, [text])}").values()
        assert str(value) == text.replace("\udcff", "\\udcff").removeprefix("+" if isinstance(value, int) else "")


# --- The sample ---


def test_the_sample_is_up_to_date() -> None:
    """If not: python -m greendaphne.settings.sample > examples/greendaphne.toml"""
    assert (ROOT / "examples" / "greendaphne.toml").read_text(encoding="utf-8") == sample()


def test_the_sample_has_every_option_and_its_default(file: Path) -> None:
    lines = sample().splitlines()
    wanted = {key(item) for item in ITEMS}
    given = {match[1]: line for line in lines if (match := re.match(r"#?([a-z0-9-]+) = ", line))}
    assert set(given) == wanted
    assert max(map(len, lines)) <= 100
    with_default = [item for item in ITEMS if settings.default_text(item)]
    file.write_text("\n".join(given[key(item)].lstrip("#") for item in with_default), encoding="utf-8")
    # A given http-timeout is also the time limit of ASGI responses.
    expected = COMMAND.changed({"asgi.response_timeout": COMMAND.timeouts.http})
    assert options([f"--config={file}", "project.asgi:channel_layer"]) == expected


# --- The command ---

PROJECT = """
from greendaphne.layers.memory import MemoryChannelLayer

channel_layer = MemoryChannelLayer()
"""


@pytest.fixture
def project(tmp_path: Path) -> Path:
    (tmp_path / "project.py").write_text(PROJECT, encoding="utf-8")
    (tmp_path / "greendaphne.toml").write_text('channel-layer = "project:channel_layer"\nport = 0\n', encoding="utf-8")
    return tmp_path


def run(directory: Path, *argv: str, **environ: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "greendaphne", *argv],
        cwd=directory,
        env={**os.environ, "PYTHONPATH": str(ROOT), **environ},
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
        stdin=subprocess.DEVNULL,
    )


def test_the_password_of_an_encrypted_key(project: Path) -> None:
    (project / "key.pem").write_bytes((issued := issue("localhost")).encrypted_key_pem)
    (project / "crt.pem").write_bytes(issued.pem)
    (project / "password").write_text("secret\n")
    arguments = ("--check-config", "--certfile=crt.pem", "--keyfile=key.pem", "project:channel_layer")
    result = run(project, *arguments)
    assert result.returncode == 1
    assert "The private key in key.pem is encrypted; name the file with its password (--keyfile-password-file)" in result.stderr
    for environ in ({"GREENDAPHNE_KEYFILE_PASSWORD": "secret"}, {"GREENDAPHNE_KEYFILE_PASSWORD_FILE": "password"}):
        result = run(project, *arguments, **environ)
        assert (result.returncode, "secret" in result.stdout + result.stderr) == (0, False)
    result = run(project, *arguments, "--keyfile-password=wrong")
    assert result.returncode == 1
    assert "the password is wrong" in result.stderr
    result = run(project, *arguments, "--keyfile-password-file=password", GREENDAPHNE_KEYFILE_PASSWORD="secret")
    assert result.returncode == 1
    assert "given twice" in result.stderr


def test_checking_what_is_good(project: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        # The server that it is for may be running.
        port = taken.getsockname()[1]
        result = run(project, "--check-config", "--access-log=a.log", GREENDAPHNE_CONFIG="greendaphne.toml", GREENDAPHNE_PORT=str(port))
    assert result.returncode == 0
    *warnings, last = result.stderr.splitlines()
    # The project's layer is in memory and has no workers.
    assert ["No worker can answer requests" in line for line in warnings] == [True]
    assert last.partition("INFO")[2].strip() == "Nothing else is wrong"
    lines = result.stdout.splitlines()
    assert lines[0] == "# Configuration file: greendaphne.toml (GREENDAPHNE_CONFIG)"
    assert f"port = {port}  # GREENDAPHNE_PORT" in lines
    assert tomllib.loads(result.stdout)["access-log"] == "a.log"
    assert not (project / "a.log").exists()


@pytest.mark.parametrize("wrong", [False, True])
def test_a_check_that_takes_long_leaves_no_access_log(project: Path, wrong: bool) -> None:
    """Its file is looked for each second, and made again where it was removed."""
    (project / "slow.py").write_text(
        "from greendaphne.layers.memory import MemoryChannelLayer\n"
        "from greendaphne.logs import sink\n"
        "sink.WATCH_INTERVAL = 0.0\n"
        "for each in list(sink._sinks):\n"
        "    each._watch_at = 0.0\n"
        f"{'wrong_layer' if wrong else 'channel_layer'} = MemoryChannelLayer()\n"
    )
    result = run(project, "--check-config", "--access-log=a.log", "slow:channel_layer")
    assert result.returncode == int(wrong), result.stderr
    assert not (project / "a.log").exists()


@pytest.mark.parametrize(
    ("argv", "code", "message"),
    [
        (["--certfile=missing.pem"], 1, "missing.pem"),
        (["-e", "unix:/no/such/directory/x"], 1, "Cannot listen on unix:/no/such/directory/x: there is no such directory."),
        (["--inline-workers=1"], 1, "No consumers for inline workers"),
        (["--access-log=/no/such/directory/x"], 1, "No such file or directory"),
        (["--http-timeout=0"], 2, "argument -t/--http-timeout: must be a number of seconds above 0, not '0'"),
    ],
)
def test_checking_what_is_wrong(project: Path, argv: list[str], code: int, message: str) -> None:
    result = run(project, "--check-config", "-cgreendaphne.toml", *argv)
    assert result.returncode == code
    assert message in result.stderr
    assert len(result.stderr.splitlines()) == 1
    assert ("port = 0  # greendaphne.toml" in result.stdout) == (code == 1)


def test_wrong_options_of_any_place_end_the_command_with_2(project: Path) -> None:
    result = run(project, "-cgreendaphne.toml", GREENDAPHNE_HTP_TIMEOUT="1")
    place = "environment variable GREENDAPHNE_HTP_TIMEOUT is unknown; did you mean GREENDAPHNE_HTTP_TIMEOUT?"
    assert (result.returncode, result.stdout) == (2, "")
    assert result.stderr == f"greendaphne: error: {place} (greendaphne --help shows all options)\n"
    (project / "greendaphne.toml").write_text("prot = 1", encoding="utf-8")
    result = run(project, "-cgreendaphne.toml", "project:channel_layer")
    assert (result.returncode, result.stdout) == (2, "")
    place = "greendaphne.toml, line 1: prot is unknown; did you mean port?"
    assert result.stderr == f"greendaphne: error: {place} (greendaphne --help shows all options)\n"


def test_what_is_in_force_in_any_encoding(project: Path) -> None:
    name = os.fsdecode(b"\xc3\xa9\xff.toml")
    (project / "greendaphne.toml").rename(project / name)
    result = run(project, "--check-config", "-c", name, "--root-path=/\u00e9", PYTHONIOENCODING="ascii")
    assert result.returncode == 0
    assert result.stdout.startswith("# Configuration file: \\xe9\\udcff.toml (command line)\n")
    assert 'root-path = "/\\xe9"  # command line\n' in result.stdout


def test_who_reads_may_stop(project: Path) -> None:
    """Into a pipe that nobody reads."""
    for words in (["--help"], ["--check-config", "-cgreendaphne.toml"]):
        reader, writer = os.pipe()
        os.close(reader)
        try:
            result = subprocess.run(
                [sys.executable, "-m", "greendaphne", *words],
                cwd=project,
                env={**os.environ, "PYTHONPATH": str(ROOT)},
                stdout=writer,
                stderr=subprocess.PIPE,
                text=True,
                timeout=60,
                check=False,
            )
        finally:
            os.close(writer)
        assert result.returncode == 0
        assert "Traceback" not in result.stderr
