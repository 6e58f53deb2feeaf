"""Endpoints on sockets that systemd hands down: the variables read by themselves, and the real ``systemd-socket-activate``."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.support.server import PATIENCE, Client

#: Runs in a process of its own, since the sockets have the descriptors from 3 on: an IPv4, an IPv6 and two UNIX sockets, and no socket.
#: Takes cases as JSON, each the variables and the endpoints to bind; says for each what became of them.
CASES = """
import json, os, socket, sys
from greendaphne import endpoints
from greendaphne.net.endpoints import systemd

directory, cases = sys.argv[1], json.loads(sys.argv[2])
null = os.dup2(os.open("/dev/null", os.O_RDONLY), 50)

def hand_down():
    # So that no socket made here has one of these numbers.
    for number in range(3, 8):
        os.dup2(null, number)
    made = [socket.socket(family) for family in (socket.AF_INET, socket.AF_INET6, socket.AF_UNIX, socket.AF_UNIX)]
    places = ("127.0.0.1", 0), ("::1", 0), directory + "/a", directory + "/b"
    for number, (sock, place) in enumerate(zip(made, places)):
        if isinstance(place, str) and os.path.exists(place):
            os.unlink(place)
        sock.bind(place)
        os.dup2(sock.fileno(), 3 + number)
        sock.close()

for case in cases:
    hand_down()
    for name, value in case["environment"].items():
        os.environ[name] = value.replace("$PID", str(os.getpid()))
    outcome, bound = [], []
    for description in case["endpoints"]:
        try:
            if description == "descriptions":
                outcome.append(systemd.descriptions())
                continue
            endpoint = endpoints.parse(description)
            sock = endpoint.bind()
        except endpoints.EndpointError as error:
            outcome.append(str(error).replace(str(os.getpid()), "$PID"))
        else:
            bound.append((endpoint, sock))
            assert endpoint.shared and not os.get_inheritable(sock.fileno()) and not os.get_blocking(sock.fileno())
            outcome.append([sock.fileno(), sock.family.name, sock.getsockopt(socket.SOL_SOCKET, socket.SO_ACCEPTCONN)])
    print(json.dumps([outcome, [name for name in os.environ if name.startswith("LISTEN_")]]))
    for endpoint, sock in bound:
        endpoint.close(sock)
"""


def described(**variables: str) -> dict[str, str]:
    return {f"LISTEN_{name}": value for name, value in {"PID": "$PID", **variables}.items()}


V4, V6, A, B = ([3, "AF_INET", 1], [4, "AF_INET6", 1], [5, "AF_UNIX", 1], [6, "AF_UNIX", 1])
NONE = "Couldn't listen on systemd:INET:0: there are no sockets from systemd: "

CHECKED: list[tuple[dict[str, str], list[str], list[Any]]] = [
    ({}, ["systemd:INET:0", "descriptions"], [f"{NONE}LISTEN_FDS is not set.", []]),
    (described(), ["systemd:INET:0"], [f"{NONE}LISTEN_FDS is not set."]),
    (described(FDS="1", PID=""), ["systemd:INET:0"], ["LISTEN_PID must be a number, not ''."]),
    (described(FDS="1", PID="1 "), ["systemd:INET:0"], ["LISTEN_PID must be a number, not '1 '."]),
    (
        described(FDS="1", PID="1"),
        ["systemd:INET:0", "descriptions"],
        [f"{NONE}LISTEN_PID is 1 and this is process $PID (a shell in between has to start it with exec).", []],
    ),
    (described(FDS="0"), ["systemd:INET:0"], [f"{NONE}LISTEN_FDS is 0."]),
    (described(FDS="+1"), ["systemd:INET:0", "systemd:INET:0"], ["LISTEN_FDS must be a number, not '+1'.", f"{NONE}LISTEN_FDS is wrong."]),
    (described(FDS="99999999"), ["systemd:INET:0"], [f"{NONE}LISTEN_FDS is 99999999."]),
    (
        described(FDS="2", FDNAMES="a:b:c"),
        ["systemd:INET:0"],
        ["LISTEN_FDS says 2 sockets, and LISTEN_FDNAMES names 3: 'a:b:c'."],
    ),
    (
        described(FDS="400"),
        ["systemd:INET:0"],
        ["LISTEN_FDS says 400 sockets, and descriptor 8 is not open: [Errno 9] Bad file descriptor."],
    ),
    (
        described(FDS="4", FDNAMES="web:web:a:b", PIDFDID="12"),
        ["systemd:INET:0", "systemd:domain=INET6:name=web", "systemd:domain=AF_UNIX:name=b", "systemd:index=2:domain=UNIX"],
        [V4, V6, B, A],
    ),
    (
        described(FDS="4"),
        ["descriptions"],
        [["systemd:domain=INET:index=0", "systemd:domain=INET6:index=1", "systemd:domain=UNIX:index=2", "systemd:domain=UNIX:index=3"]],
    ),
    (
        described(FDS="5"),
        ["descriptions", "systemd:INET:4"],
        [
            "Couldn't listen on socket 4 (unknown) of systemd: it is neither a TCP nor a UNIX socket.",
            "Couldn't listen on systemd:INET:4: it is not a socket.",
        ],
    ),
    (
        described(FDS="4", FDNAMES="web:web:x:x"),
        [
            "systemd:INET6:0",
            "systemd:INET:4",
            "systemd:domain=UNIX:name=x",
            "systemd:domain=UNIX:name=web",
            "systemd:domain=UNIX:name=y",
        ],
        [
            "Couldn't listen on systemd:INET6:0: its domain is INET, not INET6.",
            "Couldn't listen on systemd:INET:4: the sockets from systemd have the numbers 0 to 3.",
            "Couldn't listen on systemd:domain=UNIX:name=x: 2 sockets have this name; select one with index=N.",
            "Couldn't listen on systemd:domain=UNIX:name=web: its domain is INET, not UNIX.",
            "Couldn't listen on systemd:domain=UNIX:name=y: the sockets from systemd are named web, web, x, x.",
        ],
    ),
    (
        described(FDS="4", FDNAMES="a:b:c:d"),
        ["systemd:INET:0", "systemd:domain=INET:name=a", "fd:3", "haproxy:fd:4", "systemd:domain=INET6:name=b"],
        [
            V4,
            "Couldn't listen on systemd:domain=INET:name=a: another endpoint has it already.",
            "Couldn't listen on fd 3: another endpoint has it already.",
            V6,
            "Couldn't listen on systemd:domain=INET6:name=b: another endpoint has it already.",
        ],
    ),
]


@pytest.fixture(scope="module")
def outcomes(tmp_path_factory: pytest.TempPathFactory) -> list[Any]:
    cases = [{"environment": environment, "endpoints": descriptions} for environment, descriptions, _ in CHECKED]
    directory = str(tmp_path_factory.mktemp("sockets"))
    clean = {name: value for name, value in os.environ.items() if not name.startswith("LISTEN_")}
    command = [sys.executable, "-W", "error", "-c", CASES, directory, json.dumps(cases)]
    result = subprocess.run(command, capture_output=True, text=True, timeout=PATIENCE * 3, check=False, env=clean)
    assert result.stderr == ""
    return [json.loads(line) for line in result.stdout.splitlines()]


@pytest.mark.parametrize("number", range(len(CHECKED)))
def test_variables(outcomes: list[Any], number: int) -> None:
    # The second is what is left of the variables.
    assert outcomes[number] == [CHECKED[number][2], []]


ASGI = """
import os
from greendaphne.layers.memory import MemoryChannelLayer


