"""The command line: daphne 1.4.2's, option by option and habit by habit, the new options, and the command as a process."""

from __future__ import annotations

import argparse
import gc
import os
import re
import signal
import socket
import subprocess
import sys
from collections.abc import Sequence
from operator import attrgetter
from pathlib import Path
from typing import Any

import docopt
import pytest
from hypothesis import given
from hypothesis import strategies as st

import greendaphne
from greendaphne.applications.detection import detect
from greendaphne.applications.loading import load
from greendaphne.cli import collect_less_often, main
from greendaphne.config import COMMAND, ConfigurationError, Limits, Timeouts
from greendaphne.core import converters as values
from greendaphne.core.addresses import AddressList
from greendaphne.net.endpoints.descriptions import command_descriptions
from greendaphne.running.assembly import http2_limits, with_tls
from greendaphne.settings.arguments import HELP, SHORT_HELP, VERSION, Command, normalise, read
from greendaphne.settings.check import check_options, spelled
from greendaphne.settings.help import help_text, short_help
from greendaphne.settings.option import Option, Takes, UsageError
from greendaphne.settings.options import OPTIONS
from tests.support.settings import LAYER, command, configured

CHECKOUT = Path(greendaphne.__file__).resolve().parent.parent


def given_values(argv: Sequence[str]) -> dict[str, Any]:
    """What a command line sets other than the defaults, by target."""
    config = command(*argv).config
    values = {item.to: (attrgetter(item.to)(config), attrgetter(item.to)(COMMAND)) for item in OPTIONS if item.to}
    return {target: value for target, (value, default) in values.items() if value != default}


# --- daphne 1.4.2's options ---


def test_defaults() -> None:
    legacy = [item.to for item in OPTIONS if item.legacy]
    default = command(LAYER)
    assert default.config == COMMAND
    assert {target: attrgetter(target)(default.config) for target in legacy} == {
        "listening.port": None,
        "listening.host": None,
        "timeouts.websocket": None,
        "timeouts.websocket_connect": 5,
        "listening.unix_socket": None,
        "listening.file_descriptor": None,
        "endpoints": (),
        "logging.verbosity": 1,
        "timeouts.http": 120,
        "logging.access_log": None,
        "timeouts.ping_interval": 20,
        "timeouts.ping_timeout": 30,
        "websockets.protocols": (),
        "root_path": "",
        "proxies.headers": False,
        "channels.force_sync": False,
    }
    assert default.channel_layer == LAYER


LEGACY_VALUES: list[tuple[str, str, str, Any]] = [
    ("-p", "--port", "8001", ("listening.port", 8001)),
    ("-b", "--bind", "0.0.0.0", ("listening.host", "0.0.0.0")),
    ("", "--websocket_timeout", "7", ("timeouts.websocket", 7)),
    ("", "--websocket_connect_timeout", "7", ("timeouts.websocket_connect", 7)),
    ("-u", "--unix-socket", "/run/x", ("listening.unix_socket", "/run/x")),
    ("", "--fd", "3", ("listening.file_descriptor", 3)),
    ("-e", "--endpoint", "tcp:80", ("endpoints", ("tcp:80",))),
    ("-v", "--verbosity", "2", ("logging.verbosity", 2)),
    ("-t", "--http-timeout", "7", ("timeouts.http", 7)),
    ("", "--access-log", "a.log", ("logging.access_log", "a.log")),
    ("", "--ping-interval", "7", ("timeouts.ping_interval", 7)),
    ("", "--ping-timeout", "7", ("timeouts.ping_timeout", 7)),
    ("", "--ws-protocol", "chat", ("websockets.protocols", ("chat",))),
    ("", "--root-path", "/x%20y", ("root_path", "/x%20y")),
    # The same with hyphens, which daphne did not have.
    ("", "--websocket-timeout", "7", ("timeouts.websocket", 7)),
    ("", "--websocket-connect-timeout", "7", ("timeouts.websocket_connect", 7)),
]


@pytest.mark.parametrize(("short", "name", "text", "expected"), LEGACY_VALUES)
def test_every_form_of_an_option_with_a_value(short: str, name: str, text: str, expected: tuple[str, Any]) -> None:
    forms = [[f"{name}={text}"], [name, text]]
    if short:
        forms += [[f"{short}{text}"], [short, text], [f"{short}={text}"]]
    for form in forms:
        assert given_values([*form, "--", LAYER]) == dict([expected])
        assert given_values([LAYER, *form]) == dict([expected])


@pytest.mark.parametrize(("name", "field"), [("--proxy-headers", "proxies.headers"), ("--force-sync", "channels.force_sync")])
def test_flags(name: str, field: str) -> None:
    for argv in ([name, LAYER], [LAYER, name], [name, LAYER, name]):
        assert given_values(argv) == {field: True}


