"""The commands of the documentation's pages, in order, on a machine of their own; see :mod:`tests.support.pages`.

A command that cannot be run here stands in :data:`NOT_HERE` with the reason, or has a stand-in in :data:`INSTEAD`.
"""

from __future__ import annotations

import json
import re
import shlex
import shutil
import subprocess
import sys
import textwrap
from pathlib import Path

import pytest

from tests.support.pages import DOCS, ROOT, commands, output_of, run_on_a_machine, why_no_machine
from tests.support.tutorials import follow

#: Commands that are not run, by the reason.
NOT_HERE = {
    "needs the network": r"apt-get |podman |docker ",
    "needs a systemd that runs": r"systemctl |journalctl ",
    "needs a public host name": r".*www\.example\.com|greendaphne -e le:|python -m greendaphne\.acme",
}
#: Commands that something else stands in for: pip needs the network, and to install pip itself takes as long as all the rest.
INSTEAD = [
    (r"python3 -m venv (.*)", r"python3 -m venv --without-pip \1"),
    (r"python3\.11 -m venv (.*)", r"python3 -m venv --without-pip \1"),
    (r"(/srv/\w+/venv)/bin/pip install .*", r"install_here \1"),
    # The environment of the page's reader.
    (r"pip install .*", r"python3 -m venv --without-pip /srv/venv && install_here /srv/venv && export PATH=/srv/venv/bin:$PATH"),
]
#: After these a program that was started in the background gets ready.
PAUSES = [
    (r"(curl .*) && (curl .*)", r"eventually \1 && eventually \2"),
    (r"(curl .*)", r"eventually \1"),
    (r"(.*circusctl .* status)", r"eventually \1"),
]


def runnable(lines: list[str]) -> list[str]:
    """``lines`` without those that cannot be run here, and with what stands in for others."""
    result = []
    for line in lines:
        if any(re.match(pattern, line) for pattern in NOT_HERE.values()):
            continue
        for pattern, replacement in INSTEAD + PAUSES:
            line = re.sub(f"^{pattern}$", replacement, line)
        result.append(line)
    return result


machine = pytest.mark.skipif(bool(why_no_machine()), reason=why_no_machine() or "-")


def section(page: str, *titles: str) -> list[str]:
    """The commands in the sections ``titles`` of a page, up to the next title of the same kind."""
    text = (DOCS / page).read_text(encoding="utf-8")
    parts = re.split(r"(?m)^(.+)\n-{3,}\n", text)
    bodies = dict(zip(parts[1::2], parts[2::2], strict=True))
    return [line for title in titles for line in commands(bodies[title])]


REDIS = "redis-server --port 6379 --save '' --daemonize yes --logfile /dev/null"


@machine
@pytest.mark.parametrize("manager", ["systemd", "Circus", "supervisor"])
def test_a_site_is_served_from_nothing(manager: str) -> None:
    layout = runnable(section("deployment.rst", "One layout"))
    ask = "eventually curl http://127.0.0.1:8000/"
    assert layout[-1] == ask
    lines = [REDIS, *layout[:-1], "cd /mnt/checkout", *runnable(section("deployment.rst", manager))]
    if manager == "systemd":
        # What systemd would do, as its service says it.
        lines += [
            "cd /srv/mysite/current",
            "command=$(sed -n 's/^ExecStart=//p' /etc/systemd/system/mysite.service)",
            "runuser -u mysite -- env RUNTIME_DIRECTORY=/run/mysite $command -b 127.0.0.1 -p 8000 > /var/log/mysite/journal 2>&1 &",
        ]
    lines += [
        ask,
        "eventually curl -s http://127.0.0.1:8000/health",
        "ps -o user:20=,args= -C greendaphne,python,python3,circusd,supervisord",
        "grep -h 'open files' /proc/$(pgrep -u mysite -f 'bin/greendaphne' | tail -1)/limits",
        # Every line of the log has to be fine.
        "cat /var/log/mysite/*",
    ]
    result = run_on_a_machine(lines)
    assert re.search(r"^release 1, process \d+$", result.stdout, re.MULTILINE)
    assert output_of(result, lines[-4]) == "ok\n"
    users = {line.split()[0] for line in output_of(result, lines[-3]).splitlines() if "bin/greendaphne" in line and "runuser" not in line}
    assert users == {"mysite"}
    assert not re.search(r"\b(ERROR|CRITICAL|Traceback)\b", result.stdout), result.stdout