def answer(message):
    left = [name for name in os.environ if name.startswith("LISTEN_")]
    text = repr((message.content["path"], message.content.get("client"), left))
    message.reply({"status": 200, "headers": [], "content": text.encode()})


channel_layer = MemoryChannelLayer()
channel_layer.routes = {"http.request": answer}
"""


@pytest.fixture
def activated(tmp_path: Path) -> Iterator[subprocess.Popen[str]]:
    """``systemd-socket-activate``, which becomes the server at the first connection; its sockets are ``a`` and ``b``."""
    (tmp_path / "app.py").write_text(ASGI, encoding="utf-8")
    checkout = Path(__file__).resolve().parents[2]
    server = [sys.executable, "-m", "greendaphne", "-e", "systemd:domain=UNIX:name=web", "-e", "haproxy:systemd:domain=UNIX:index=1"]
    process = subprocess.Popen(
        [
            "systemd-socket-activate",
            f"--listen={tmp_path}/a",
            f"--listen={tmp_path}/b",
            "--fdname=web:other",
            f"--setenv=PYTHONPATH={checkout}",
            "--setenv=PYTHONWARNINGS=error",
            "--setenv=PYTHONDONTWRITEBYTECODE=1",
            *server,
            "--inline-workers=1",
            "app:channel_layer",
        ],
        cwd=tmp_path,
        stderr=subprocess.PIPE,
        text=True,
    )
    try:
        yield process
    finally:
        process.kill()
        process.communicate()


def request(path: Path, header: bytes, target: str) -> str:
    with socket.socket(socket.AF_UNIX) as sock:
        sock.settimeout(PATIENCE * 2)
        sock.connect(str(path))
        client = Client(sock)
        client.send(header + b"GET " + target.encode() + b" HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n")
        return client.read_response().body.decode()


def test_systemd_socket_activate(activated: subprocess.Popen[str], tmp_path: Path) -> None:
    assert activated.stderr is not None
    said = [activated.stderr.readline() for _ in range(2)]
    assert "b as 4" in said[1], said
    assert request(tmp_path / "a", b"", "/a") == repr(("/a", None, []))
    assert request(tmp_path / "b", b"PROXY TCP4 192.0.2.1 192.0.2.2 1 2\r\n", "/b") == repr(("/b", ["192.0.2.1", 1], []))
    activated.send_signal(signal.SIGTERM)
    _, log = activated.communicate(timeout=PATIENCE)
    assert activated.returncode == 0, log
    assert "Listening on endpoint systemd:domain=UNIX:name=web\n" in log
    # The files are systemd's.
    assert (tmp_path / "a").is_socket()
    assert (tmp_path / "b").is_socket()