#: The shortest prefix of each option that daphne 1.4.2's parser takes.
SHORTEST_PREFIXES = {
    "--a": "--access-log",
    "--b": "--bind",
    "--e": "--endpoint",
    "--fd": "--fd",
    "--fo": "--force-sync",
    "--he": "--help",
    "--ht": "--http-timeout",
    "--ping-i": "--ping-interval",
    "--ping-t": "--ping-timeout",
    "--po": "--port",
    "--pr": "--proxy-headers",
    "--r": "--root-path",
    "--u": "--unix-socket",
    "--v": "--verbosity",
    "--websocket_c": "--websocket_connect_timeout",
    "--websocket_t": "--websocket_timeout",
    "--ws": "--ws-protocol",
}


def written(name: str, item: Option) -> list[str]:
    """A use of ``item`` under ``name``, as normalised words."""
    value = [] if item.takes is Takes.NOTHING else ["=5"]
    return normalise([name + "".join(value), LAYER])


@pytest.mark.parametrize(("shortest", "name"), SHORTEST_PREFIXES.items())
def test_every_abbreviation_of_daphnes(shortest: str, name: str) -> None:
    item = next(item for item in (HELP, *OPTIONS) if name in item.legacy)
    prefixes = [name[:length] for length in range(len(shortest), len(name) + 1)]
    assert {tuple(written(prefix, item)) for prefix in prefixes} == {tuple(written(name, item))}


@pytest.mark.parametrize("word", ["--", "--f", "--h", "--p", "--ping", "--ping-", "--web", "--websocket", "--websocket_"])
def test_abbreviations_that_were_ambiguous_still_are(word: str) -> None:
    with pytest.raises(UsageError, match=f"ambiguous option: {word} could match --"):
        read([f"{word}=1", LAYER], {})


def legacy_parser() -> argparse.ArgumentParser:
    """A parser with the options that daphne 1.4.2 is documented to have, to compare habits with."""
    parser = argparse.ArgumentParser(prog="daphne")
    for item in OPTIONS:
        if item.legacy:
            forms = [form for form in (item.short, *item.legacy) if form]
            default = item.convert(item.default) if item.default is not None else None
            settings: dict[Takes, dict[str, Any]] = {
                Takes.NOTHING: {"action": "store_true"},
                Takes.ONE: {"type": item.convert, "default": default},
                Takes.EACH: {"type": item.convert, "action": "append", "default": []},
                Takes.MANY: {"type": item.convert, "nargs": "*", "default": []},
            }
            parser.add_argument(*forms, dest=item.to, **settings[item.takes])
    parser.add_argument("channel_layer")
    return parser


LEGACY_WORDS = (
    "-p -p80 -p=80 --port --po=80 80 -e -etcp:1 -v2 --ws-protocol --ws=chat chat -- -1 - a:b --fd 0 --force-sync --fo --pr --root-path"
    " --root-path= -x --p --access-log = -t -t=1"
)


@pytest.mark.skipif(sys.version_info >= (3, 12), reason="argparse changes; its habits as of Python 3.11 are the last that daphne 1.4.2 has")
@given(st.lists(st.sampled_from([*LEGACY_WORDS.split(), "-a b", ""]), max_size=7))
def test_any_daphne_command_line_means_what_argparse_makes_of_it(argv: list[str]) -> None:
    """What argparse takes means the same here; what it refuses is refused, but for a ``--`` in places where argparse trips over it."""
    try:
        theirs: Any = vars(legacy_parser().parse_args(argv))
    except SystemExit:
        theirs = None
    try:
        ours: Any = read(argv, {})
    except UsageError:
        ours = None
    if theirs is not None:
        theirs = {name: tuple(value) if isinstance(value, list) else value for name, value in theirs.items()}
        if isinstance(ours, Command):
            ours = {name: ours.channel_layer if name == "channel_layer" else attrgetter(name)(ours.config) for name in theirs}
    elif "--" in argv:
        return
    assert ours == theirs


@pytest.mark.parametrize(
    ("argv", "expected"),
    [
        ("app:layer", {}),
        ("-- app:layer", {}),
        ("app:layer --", {}),
        ("-p 1 -- app:layer", {"listening.port": 1}),
        ("app:layer -p 1", {"listening.port": 1}),
        ("-p 1 -p 2 app:layer", {"listening.port": 2}),
        ("-e tcp:1 -e unix:/x -etcp:1 app:layer", {"endpoints": ("tcp:1", "unix:/x", "tcp:1")}),
        ("--websocket_timeout -1 app:layer", {"timeouts.websocket": -1}),
        ("--websocket_timeout=-1 app:layer", {"timeouts.websocket": -1}),
        ("--websocket_connect_timeout -1 app:layer", {"timeouts.websocket_connect": -1}),
        ("--root-path=-x app:layer", {"root_path": "-x"}),
        ("--root-path= app:layer", {}),
        ("--access-log - app:layer", {"logging.access_log": "-"}),
        ("--access-log=x=y app:layer", {"logging.access_log": "x=y"}),
        ("-b :: app:layer", {"listening.host": "::"}),
        ("-b [::1] app:layer", {"listening.host": "[::1]"}),
        ("-b= app:layer", {"listening.host": ""}),
        ("-v 3 app:layer", {"logging.verbosity": 3}),
        ("-v -1 app:layer", {"logging.verbosity": -1}),
        ("--fd=0 app:layer", {"listening.file_descriptor": 0}),
        ("-t 1_0 app:layer", {"timeouts.http": 10}),
        ("--ws-protocol chat -- app:layer", {"websockets.protocols": ("chat",)}),
        ("--ws-protocol chat -p 1 app:layer", {"websockets.protocols": ("chat",), "listening.port": 1}),
        ("--ws-protocol=chat app:layer", {"websockets.protocols": ("chat",)}),
        ("app:layer --ws-protocol a b", {"websockets.protocols": ("a", "b")}),
        ("--ws-protocol a --ws-protocol b c -- app:layer", {"websockets.protocols": ("b", "c")}),
        ("app:layer --ws-protocol", {}),
        ("--ws-protocol a -p 1 --ws-protocol -- app:layer", {"listening.port": 1}),
    ],
)
def test_habits(argv: str, expected: dict[str, Any]) -> None:
    assert given_values(argv.split()) == expected


