"""Runs one server over the conversation and tells what it did: bytes, messages, the access log."""

from __future__ import annotations

import ast
import os
import re
import signal
import socket
import subprocess
import time
from collections import defaultdict
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from tests.differential.conversation import CASES, Case
from tests.support.ports import free_port

ROOT = Path(__file__).resolve().parents[2]
PATIENCE = 30.0
#: Seconds of silence after which nothing more is expected of a WebSocket whose client has something to say.
QUIET = 0.4
#: Seconds for an answer, which is longer than the servers' time limit for applications.
ANSWER = 8.0
#: Connections at a time.
CONCURRENCY = 8
LAYER = "tests.differential.application:channel_layer"


@dataclass
class Outcome:
    """What a server did with one connection."""

    data: bytes = b""
    #: How the connection ended: ``open``, ``closed``, ``reset``, or ``silent`` where no whole answer came.
    end: str = "open"
    messages: list[tuple[str, dict[str, Any]]] = field(default_factory=list)
    accesses: list[str] = field(default_factory=list)


class Server:
    """One of the servers, with the application of the comparison."""

    def __init__(self, command: Sequence[str], directory: Path, *options: str, layer: str = LAYER) -> None:
        directory.mkdir(parents=True, exist_ok=True)
        self.directory = directory
        self.port = free_port()
        argv = [*command, "-p", str(self.port), "--access-log", str(directory / "access.log"), *options, layer]
        environment = {**os.environ, "PYTHONPATH": str(ROOT), "MESSAGES": str(directory / "messages"), "PYTHONDONTWRITEBYTECODE": "1"}
        with (directory / "log").open("wb") as log:
            self.process = subprocess.Popen(argv, cwd=ROOT, env=environment, stdin=subprocess.DEVNULL, stdout=log, stderr=log)

    def __enter__(self) -> Server:
        deadline = time.monotonic() + PATIENCE
        while True:
            try:
                socket.create_connection(("127.0.0.1", self.port), timeout=PATIENCE).close()
                return self
            except ConnectionRefusedError:
                assert self.process.poll() is None, (self.directory / "log").read_text()
                assert time.monotonic() < deadline, "the server does not listen"
                time.sleep(0.05)

    def __exit__(self, *details: object) -> None:
        if self.process.poll() is None:
            self.process.kill()
        self.process.wait(PATIENCE)

    def stop(self, number: int = signal.SIGTERM) -> int:
        """End it by a signal; its exit code."""
        self.process.send_signal(number)
        return self.process.wait(PATIENCE)

    def converse(self) -> dict[str, Outcome]:
        """Have the whole conversation."""
        by_address: dict[str, Outcome] = {}
        results: dict[str, Outcome] = {}

        def one(numbered: tuple[int, Case]) -> None:
            number, case = numbered
            # An address of its own for each case, by which its messages and accesses are found; ports come back.
            address = f"127.1.{number // 250}.{number % 250 + 1}"
            with socket.create_connection(("127.0.0.1", self.port), timeout=ANSWER, source_address=(address, 0)) as sock:
                outcome = Outcome()
                by_address[address] = results[case.name] = outcome
                (_http if case.methods else _websocket)(case, sock, outcome)

        with ThreadPoolExecutor(CONCURRENCY) as pool:
            list(pool.map(one, enumerate(CASES)))
        self._collect(by_address)
        return results

    def _collect(self, by_address: dict[str, Outcome]) -> None:
        deadline = time.monotonic() + PATIENCE / 3
        while True:
            records = [ast.literal_eval(line) for line in (self.directory / "messages").read_text().splitlines()]
            channels: dict[str, str] = defaultdict(str)
            for channel, message in records:
                channels[message.get("reply_channel", "")] += f" {channel}"
            if all("disconnect" in text for name, text in channels.items() if name) or time.monotonic() > deadline:
                break
            time.sleep(0.1)
        owners: dict[str, Outcome] = {}
        for channel, message in records:
            name = message["reply_channel"]
            client = message.get("client")
            if client is not None and client[0] in by_address:
                owners[name] = by_address[client[0]]
            if name in owners:
                owners[name].messages.append((channel, message))
        for line in (self.directory / "access.log").read_text().splitlines():
            match = re.fullmatch(r"([\d.]+):\d+ - - \[\d\d/\w{3}/\d{4}:\d\d:\d\d:\d\d\] (.*)", line)
            assert match is not None, line
            if match[1] in by_address:
                by_address[match[1]].accesses.append(match[2])


def _http(case: Case, sock: socket.socket, outcome: Outcome) -> None:
    try:
        sock.sendall(case.pieces[0])
        start = 0
        for method in case.methods:
            end = _response(method, sock, outcome, start)
            if end is None:
                return
            start = end
    except (ConnectionResetError, BrokenPipeError):
        outcome.end = "reset"
        return
    except TimeoutError:
        outcome.end = "silent"
        return
    # Whether the connection stays open.
    sock.settimeout(QUIET)
    _read_on(sock, outcome)


def _read_on(sock: socket.socket, outcome: Outcome) -> bool:
    """Read what comes; whether the connection is still open after a silence."""
    try:
        while data := sock.recv(65536):
            outcome.data += data
        outcome.end = "closed"
    except TimeoutError:
        return True
    except ConnectionResetError:
        outcome.end = "reset"
    return False


def _response(method: str, sock: socket.socket, outcome: Outcome, start: int) -> int | None:
    """Read the response that begins at ``start`` of the data; returns where it ends, and ``None`` where no other one may follow."""

    def more() -> bool:
        data = sock.recv(65536)
        if not data:
            outcome.end = "closed"
        outcome.data += data
        return bool(data)

    while b"\r\n\r\n" not in outcome.data[start:]:
        if not more():
            return None
    head, _, _ = outcome.data[start:].partition(b"\r\n\r\n")
    body = start + len(head) + 4
    status = int(head.split()[1]) if head[9:12].isdigit() else 0
    if method == "HEAD" or status in (204, 304):
        return body
    length = re.search(rb"(?i)\r\ncontent-length: (\d+)", head)
    if b"chunked" in head.lower():
        while (last := re.search(rb"(?:^|\r\n)0\r\n\r\n", outcome.data[body:])) is None:
            if not more():
                return None
        return body + last.end()
    if length is not None:
        end = body + int(length[1])
        while len(outcome.data) < end:
            if not more():
                return None
        return end
    while more():
        pass
    return None


def _websocket(case: Case, sock: socket.socket, outcome: Outcome) -> None:
    sock.settimeout(QUIET)
    try:
        for piece in case.pieces:
            sock.settimeout(PATIENCE)
            sock.sendall(piece)
            sock.settimeout(QUIET)
            if not _read_on(sock, outcome):
                return
    except (ConnectionResetError, BrokenPipeError):
        outcome.end = "reset"