@machine
def test_supervisor_starts_where_few_descriptors_are_allowed() -> None:
    layout = runnable(section("deployment.rst", "One layout"))[:-1]
    lines = [REDIS, *layout, "cd /mnt/checkout", "ulimit -n 512", *runnable(section("deployment.rst", "supervisor"))]
    result = run_on_a_machine([*lines, "eventually curl http://127.0.0.1:8000/"])
    assert re.search(r"^release 1, process \d+$", result.stdout, re.MULTILINE)


@machine
def test_the_operations_of_a_site() -> None:
    """Up to where systemd takes over."""
    text = commands((DOCS / "operations.rst").read_text(encoding="utf-8"))
    lines = runnable(text[: text.index("systemctl daemon-reload")])
    result = run_on_a_machine([REDIS, *lines])
    assert "Nothing is wrong" in result.stderr


def between(page: Path, first: str, last: str) -> list[str]:
    """The commands of ``page`` from the one that begins with ``first`` to the first after it that begins with ``last``."""
    lines = commands(page.read_text(encoding="utf-8"))
    start = next(index for index, line in enumerate(lines) if line.startswith(first))
    end = next(index for index, line in enumerate(lines) if index >= start and line.startswith(last))
    return lines[start : end + 1]


#: An environment with greendaphne, and an empty directory.
READER = [
    "python3 -m venv --without-pip /srv/venv",
    "install_here /srv/venv",
    "export PATH=/srv/venv/bin:$PATH",
    "mkdir /srv/empty",
    "cd /srv/empty",
]


@machine
def test_an_encrypted_key_from_nothing() -> None:
    lines = runnable(between(DOCS / "tls.rst", "(umask 077", "curl --cacert fullchain.pem"))
    assert "It works." in run_on_a_machine([*READER, *lines]).stdout


@machine
@pytest.mark.skipif(shutil.which("pebble") is None, reason="there is no pebble")
def test_a_certificate_of_pebble_from_nothing() -> None:
    lines = runnable(between(DOCS / "tls.rst", "openssl req -x509 -newkey rsa", "curl --cacert pebble.pem"))
    assert "It works." in run_on_a_machine([*READER, *lines]).stdout


@machine
def test_monitoring_from_nothing() -> None:
    install, serve = between(DOCS / "monitoring.rst", "pip install", "greendaphne --health-path")
    lines = [
        *READER,
        *runnable([install]),
        f"{serve} &",
        "eventually curl -s http://127.0.0.1:9100/metrics",
        "curl -s http://127.0.0.1:8000/health",
    ]
    result = run_on_a_machine(lines)
    assert "greendaphne_log_lines_dropped_total" in result.stdout
    assert output_of(result, lines[-1]) == "ok\n"


@machine
@pytest.mark.skipif(sys.version_info >= (3, 12), reason="Django 2.2 ends with Python 3.11")
def test_the_chat_on_redis_from_nothing() -> None:
    """Units are started by hand, as they say it."""
    page = ROOT / "examples" / "redis" / "README.rst"
    lines = runnable(between(page, "apt-get install redis-server", "systemctl status"))
    start = "runuser -u parlour -- $(sed -n 's/^ExecStart=//p' /etc/systemd/system/parlour-{}@.service) {} > /var/log/{} 2>&1 &"
    fields = "-H 'Host: chat.example.com' -H 'X-Forwarded-Proto: https' -H 'X-Forwarded-For: 9.9.9.9'"
    ask = f"eventually curl -sf -o /dev/null -w '%{{http_code}}' {fields}"
    result = run_on_a_machine(
        [
            "cd examples/redis",
            REDIS,
            *lines,
            "cd /srv/parlour/current",
            start.format("server", "-p 8001", "server"),
            start.format("worker", "", "worker"),
            f"{ask} http://127.0.0.1:8001/accounts/login/",
            # The response may be there before the line of the access log.
            "eventually grep -q '9.9.9.9:0 - -' /var/log/server",
            "cat /var/log/server /var/log/worker",
        ]
    )
    assert "200" in result.stdout
    assert "9.9.9.9:0 - -" in result.stdout
    assert "Traceback" not in result.stdout


@machine
@pytest.mark.skipif(sys.version_info >= (3, 12), reason="Django 2.2 ends with Python 3.11")
def test_the_tutorial_for_channels_1() -> None:
    """Those for WSGI and ASGI are in ``tests/modern``."""
    follow("tutorials/channels1.rst")


# ---- The container