def test_values_with_blanks() -> None:
    assert given_values(["--root-path", "-a b", LAYER]) == {"root_path": "-a b"}
    assert given_values(["-p", " 8 ", LAYER]) == {"listening.port": 8}


@pytest.mark.parametrize("layer", ["-", "-1", "-x", "--", "--port", "-a b", ""])
def test_channel_layer_of_any_look(layer: str) -> None:
    assert command("--", layer).channel_layer == layer


@pytest.mark.parametrize(
    ("argv", "message"),
    [
        ("", "the following arguments are required: channel_layer"),
        ("-p 80", "the following arguments are required: channel_layer"),
        ("--ws-protocol chat app:layer", "the following arguments are required: channel_layer"),
        ("app:layer more", "unrecognized arguments: more"),
        ("--ws-protocol=chat more app:layer", "unrecognized arguments: app:layer"),
        ("-1 app:layer", "unrecognized arguments: app:layer"),
        ("app:layer -- -x", "unrecognized arguments: -x"),
        ("-x app:layer", "unrecognized arguments: -x"),
        ("--bogus=1 app:layer", "unrecognized arguments: --bogus=1"),
        ("-p", "argument -p/--port: expected one argument"),
        ("-p -- 80 app:layer", "argument -p/--port: expected one argument"),
        ("-b --bogus app:layer", "argument -b/--bind: expected one argument"),
        ("--root-path -x app:layer", "argument --root-path: expected one argument"),
        ("--proxy-headers=1 app:layer", "argument --proxy-headers: ignored explicit argument '1'"),
        ("-hx", "argument -h/--help: ignored explicit argument 'x'"),
        ("-p x app:layer", "argument -p/--port: must be a number from 0 to 65535, not 'x'"),
        ("-p 65536 app:layer", "argument -p/--port: must be a number from 0 to 65535, not '65536'"),
        ("-p= app:layer", "argument -p/--port: must be a number from 0 to 65535, not ''"),
        ("--fd -1 app:layer", "argument --fd: must be a number of at least 0, not '-1'"),
        ("-v loud app:layer", "argument -v/--verbosity: must be a number, not 'loud'"),
        ("-t 0 app:layer", "argument -t/--http-timeout: must be a number of seconds above 0, not '0'"),
        ("-t nan app:layer", "argument -t/--http-timeout: must be a number of seconds above 0, not 'nan'"),
        ("--ping-interval -1 app:layer", "argument --ping-interval: must be a number of seconds, 0 or more, not '-1'"),
        ("--websocket_timeout inf app:layer", "argument --websocket_timeout: must be a number of seconds, not 'inf'"),
        (
            "--limit-request-body 1T app:layer",
            "argument --limit-request-body: must be a number of bytes, such as 65536, 64K, 1M or 2G, not '1T'",
        ),
        ("--limit-request-line 0 app:layer", "argument --limit-request-line: must be at least 1 byte, not '0'"),
        ("--proxy-protocol=3 app:layer", "argument --proxy-protocol: must be off, v1, v2 or auto, not '3'"),
        (
            "--proxy-allow-from=proxy app:layer",
            (
                "argument --proxy-allow-from: must be addresses, networks such as 10.0.0.0/8, unix or *, separated by commas "
                "('proxy' is none of these), not 'proxy'"
            ),
        ),
        ("--backlog 0 app:layer", "argument --backlog: must be a number from 1 to 2147483647, not '0'"),
        ("--server-name= app:layer", "argument -s/--server-name: must be printable ASCII characters, not ''"),
    ],
)
def test_refused(argv: str, message: str) -> None:
    with pytest.raises(UsageError) as caught:
        read(argv.split(), {})
    assert str(caught.value) == message


# --- New options ---


