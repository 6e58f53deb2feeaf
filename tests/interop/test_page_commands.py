"""Each command of each page is run by a test, or stands here with the reason why not; each ``greendaphne`` command has valid options."""

from __future__ import annotations

import os
import re
import shlex
from functools import cache
from importlib.util import find_spec
from pathlib import Path

import pytest

from greendaphne.settings.arguments import Command, read
from greendaphne.settings.option import UsageError
from tests.support.pages import ROOT, commands

PAGES = sorted(
    path
    for pattern in ("*.rst", "benchmarks/README.rst", "tests/README.rst", "docs/**/*.rst", "examples/*/README.rst")
    for path in ROOT.glob(pattern)
)
#: The first words of commands; other lines in literal blocks are output, configuration or Python.
PROGRAM = re.compile(
    r"apt-get|cd|circusctl|circusd|cp|curl|docker|echo|export|greendaphne|install|jq|journalctl|kill|ln|make|man|mkdir|openssl|pebble|pip|podman"
    r"|promtool|python|python3(\.\d+)?|redis-server|runuser|sed|set|supervisorctl|supervisord|systemctl|systemd-\w[\w-]*|touch|umask|useradd|\."
)
#: Parts of pages whose commands are run in order: the beginnings of the first and of the last command, and the test.
RUN = {
    "README.rst": [("greendaphne hello_wsgi", "greendaphne -p 8443 --tls-dev hello_wsgi", "test_pages.py")],
    "docs/command-line.rst": [
        ("python -m greendaphne.settings.man", "python -m greendaphne.settings.completions fish", "test_completions.py")
    ],
    "docs/configuration.rst": [("python -m greendaphne.settings.sample", "greendaphne --config greendaphne.toml --check", "test_pages.py")],
    "docs/deployment.rst": [("apt-get install", "/srv/mysite/venv/bin/supervisorctl", "test_pages.py")],
    "docs/design/adding.rst": [
        ("python -m greendaphne.settings.sample", "python -m greendaphne.settings.sample", "tests/settings/test_configuration.py")
    ],
    "docs/library.rst": [("cd examples/chat", "DJANGO_SETTINGS_MODULE", "tests/public/test_pytest_plugin.py")],
    "docs/monitoring.rst": [("pip install", "greendaphne --health-path", "test_pages.py")],
    "docs/operations.rst": [("apt-get install", "runuser", "test_pages.py")],
    "docs/proxies.rst": [("greendaphne -b 127.0.0.1", "curl -s -o /dev/null -H 'X-Forwarded-For: 192.0.2.1", "test_pages.py")],
    "docs/tls.rst": [
        ("(umask 077", "curl --cacert fullchain.pem", "test_pages.py"),
        ("openssl req -x509 -newkey rsa", "curl --cacert pebble.pem", "test_pages.py"),
    ],
    "docs/tutorials/asgi.rst": [("mkdir", "curl -s http://127.0.0.1:8000/live/", "tests/modern/test_tutorials.py")],
    "docs/tutorials/channels1.rst": [("mkdir", "greendaphne mysite.asgi:channel_layer", "test_pages.py")],
    "docs/tutorials/wsgi.rst": [("mkdir", "curl -s http://127.0.0.1:8000/health", "tests/modern/test_tutorials.py")],
    "examples/chat/README.rst": [("pip install", "greendaphne --inline-workers", "test_pages.py")],
    "examples/redis/README.rst": [("apt-get install", "runuser", "test_pages.py")],
}
#: Commands that no test runs as they are written, by the reason.
NOT_RUN = {
    "the application, its environment and its files are the reader's; the options are checked below": (
        r"(GREEND\S+ )*greendaphne .*\b(project|app|chat|site5|mysite)\b.*|(GREEND\S+ )*greendaphne .*(\.toml|…)|GREEND.* greendaphne"
        r"|old/.*|new/.*|python3\.\d+ -m venv (old|new)|greendaphne \[options\].*"
    ),
    "needs a systemd that runs; tests/interop/test_systemd.py runs the units by hand": (
        r"systemctl .*|journalctl .*|systemd-socket-activate .*|ExecStart.*"
    ),
    "needs the network": r"(\S+/)?pip install .*|apt-get .*|podman .*|docker .*|curl .*(www\.)?example\.com.*",
    "needs a public host name; the same is tried with pebble": (
        r".*greendaphne -e le:.*|python -m greendaphne\.acme .*|mkdir .*/srv/certs|touch /srv/certs.*"
    ),
    "takes long, or does not end by itself": r"make .*|python -m benchmarks.*",
    "a program that Debian's package prometheus has": r"promtool .*|curl .* \| promtool .*",
    "asks a server that the reader has": r"python manage\.py .*|(\$ )?curl .*(haproxy-protocol|--max-time|-si http).*|jq .*",
    "makes an environment for the reader": r"python3 -m venv .env|\. \.env/bin/activate",
    "after systemd has started the site; tests/soak does the same to masters": (
        r"curl http://127\.0\.0\.1:\S+|cp -r /srv/mysite/releases/1 .*|sed -i 's/release 1.*|ln -sfn releases/.*"
        r"|cd /srv/mysite/current|runuser .*"
    ),
    "tests/interop/test_redis_deployment.py runs these files, with other numbers": (
        r"python examples/redis/run\.py|kill -9 NUMBER|circusd circus\.ini|circusctl .*endpoint .*|export CHAT_LAYER.*|\(cd \.\./chat .*"
    ),
}