CONTAINERFILE = ROOT / "examples" / "container" / "Containerfile"


def instructions() -> list[tuple[str, str]]:
    """The instructions of the example, as (name, rest)."""
    text = re.sub(r"(?m)^#.*\n", "", CONTAINERFILE.read_text(encoding="utf-8")).replace("\\\n", " ")
    return [(line.split(maxsplit=1)[0], line.split(maxsplit=1)[1]) for line in text.splitlines() if line.strip()]


def builder() -> str | None:
    """A program that can build an image here without the network: it works, and has the image that the example begins with."""
    base = next(rest.split()[0] for name, rest in instructions() if name == "FROM")
    for program in ("podman", "docker"):
        if shutil.which(program) is not None:
            answer = subprocess.run([program, "image", "inspect", base], capture_output=True, check=False, timeout=60)
            if answer.returncode == 0:
                return program
    return None


def test_the_image_is_built(tmp_path: Path) -> None:
    program = builder()
    if program is None:
        pytest.skip("nothing here builds images")
    tag = f"greendaphne-test-{tmp_path.name.lower()}"
    try:
        subprocess.run([program, "build", "-t", tag, "-f", str(CONTAINERFILE), str(ROOT)], check=True, timeout=600, capture_output=True)
        arguments = ["--read-only", "--tmpfs", "/tmp", "--cap-drop", "all", "--entrypoint", "greendaphne", tag, "--version"]
        answer = subprocess.run([program, "run", "--rm", *arguments], check=True, timeout=60, capture_output=True, text=True)
        assert "greendaphne" in answer.stdout
    finally:
        subprocess.run([program, "rmi", tag], check=False, timeout=60, capture_output=True)


def test_the_image_runs_as_nobody_special_and_is_watched() -> None:
    found = instructions()
    names = [name for name, _ in found]
    assert "ADD" not in names
    (user,) = [rest for name, rest in found if name == "USER"]
    assert all(int(number) > 0 for number in user.split(":"))
    assert names.index("USER") > max(index for index, name in enumerate(names) if name in ("RUN", "COPY"))
    (command,) = [json.loads(rest) for name, rest in found if name == "CMD"]
    assert command[0] == "greendaphne"
    for name, rest in found:
        if name == "COPY" and "--from" not in rest:
            assert all((ROOT / source).exists() for source in rest.split()[:-1]), rest


@machine
def test_the_commands_of_the_image() -> None:
    """Its steps in the order of the file, on a machine instead of in a layer; the directory of the build is the checkout."""
    lines = [REDIS]
    environment = prefix = check = ""
    for name, rest in instructions():
        if name == "RUN" and "pip install" in rest:
            lines.append("install_here /srv/mysite/venv")
        elif name == "RUN":
            lines.append(rest.replace("python -m venv", "python3 -m venv --without-pip"))
        elif name == "COPY" and rest.startswith("examples"):
            lines.append("cp -r /mnt/checkout/" + rest)
        elif name == "WORKDIR" and rest.startswith("/srv"):
            lines.append(f"cd {rest}")
        elif name == "ENV":
            environment = rest
        elif name == "USER":
            number = rest.partition(":")[0]
            prefix = f"setpriv --reuid {number} --regid {number} --clear-groups env {environment}"
        elif name == "CMD":
            lines.append(f"{prefix} " + " ".join(json.loads(rest)) + " > /run/log 2>&1 &")
            lines.append("eventually curl -s http://127.0.0.1:8000/")
            lines.append(check)
        elif name == "HEALTHCHECK":
            words = json.loads(rest[rest.index("CMD") + 3 :])
            check = f'{prefix} {words[0]} {words[1]} "{words[2]}"'
    result = run_on_a_machine(lines)
    assert "release 1" in result.stdout


# ---- Every unit


UNITS = sorted([*(ROOT / "examples").glob("**/*.service")])


@pytest.mark.skipif(shutil.which("systemd-analyze") is None, reason="there is no systemd-analyze")
@pytest.mark.parametrize("unit", UNITS, ids=lambda unit: unit.name)
def test_a_unit_exposes_little(unit: Path) -> None:
    answer = subprocess.run(
        ["systemd-analyze", "security", "--offline=true", "--threshold=25", "--no-pager", str(unit)],
        capture_output=True,
        text=True,
        check=False,
        timeout=60,
    )
    assert answer.returncode == 0, answer.stdout[-500:]