@pytest.mark.parametrize(
    ("argv", "expected"),
    [
        ("--inline-workers 4", {"channels.inline_workers": 4}),
        ("--limit-request-body 10M", {"limits.request_body": 10 * 1024**2}),
        ("--limit-request-line=100", {"limits.request_line": 100}),
        ("--limit-request-fields 10", {"limits.request_fields": 10}),
        ("--limit-request-field-size 1k", {"limits.request_field_size": 1024}),
        ("--limit-inline-body 0", {"limits.inline_body": 0}),
        ("--limit-connections 10", {"limits.connections": 10}),
        ("--stream-request-body", {"channels.stream_request_body": True}),
        ("--keep-alive-timeout 0", {"timeouts.keep_alive": 0}),
        ("--header-timeout 0.5", {"timeouts.header": 0.5}),
        ("--body-timeout 5", {"timeouts.body": 5}),
        ("--send-timeout 5", {"timeouts.send": 5}),
        ("--graceful-timeout 0", {"timeouts.graceful": 0}),
        ("--server-name greendaphne", {"server_name": "greendaphne"}),
        ("--websocket-max-message-size 2M", {"limits.websocket_message": 2 * 1024**2}),
        ("--websocket-max-frame-size 64K", {"limits.websocket_frame": 64 * 1024}),
        ("--websocket-compression", {"websockets.compression": True}),
        ("--backlog 5 --reuse-port", {"listening.backlog": 5, "listening.reuse_port": True}),
        ("--proxy-protocol v2", {"listening.proxy_protocol": "v2"}),
        ("--proxy-allow-from 10.0.0.0/8,unix", {"proxies.allow_from": AddressList("10.0.0.0/8,unix")}),
        # Abbreviations of theirs alone.
        ("--kee 5", {"timeouts.keep_alive": 5}),
        ("--he=5", None),
        ("--header 5", {"timeouts.header": 5}),
        ("--websocket-com", {"websockets.compression": True}),
        ("--websocket-con 3", {"timeouts.websocket_connect": 3}),
    ],
)
def test_new_options(argv: str, expected: dict[str, Any] | None) -> None:
    words = [*argv.split(), LAYER]
    if expected is None:
        with pytest.raises(UsageError, match="argument -h/--help: ignored explicit argument"):
            read(words, {})
    else:
        assert given_values(words) == expected


def test_limits_and_timeouts() -> None:
    assert configured().limits == Limits()
    assert configured().timeouts == Timeouts()
    argv = (
        "--limit-request-body 1 --limit-request-line 2 --limit-request-fields 3 --limit-request-field-size 4 --limit-inline-body 5"
        " --limit-connections 6 --websocket-max-message-size 7 --websocket-max-frame-size 8"
    )
    assert configured(*argv.split()).limits == Limits(
        request_body=1,
        request_line=2,
        request_fields=3,
        request_field_size=4,
        inline_body=5,
        connections=6,
        websocket_message=7,
        websocket_frame=8,
    )
    argv = "--keep-alive-timeout 1 --header-timeout 2 --body-timeout 3 --send-timeout 4 --graceful-timeout 5"
    argv += " --websocket-message-timeout 6"
    assert configured(*argv.split()).timeouts == Timeouts(keep_alive=1, header=2, body=3, send=4, graceful=5, websocket_message=6)


@pytest.mark.parametrize(("text", "number"), [("0", 0), ("1", 1), ("1K", 1024), ("1k", 1024), ("3M", 3 * 1024**2), ("2g", 2 * 1024**3)])
def test_sizes(text: str, number: int) -> None:
    assert values.size(text) == number
    assert values.size(values.size_text(number)) == number


@pytest.mark.parametrize("text", ["", "K", "-1", "-1K", "1.5M", "1KB", "0x10", "K1"])
def test_sizes_refused(text: str) -> None:
    with pytest.raises(ValueError, match="must be a number of bytes"):
        values.size(text)


# --- Help and version ---


@pytest.mark.parametrize("word", ["-h", "--help", "--he", "--hel"])
@pytest.mark.parametrize("argv", [[], [LAYER], ["--force-sync"]])
def test_help_asked_for(word: str, argv: list[str]) -> None:
    assert read([*argv, word], {}) is (SHORT_HELP if word == "-h" else HELP)


@pytest.mark.parametrize("word", ["--version", "--vers", "--versi"])
def test_version_asked_for(word: str) -> None:
    assert read([word], {}) is VERSION


def test_help_text_is_the_grammar_of_the_table() -> None:
    described = {option.longer: option for option in docopt.parse_options(docopt.parse_docstring_sections(help_text()).after_usage)}
    assert set(described) == {item.name for item in (HELP, VERSION, *OPTIONS)}
    for item in OPTIONS:
        option = described[item.name]
        assert (option.short, option.argcount) == (item.short or None, int(item.takes is not Takes.NOTHING))
        if option.argcount:
            assert option.value == (item.default or None)


def test_help_text_fits_a_terminal_and_ends_in_full_stops() -> None:
    assert max(map(len, help_text().splitlines())) <= 80
    for width in (80, 100, 120):
        assert max(map(len, help_text(width=width).splitlines())) <= width
    short = short_help().splitlines()
    assert len(short) <= 40
    assert max(map(len, short)) <= 80
    for item in OPTIONS:
        assert item.help.endswith("."), item.name
        assert item.help[0].isupper() or item.help[0].isdigit(), item.name


def test_no_short_or_long_form_is_used_twice() -> None:
    forms = [form for item in (HELP, VERSION, *OPTIONS) for form in (*item.names, item.short) if form]
    assert len(forms) == len(set(forms))