#: Examples that say how the server is started beside them, and sentences with commands.
EXAMPLES = sorted(path for path in (ROOT / "examples").glob("**/*") if path.suffix in ("", ".cfg", ".conf") and path.is_file())
_COMMENT = re.compile(r"^# {5}(greendaphne .*)$", re.MULTILINE)


def name(page: object) -> str:
    return page.relative_to(ROOT).as_posix() if isinstance(page, Path) else str(page)


@cache
def lines_of(page: Path) -> tuple[str, ...]:
    return tuple(commands(page.read_text(encoding="utf-8")))


def given(page: Path) -> list[str]:
    """The commands of ``page`` alone."""
    found = []
    for line in lines_of(page):
        words = line.removeprefix("$ ").lstrip("(").split()
        while words and re.fullmatch(r"[A-Z_]+=\S*", words[0]):
            del words[0]
        if words and PROGRAM.fullmatch(words[0].rpartition("/")[2]) and not line.startswith(("greendaphne: error:", "- ")):
            found.append(line)
    return found


def run(page: Path) -> set[str]:
    """Those of its commands that a test runs."""
    lines = lines_of(page)
    found: set[str] = set()
    for first, last, _ in RUN.get(name(page), []):
        start = next((index for index, line in enumerate(lines) if line.startswith(first)), None)
        assert start is not None, first
        end = next((index for index, line in enumerate(lines) if index >= start and line.startswith(last)), None)
        assert end is not None, last
        found |= set(lines[start : end + 1])
    return found


@pytest.mark.parametrize("page", PAGES, ids=name)
def test_a_command_is_run_or_has_a_reason(page: Path) -> None:
    rest = [line for line in given(page) if line not in run(page)]
    assert [line for line in rest if not any(re.fullmatch(pattern, line, re.DOTALL) for pattern in NOT_RUN.values())] == []


def test_a_reason_is_needed() -> None:
    rest = [line for page in PAGES for line in given(page) if line not in run(page)]
    assert [reason for reason, pattern in NOT_RUN.items() if not any(re.fullmatch(pattern, line, re.DOTALL) for line in rest)] == []


def calls(page: Path) -> list[tuple[dict[str, str], list[str]]]:
    """The ``greendaphne`` commands of ``page``: variables and arguments."""
    found = []
    for line in given(page):
        words = shlex.split(line, comments=True)
        variables = {}
        while words and (match := re.fullmatch(r"([A-Z_]+)=(.*)", words[0])):
            variables[match[1]] = match[2]
            del words[0]
        if words and words[0].rpartition("/")[2] == "greendaphne" and "[options]" not in words:
            found.append((variables, [word for word in words[1:] if word != "&"]))
    return found


@pytest.mark.parametrize("page", PAGES, ids=name)
def test_a_command_has_valid_options(page: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    for file in ("site.pem", "password"):
        (tmp_path / file).write_text("secret\n")
    (tmp_path / "greendaphne.toml").write_text('channel-layer = "project.asgi:channel_layer"\n')
    for variables, arguments in calls(page):
        if any(argument.endswith(".toml") and argument != "greendaphne.toml" for argument in arguments):
            # The configuration of the site is checked where the page is run.
            continue
        if "…" in arguments:
            arguments[arguments.index("…")] = "project.asgi:channel_layer"
        environment = {key: value for key, value in os.environ.items() if not key.startswith("GREENDAPHNE_")}
        assert isinstance(read(arguments, {**environment, **variables}), Command), (name(page), arguments)


@pytest.mark.parametrize("example", EXAMPLES, ids=name)
def test_a_command_in_a_comment_has_valid_options(example: Path) -> None:
    text = example.read_text(encoding="utf-8").replace("\\\n#", "")
    for line in _COMMENT.findall(text):
        assert isinstance(read(shlex.split(line)[1:], {}), Command), line


def sentences(page: Path) -> list[str]:
    """What stands as a command in sentences and tables of ``page``."""
    return [" ".join(literal.split()) for literal in re.findall(r"``([^`]+?)``", page.read_text(encoding="utf-8"))]


def can_be_given(command: str) -> bool:
    """Whether the target of the Makefile, the module, the file or the options of ``command`` exist; true for any other text."""
    if re.match(r"make [a-z]", command):
        targets = re.findall(r"^([\w.-]+):", (ROOT / "Makefile").read_text(encoding="utf-8"), re.MULTILINE)
        return {word for word in shlex.split(command, comments=True)[1:] if "=" not in word} <= {*targets}
    if module := re.match(r"python -m ((?:greendaphne|benchmarks|tests)[\w.]*)", command):
        return find_spec(module[1]) is not None
    if file := re.match(r"python ((?:benchmarks|examples)/\S+)", command):
        return (ROOT / file[1]).is_file()
    if re.match(r"greendaphne -", command) and "…" not in command and "--help" not in command:
        arguments = shlex.split(command)[1:]
        if arguments == ["--check-config"]:
            arguments.append("project.asgi:channel_layer")
        try:
            return isinstance(read(arguments, {}), Command)
        except UsageError:
            return False
    return True


@pytest.mark.parametrize("page", PAGES, ids=name)
def test_a_command_in_a_sentence_can_be_given(page: Path) -> None:
    makes = [line for line in given(page) if line.startswith(("make ", "python "))]
    assert [command for command in [*sentences(page), *makes] if not can_be_given(command)] == []


@pytest.mark.parametrize(
    "command", ["make no-such-target", "python -m greendaphne.nothing", "python benchmarks/nothing.py", "greendaphne --bnd 0.0.0.0 a:b"]
)
def test_a_command_that_cannot_be_given_is_found(command: str) -> None:
    assert not can_be_given(command)