def test_no_example_believes_everybody() -> None:
    for path in (ROOT / "examples").glob("**/*"):
        if path.is_file() and path.suffix in (".service", ".ini", ".conf", ".toml", ".env", "") and path.name != "greendaphne.toml":
            lines = [line for line in path.read_text(encoding="utf-8").splitlines() if not line.startswith("#")]
            assert not [line for line in lines if "--proxy-headers" in line or "allow-ips *" in line], path


# ---- Further pages


@machine
def test_the_programs_of_the_readme() -> None:
    text = (ROOT / "README.rst").read_text(encoding="utf-8")
    programs = dict(re.findall(r"^``(hello\w*\.py)``:\n\n\.\. code-block:: python\n\n((?: {4}.*\n|\n)+)", text, re.MULTILINE))
    files = [f"printf '%s\\n' {shlex.quote(textwrap.dedent(source))} > {name}" for name, source in programs.items()]
    client = (
        "from websockets.sync.client import connect\n"
        "with connect('ws://127.0.0.1:8000') as socket:\n    socket.send('hi')\n    print('back:', socket.recv())"
    )
    commands_of_readme = [line for line in commands(text) if re.match(r"greendaphne .*\bhello_?\w*(:channel_layer)?$", line)]
    served = []
    for line in commands_of_readme:
        socket, ask = "", "http://127.0.0.1:8000"
        if "-u " in line:
            socket = "--unix-socket /tmp/hello.sock"
        elif "--tls-dev" in line:
            socket, ask = "-k", "https://localhost:8443"
        elif "8001" in line:
            ask = "http://127.0.0.1:8001"
        served += [
            f"{line} & server=$!",
            f"eventually curl -sf {socket} {ask}",
            *(["eventually python client.py"] if ask[-4:] == "8000" and not socket else []),
        ]
        served += ["kill $server", "wait $server"]
    result = run_on_a_machine([*READER, *files, f"printf '%s\\n' {shlex.quote(client)} > client.py", *served])
    assert len(programs) == 3
    assert result.stdout.count("\nHello\n") == len(commands_of_readme) == 6
    assert result.stdout.count("\nback: hi\n") == 3


@machine
def test_a_configuration_from_nothing() -> None:
    (sample,) = [line for line in commands((DOCS / "configuration.rst").read_text(encoding="utf-8")) if "settings.sample" in line]
    (check,) = [
        line
        for line in commands((DOCS / "configuration.rst").read_text(encoding="utf-8"))
        if line.endswith("--check-config") and "=" not in line
    ]
    layer = 'channel-layer = "greendaphne.demo:channel_layer"'
    name = rf"sed -i 's/^channel-layer = .*/{layer}\ninline-workers = 1/' greendaphne.toml"
    result = run_on_a_machine([*READER, sample, name, check])
    assert "Nothing is wrong" in result.stderr
    assert "inline-workers = 1  # greendaphne.toml" in result.stdout
    assert 'channel-layer = "greendaphne.demo:channel_layer"  # greendaphne.toml' in result.stdout


@machine
def test_the_configuration_of_trust() -> None:
    lines = commands((DOCS / "proxies.rst").read_text(encoding="utf-8"))
    serve, *asks = [line for line in lines if line.startswith(("greendaphne -b 127.0.0.1", "curl -s -o /dev/null"))]
    result = run_on_a_machine([*READER, f"{serve} > log & server=$!", *runnable(asks), "kill $server", "wait $server", "cat log"])
    clients = re.findall(r'^([\d.]+):\d+ - - \[[^]]+\] "GET /" 200', result.stdout, re.MULTILINE)
    assert clients == ["203.0.113.9", "127.0.0.2", "203.0.113.9"]


@machine
@pytest.mark.skipif(sys.version_info >= (3, 12), reason="Django 2.2 ends with Python 3.11")
def test_the_chat_in_one_process_from_nothing() -> None:
    page = ROOT / "examples" / "chat" / "README.rst"
    install, *lines = between(page, "pip install 'greendaphne", "greendaphne --inline-workers")
    serve = lines.pop()
    # The checkout cannot be written to.
    lines = [*runnable([install]), "cp -r examples/chat /srv/chat", "cd /srv/chat", *[line for line in lines if "pip install" not in line]]
    result = run_on_a_machine(
        [*lines, f"{serve} > /run/log 2>&1 &", "eventually curl -sf http://127.0.0.1:8000/accounts/login/", "cat /run/log"]
    )
    assert "csrfmiddlewaretoken" in result.stdout
    assert "Traceback" not in result.stdout