def test_documentation_has_every_option() -> None:
    documented = (CHECKOUT / "docs" / "command-line.rst").read_text(encoding="utf-8")
    for item in (HELP, VERSION, *OPTIONS):
        for form in (*item.names, item.short):
            assert f"``{form}" in documented, form


# --- Where to listen ---


@pytest.mark.parametrize(
    ("argv", "expected"),
    [
        ("", ["tcp:port=8000:interface=127.0.0.1"]),
        ("-p 123", ["tcp:port=123:interface=127.0.0.1"]),
        ("-p 0", ["tcp:port=0:interface=127.0.0.1"]),
        ("-b 10.0.0.1", ["tcp:port=8000:interface=10.0.0.1"]),
        ("-b= ", ["tcp:port=8000:interface=127.0.0.1"]),
        ("-b 200a::1", [r"tcp:port=8000:interface=200a\:\:1"]),
        ("-b [200a::1]", [r"tcp:port=8000:interface=200a\:\:1"]),
        ("-p 8080 -b example.com", ["tcp:port=8080:interface=example.com"]),
        ("-p 8080 -u /tmp/d.sock", ["tcp:port=8080:interface=127.0.0.1", "unix:/tmp/d.sock"]),
        ("-b example.com -u /tmp/d.sock", ["tcp:port=8000:interface=example.com", "unix:/tmp/d.sock"]),
        ("-u /tmp/d.sock --fd 5", ["fd:fileno=5", "unix:/tmp/d.sock"]),
        ("-u /tmp/d.sock", ["unix:/tmp/d.sock"]),
        ("--fd 5", ["fd:fileno=5"]),
        ("--fd 0", ["fd:fileno=0"]),
        ("-e unix:/tmp/d.sock", ["unix:/tmp/d.sock"]),
        ("-p 8080 -e unix:/tmp/d.sock", ["tcp:port=8080:interface=127.0.0.1", "unix:/tmp/d.sock"]),
        ("-p 8080 -e tcp:port=8080:interface=127.0.0.1", ["tcp:port=8080:interface=127.0.0.1"] * 2),
        ("-e unix:/z -e tcp:1 -e fd:3", ["fd:3", "tcp:1", "unix:/z"]),
        ("-e imap:", ["imap:"]),
    ],
)
def test_endpoint_descriptions(argv: str, expected: list[str]) -> None:
    assert command_descriptions(configured(*argv.split())) == expected


# --- The application ---


class Application:
    """A directory to run the command in, with a package ``project``."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.write("__init__.py", "")

    def write(self, name: str, text: str) -> None:
        file = self.path / "project" / name
        file.parent.mkdir(exist_ok=True)
        file.write_text(text, encoding="utf-8")

    def environment(self) -> dict[str, str]:
        """The command's: warnings are errors, and the package is the one under test."""
        return os.environ | {"PYTHONPATH": str(CHECKOUT), "PYTHONWARNINGS": "error", "PYTHONDONTWRITEBYTECODE": "1"}

    def run(self, *argv: str) -> subprocess.CompletedProcess[str]:
        """Run the command, which is expected to end by itself."""
        command = [sys.executable, "-m", "greendaphne", *argv]
        return subprocess.run(
            command,
            cwd=self.path,
            env=self.environment(),
            capture_output=True,
            text=True,
            timeout=60,
            check=False,
            stdin=subprocess.DEVNULL,
        )


@pytest.fixture
def application(tmp_path: Path) -> Application:
    return Application(tmp_path)


LOG_LINE = re.compile(r"\d{4}-\d\d-\d\d \d\d:\d\d:\d\d,\d{3} ERROR    (.*)\n")


def logged_error(result: subprocess.CompletedProcess[str]) -> str:
    """The one line that a process printed before it ended with 1."""
    assert result.returncode == 1
    assert result.stdout == ""
    match = LOG_LINE.fullmatch(result.stderr)
    assert match is not None, result.stderr
    return match[1]


@pytest.mark.parametrize(
    ("place", "message"),
    [
        ("project", "Cannot find the application project: the module has neither application nor app; write project:NAME."),
        ("", "The application '' is not written module.path:attribute.path."),
        (":layer", "The application ':layer' is not written module.path:attribute.path."),
        ("project:", "The application 'project:' is not written module.path:attribute.path."),
        ("project:a..b", "The application 'project:a..b' is not written module.path:attribute.path."),
        (".project:layer", "The application '.project:layer' is not written module.path:attribute.path."),
        ("missing:layer", "Cannot import the application missing:layer: No module named 'missing'."),
        ("missing.asgi:layer", "Cannot import the application missing.asgi:layer: No module named 'missing'."),
        ("project.asgi:layer", "Cannot import the application project.asgi:layer: No module named 'project.asgi'."),
        (
            "project.plain.x:y",
            "Cannot import the application project.plain.x:y: No module named 'project.plain.x'; 'project.plain' is not a package.",
        ),
        ("project.plain:layer", "Cannot find the application project.plain:layer: module 'project.plain' has no attribute 'layer'."),
        ("project.plain:view.x", "Cannot find the application project.plain:view.x: 'function' object has no attribute 'x'."),
        ("project.plain:view", "project.plain:view takes no arguments: say --factory if it makes the application."),
        ("project.plain:four", "project.plain:four does not tell what interface it has: say --interface=channels|asgi3|asgi2|wsgi."),
        (
            "project.plain:number",
            "project.plain:number is not an application: it is of type int, neither callable nor a channel layer with send().",
        ),
    ],
)
def test_application_that_is_not_there(application: Application, place: str, message: str) -> None:
    application.write("plain.py", "number = 1\ndef view(): pass\ndef four(a, b, c, d): pass\n")
    assert logged_error(application.run("-p", "0", "--", place)) == message


@pytest.mark.parametrize(
    ("source", "last_line"),
    [
        ("1 / 0\n", "ZeroDivisionError: division by zero"),
        ("import missing\n", "ModuleNotFoundError: No module named 'missing'"),
        ("import project.missing\n", "ModuleNotFoundError: No module named 'project.missing'"),
        ("def f(\n", "SyntaxError: '(' was never closed"),
        ("raise RuntimeError('settings')\n", "RuntimeError: settings"),
    ],
)
def test_application_that_cannot_be_imported_shows_its_traceback(application: Application, source: str, last_line: str) -> None:
    application.write("asgi.py", source)
    result = application.run("-p", "0", "project.asgi:layer")
    assert result.returncode == 1
    lines = result.stderr.splitlines()
    assert lines[0].endswith(" ERROR    Cannot import the application project.asgi:layer:")
    if not last_line.startswith("SyntaxError"):
        assert lines[1] == "Traceback (most recent call last):"
    assert lines[-1] == last_line
    # The traceback is the application's own.
    assert "greendaphne" not in result.stderr
    assert "importlib" not in result.stderr


def test_application_that_exits_is_taken_at_its_word(application: Application) -> None:
    application.write("asgi.py", "raise SystemExit(7)\n")
    assert application.run("project.asgi:layer").returncode == 7


def test_current_directory_comes_first_and_the_process_is_patched(application: Application) -> None:
    application.write(
        "asgi.py",
        "import sys\n"
        "from gevent import monkey\n"
        "print(sys.path[0], *[monkey.is_module_patched(name) for name in ('socket', 'ssl', 'threading', 'time', 'select', 'subprocess')])\n"
        "from daphne.server import Server\n"
        "print(Server.__module__)\n"
        "raise SystemExit(0)\n",
    )
    result = application.run("project.asgi:layer")
    assert (result.returncode, result.stderr) == (0, "")
    assert result.stdout == ". True True True True True True\ngreendaphne.server\n"


def test_a_class_is_no_channel_layer(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "path", [*sys.path])
    with pytest.raises(ConfigurationError, match="is a class, not a channel layer made with it"):
        detect(load("asgiref.inmemory:ChannelLayer"))


def test_channel_layer_is_said_and_is_none(application: Application) -> None:
    application.write("plain.py", "def view(a, b): pass\n")
    result = application.run("-p", "0", "--interface=channels", "project.plain:view")
    assert logged_error(result) == "project.plain:view is not a channel layer: it is of type function and has no send()."


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--wsgi", "--asgi"], "--wsgi and --asgi contradict each other."),
        (["--wsgi", "--interface=asgi3"], "--interface=asgi3 and --wsgi contradict each other."),
        (["--patch", "--no-patch"], "--patch and --no-patch contradict each other."),
        (["--inline-workers=2"], "--inline-workers is for channel layers, and the application is wsgi."),
        (["--force-sync"], "--force-sync is for channel layers, and the application is wsgi."),
        (["--reply-channels=2"], "--reply-channels is for channel layers, and the application is wsgi."),
        (["--on-layer-loss=keep"], "--on-layer-loss is for channel layers, and the application is wsgi."),
        (["--factory"], "The factory project.plain has failed:"),
    ],
)
def test_options_that_do_not_fit(application: Application, options: list[str], message: str) -> None:
    application.write("__init__.py", "")
    application.write("plain.py", "def application(a, b): pass\n")
    result = application.run("-p", "0", *options, "project.plain")
    assert result.returncode == 1
    assert result.stderr.splitlines()[0].endswith(f" ERROR    {message}")


def test_module_alone_and_the_directory_of_modules(application: Application) -> None:
    (application.path / "site.d").mkdir()
    (application.path / "site.d" / "web.py").write_text("app = lambda environ, start_response: []\n", encoding="utf-8")
    result = application.run("--check-config", "-p", "0", "--app-dir", "site.d", "web")
    assert result.returncode == 0, result.stderr


def test_nested_attributes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "path", [*sys.path])
    monkeypatch.chdir(tmp_path)
    (tmp_path / "nested_layer.py").write_text("class Layer:\n    send = print\n\nclass a:\n    b = Layer()\n", encoding="utf-8")
    try:
        assert load("nested_layer:a.b").send is print
        assert sys.path[0] == "."
    finally:
        del sys.modules["nested_layer"]


# --- The command ---


def test_nothing_that_must_be_patched_is_imported_before() -> None:
    script = (
        "import sys, greendaphne.cli; print(sorted({'logging', 'select', 'socket', 'ssl', 'subprocess', 'threading'} & set(sys.modules)))"
    )
    result = subprocess.run([sys.executable, "-S", "-c", SITE + script], capture_output=True, text=True, cwd=CHECKOUT, check=True)
    assert result.stdout == "[]\n"


#: With -S site-packages must be named: the test environment's own start-up files import what they like.
SITE = f"import sys; sys.path += {[path for path in sys.path if path.endswith('-packages')]!r}; "


def test_usage_errors_are_one_line_and_exit_2(application: Application) -> None:
    result = application.run("-p", "x", LAYER)
    assert (result.returncode, result.stdout) == (2, "")
    expected = "greendaphne: error: argument -p/--port: must be a number from 0 to 65535, not 'x' (greendaphne --help shows all options)\n"
    assert result.stderr == expected


@pytest.mark.parametrize("command", [[sys.executable, "-m", "greendaphne"], [str(CHECKOUT / "bin" / "greendaphne")]], ids=["module", "bin"])
def test_help_and_version(command: list[str], tmp_path: Path) -> None:
    # bin/greendaphne is for the environment that make has made, or else for the python3 that is found first: this one.
    path = os.pathsep.join([str(Path(sys.executable).parent), os.environ["PATH"]])
    environment = os.environ | {"PYTHONPATH": str(CHECKOUT), "PATH": path}
    for argument, expected in [("--help", help_text()), ("--version", f"greendaphne {greendaphne.__version__}")]:
        result = subprocess.run([*command, argument], capture_output=True, text=True, env=environment, cwd=tmp_path, check=True)
        assert (result.stdout, result.stderr) == (expected + "\n", "")


def test_main_in_this_process(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--version"]) == 0
    assert capsys.readouterr().out == f"greendaphne {greendaphne.__version__}\n"
    assert main([]) == 2
    assert capsys.readouterr().err.startswith("greendaphne: error: the following arguments are required: channel_layer")


def test_access_log_failure_of_the_command(application: Application) -> None:
    result = application.run("--access-log", "/nowhere/at/all", LAYER)
    assert logged_error(result) == "Cannot open the access log /nowhere/at/all: No such file or directory."


# --- Serving ---

ASGI = """
from greendaphne.layers.memory import MemoryChannelLayer


def hello(message):
    message.reply({"status": 200, "headers": [(b"content-length", b"5")], "content": b"hello"})


channel_layer = MemoryChannelLayer()
channel_layer.routes = {"http.request": hello}
idle_layer = MemoryChannelLayer()
"""

HELLO = b"GET /a?b=c HTTP/1.1\r\nHost: example.com\r\nConnection: close\r\n\r\n"
ACCESS_LINE = re.compile(r'(?:127\.0\.0\.1:\d+|None) - - \[\d\d/\w{3}/\d{4}:\d\d:\d\d:\d\d\] "GET /a\?b=c" 200 5\n')


def log_lines(text: str) -> list[str]:
    """Level and message of every line, each checked to be in daphne's format."""
    matches = [re.fullmatch(r"\d{4}-\d\d-\d\d \d\d:\d\d:\d\d,\d{3} (\w+ +.*)", line) for line in text.splitlines()]
    return [match[1] if match is not None else "not a log line" for match in matches]


class Served:
    """A command that serves until it is told to stop."""

    def __init__(self, application: Application, *argv: str, pass_fds: Sequence[int] = ()) -> None:
        application.write("asgi.py", ASGI)
        self.process = subprocess.Popen(
            [sys.executable, "-m", "greendaphne", *argv],
            cwd=application.path,
            env=application.environment(),
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            pass_fds=pass_fds,
        )

    def __enter__(self) -> Served:
        return self

    def __exit__(self, *details: object) -> None:
        if self.process.poll() is None:
            self.process.kill()
        self.process.communicate(timeout=30)

    def wait_for(self, message: str) -> list[str]:
        """Read the log up to the line with ``message``; returns the lines."""
        assert self.process.stderr is not None
        lines: list[str] = []
        while not lines or message not in lines[-1]:
            line = self.process.stderr.readline()
            assert line, lines
            lines.append(line)
        return lines

    def stop(self, number: int = signal.SIGTERM) -> tuple[int, str, str]:
        """Signal it; returns its exit code and what is left of its output."""
        self.process.send_signal(number)
        stdout, stderr = self.process.communicate(timeout=30)
        return self.process.returncode, stdout, stderr


def exchange(family: int, address: Any) -> bytes:
    with socket.socket(family) as client:
        client.settimeout(30)
        client.connect(address)
        client.sendall(HELLO)
        response = b""
        while data := client.recv(65536):
            response += data
        return response


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_serving_on_a_descriptor(application: Application, number: int) -> None:
    with socket.create_server(("127.0.0.1", 0)) as listening:
        argv = ["--fd", str(listening.fileno()), "--inline-workers", "1", "project.asgi:channel_layer"]
        with Served(application, *argv, pass_fds=[listening.fileno()]) as served:
            response = exchange(socket.AF_INET, listening.getsockname())
            assert response.startswith(b"HTTP/1.1 200 OK\r\n")
            assert response.endswith(b"\r\n\r\nhello")
            code, stdout, stderr = served.stop(number)
    assert code == 0
    assert ACCESS_LINE.fullmatch(stdout), stdout
    lines = log_lines(stderr)
    assert lines[0] == f"INFO     Starting server at fd:fileno={argv[1]}, channel layer project.asgi:channel_layer."
    assert f"INFO     Listening on endpoint fd:fileno={argv[1]}" in lines
    assert "not a log line" not in lines


def test_serving_on_a_unix_socket(application: Application) -> None:
    path = str(application.path / "x")
    with Served(application, "-u", path, "--inline-workers=1", "--server-name=me", "project.asgi:channel_layer") as served:
        served.wait_for("Listening on channels http.request")
        response = exchange(socket.AF_UNIX, path)
        assert b"\r\nServer: me\r\n" in response
        code, stdout, _ = served.stop()
    assert code == 0
    assert ACCESS_LINE.fullmatch(stdout), stdout
    assert not os.path.exists(path)


def test_quiet_serving(application: Application) -> None:
    with socket.create_server(("127.0.0.1", 0)) as listening:
        argv = ["-v0", "--fd", str(listening.fileno()), "--inline-workers", "1", "project.asgi:channel_layer"]
        with Served(application, *argv, pass_fds=[listening.fileno()]) as served:
            assert exchange(socket.AF_INET, listening.getsockname()).startswith(b"HTTP/1.1 200 OK\r\n")
            assert served.stop() == (0, "", "")


def test_verbosity_above_2_is_2(application: Application) -> None:
    with socket.create_server(("127.0.0.1", 0)) as listening:
        argv = ["-v7", "--fd", str(listening.fileno()), "--inline-workers", "1", "project.asgi:channel_layer"]
        with Served(application, *argv, pass_fds=[listening.fileno()]) as served:
            assert exchange(socket.AF_INET, listening.getsockname()).startswith(b"HTTP/1.1 200 OK\r\n")
            _, _, stderr = served.stop()
    assert any(line.startswith("DEBUG    HTTP b'GET' request for ") for line in log_lines(stderr))


def test_bind_failure_ends_the_command(application: Application) -> None:
    application.write("asgi.py", ASGI)
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        result = application.run("-p", str(port), "-u", str(application.path / "x"), "project.asgi:channel_layer")
    assert result.returncode == 1
    reason = "[Errno 98] Address already in use; another program listens there."
    assert log_lines(result.stderr)[-1] == f"ERROR    Couldn't listen on 127.0.0.1:{port}: {reason}"
    assert "not a log line" not in log_lines(result.stderr)
    assert not os.path.exists(application.path / "x")


@pytest.mark.parametrize(
    ("argv", "message"),
    [
        (["-e", "imap:"], "Unknown endpoint kind 'imap' in 'imap:'; known kinds: "),
        (["--fd", "99"], "Couldn't listen on fd 99: it is not open."),
        (["-p", "0", "--inline-workers", "1"], "No consumers for inline workers: "),
    ],
)
def test_configuration_failures_are_one_line(application: Application, argv: list[str], message: str) -> None:
    application.write("asgi.py", ASGI)
    result = application.run("-v0", *argv, "project.asgi:idle_layer")
    assert logged_error(result).startswith(message)


@pytest.mark.parametrize(
    ("arguments", "line"),
    [
        (["--http2-max-frame-size", "1K"], "--http2-max-frame-size must be between 16384 and 16777215, not 1024."),
        (["--keyfile", "k"], "--keyfile needs --certfile, the certificate that it belongs to."),
        (["--tls-verify", "require"], "Client certificates cannot be verified (require) without a file of authorities (--tls-client-ca)."),
        (["--health-path=/x", "--metrics-path=/x"], "/x cannot answer both health checks and Prometheus."),
        (["--metrics=tcp:0", "--metrics-path=/health"], "/health cannot answer both health checks and Prometheus."),
    ],
)
def test_contradictory_options(arguments: list[str], line: str) -> None:
    config = configured(*arguments)

    def check() -> None:
        check_options(config)
        with_tls([], config.tls)
        http2_limits(config)

    with pytest.raises(ConfigurationError) as error:
        check()
    assert spelled(error.value) == line


def test_a_value_that_a_protocol_rules_out_ends_the_command_with_1(application: Application) -> None:
    application.write("asgi.py", ASGI)
    result = application.run("-v0", "-p", "0", "--http2-max-frame-size", "1K", "project.asgi:channel_layer")
    assert logged_error(result) == "--http2-max-frame-size must be between 16384 and 16777215, not 1024."


@pytest.mark.parametrize(
    ("before", "after"),
    [((700, 10, 10), (2000, 10, 10)), ((2000, 10, 0), (2000, 10, 0)), ((5000, 5, 5), (5000, 5, 5)), ((0, 10, 10), (0, 10, 10))],
)
def test_the_garbage_collector_waits_for_more_objects(before: tuple[int, int, int], after: tuple[int, int, int]) -> None:
    """Unless it is switched off, or waits for as many already."""
    usual = gc.get_threshold()
    try:
        gc.set_threshold(*before)
        collect_less_often()
        assert gc.get_threshold() == after
    finally:
        gc.set_threshold(*usual)
