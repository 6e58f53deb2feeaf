"""daphne 1.4.2 and greendaphne side by side on one conversation: every difference is documented, and every documented one is there.

Compared are the bytes on the wire, how the connection ends, the messages of the channel layer, the access log, and exit codes.
"""

from __future__ import annotations

import os
import re
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path
from typing import Any, Final, NamedTuple

import pytest

from tests.differential.conversation import CASES
from tests.differential.servers import LAYER, PATIENCE, ROOT, Outcome, Server
from tests.support import daphne
from tests.support.ports import free_port

pytestmark = pytest.mark.skipif(sys.version_info >= (3, 12), reason="asgiref 1.1, which daphne 1.4.2 needs, ends with Python 3.11")

GREENDAPHNE: Final = (sys.executable, "-m", "greendaphne")
UPGRADING: Final = ROOT / "docs" / "upgrading.rst"


class Difference(NamedTuple):
    """A documented difference: words of docs/upgrading.rst, the cases that show it, and in what."""

    words: str
    #: A pattern for the names of cases.
    cases: str
    #: What may differ: ``data``, ``end``, ``access``, ``messages`` for which there are, and ``channel.key`` for what is in them.
    aspects: tuple[str, ...]


_REFUSED: Final = ("data", "end", "access", "messages")

DIFFERENCES: Final = (
    Difference("Methods are upper-cased", r"http method (get|Post)", ("data", "http.request.method", "access")),
    Difference("an invalid method is answered with 400", r"http strict (connect|method)", _REFUSED),
    Difference("The path of a request for ``http://host/path`` is ``/path``", r"http target absolute.*",
               ("data", "http.request.path", "http.disconnect.path", "http.request.headers", "access")),
    Difference("Quotation marks, backslashes and control characters in a target are escaped",
               r"http target (quote|backslash)", ("access",)),
    Difference("Header fields reach the application in the order of the request",
               r"http fields two of one name", ("http.request.headers",)),
    Difference("An expectation other than ``100-continue`` is answered with 417", r"http fields expect", _REFUSED),
    Difference("Reason phrases are those of RFC 9110 and related RFCs", r"http status (422|429).*", ("data",)),
    Difference("the further messages of a response to HEAD", r"http response of (2|10) messages to HEAD", ("data", "access")),
    Difference("A server push is ignored", r"http response /push", ("data", "end", "access")),
    Difference("A reply without a usable key is logged and dropped", r"http response /bad/status", ("data", "end", "access")),
    Difference("``Connection: close`` from the application closes the connection", r"http response /close", ("end",)),
    Difference("Responses have a ``Date``", r"http (GET|status|response).*", ("date",)),
    Difference("``Transfer-Encoding`` stands before the fields of the application",
               r"http (GET|status 200|response of 2 messages|fields|body).*",
               ("transfer-encoding",)),
    Difference("line ends without CR, folded lines and control characters are refused and the connection is closed",
               r"http strict (no host|two hosts|folded|bare LF|fragment|nul)", _REFUSED),
    Difference("Refusals have a page and ``Connection: close``",
               r"http strict (garbage|no version|no colon|blank before colon|two lengths|length and chunks|negative length|"
               r"length of letters|nul|method|bad chunk|path beyond ASCII)", _REFUSED),
    Difference("Their status is 501 for a transfer coding, 505 for a version",
               r"http strict (coding|bad version|HTTP/2 preface|connect)", _REFUSED),
    Difference("A head that is too long is answered with 414 or 431", r"http strict (many fields|long line|long field)", _REFUSED),
    Difference("``websocket.connect`` has ``scheme`` and ``root_path``",
               r"websocket .*", ("websocket.connect.scheme", "websocket.connect.root_path")),
    Difference("Repeated fields stay separate", r"websocket cookies", ("websocket.connect.headers",)),
    Difference("holds for WebSockets too, as does the ``Daphne-Root-Path`` field", r"websocket root path", ("websocket.connect.headers",)),
    # The clients of this conversation have addresses of their own, such as 127.1.0.1.
    Difference("``Daphne-Root-Path`` counts from 127.0.0.1", r"http fields root path.*", ("http.request.root_path",)),
    Difference("its ``code`` is always a number: 1005 if the client sent none", r"websocket client closes without a code",
               ("data", "websocket.disconnect.code")),
    Difference("Close codes are echoed", r"websocket client closes (1001|3000|4000|4999).*", ("data",)),
    Difference("A connection that the application closes ends with a closing handshake",
               r"websocket (server closes|asks for close).*", ("end", "websocket.disconnect.code")),
    Difference("Protocol errors are answered with a close frame (1002, 1007, 1009)",
               r"websocket (unmasked|reserved bit|unknown opcode|bad utf-8)",
               ("data", "end", "websocket.disconnect.code")),
    Difference('Empty messages are messages: ``{"text": ""}``', r"websocket empty reply", ("data",)),
    Difference("A message above 1 MiB is refused with 1009", r"websocket too large", ("data", "end", "messages", "access")),
    Difference("Frames in the same segment as the handshake are not lost", r"websocket early frame", ("data", "messages")),
    Difference("The server speaks only version 13 of the protocol", r"websocket version.*", _REFUSED),
    Difference("A refused handshake has a page", r"websocket (bad key|post|version 99)", _REFUSED),
    Difference("A rejected handshake has ``Content-Length: 0`` and ``Connection: close``", r"websocket reject.*", ("data",)),
)  # fmt: skip

#: Entries of "What is different" that this conversation cannot show, by their first words, and where they are shown.
ELSEWHERE: Final = {
    "``--metrics tcp:9100`` listens on 127.0.0.1": "tests/monitoring/test_health.py",
    "Memory, disk and descriptors for clients are bounded": "tests/serving/test_overload.py",
    "``--fd 0`` listens on that descriptor alone": "tests/settings/test_cli.py",
    "SIGTERM and SIGINT let open requests finish": "tests/processes/test_signals.py",
    "``haproxy:`` endpoints accept PROXY headers from this machine alone": "tests/net/test_proxy_protocol.py",
    "``websocket_connect_timeout`` of ``Server`` is 5 seconds": "tests/serving/test_library.py",
    "The log line": "tests/applications/channels/test_parts.py",
    "HTTP/2 needs TLS with ALPN": "tests/http2/test_http2_server.py",
    "``le:`` and ``lets:`` endpoints work again": "tests/acme/test_acme_server.py",
    "Bodies above 1 MiB come through ``body_channel``": "tests/applications/channels/test_bodies.py",
    "A channel layer out of reach gives 503": "tests/applications/channels/test_layer_loss.py",
    "A client that closes its sending half": "tests/http1/test_leaving.py",
    "A response that pauses longer": "tests/applications/channels/test_bridge.py",
    "Error pages that daphne has too": "tests/serving/test_failures.py",
    "The server sends ``http.disconnect`` once": "tests/applications/channels/test_bridge.py",
    "A reply with both ``text`` and ``bytes``": "tests/applications/channels/test_websocket_bridge.py",
    "A client that does not answer a ping": "tests/websocket/test_websocket_connection.py",
}


def observed(first: Outcome, second: Outcome) -> set[str]:
    """In what two outcomes differ."""
    found = set()
    data = [first.data, second.data]
    if (b"\r\nDate: " in data[0]) != (b"\r\nDate: " in data[1]):
        found.add("date")
    data = [re.sub(rb"Date: [^\r]*\r\n", b"", each) for each in data]
    moved = [re.sub(rb"(HTTP/1\.1 \d+ [^\r]*\r\n)((?:[^\r]+\r\n)*?)(Transfer-Encoding: chunked\r\n)", rb"\1\3\2", each) for each in data]
    if moved[0] != moved[1]:
        found.add("data")
    elif data[0] != data[1]:
        found.add("transfer-encoding")
    if first.end != second.end:
        found.add("end")
    if first.accesses != second.accesses:
        found.add("access")
    return found | messages(first, second)


def messages(first: Outcome, second: Outcome) -> set[str]:
    found: set[str] = set()
    sequences = [sequence(outcome) for outcome in (first, second)]
    if [[channel for channel, _ in each] for each in sequences[0]] != [[channel for channel, _ in each] for each in sequences[1]]:
        return {"messages"}
    for ours, theirs in zip(*sequences, strict=True):
        for (channel, one), (_, other) in zip(ours, theirs, strict=True):
            found |= {f"{channel}.{key}" for key in {*one, *other} if one.get(key) != other.get(key)}
    return found


def sequence(outcome: Outcome) -> list[list[tuple[str, dict[str, Any]]]]:
    """The messages of each request or WebSocket in their order; those of several at a time may overlap."""
    clients: dict[str, list[tuple[str, dict[str, Any]]]] = {}
    for channel, message in outcome.messages:
        # Names and ports are different each time.
        shown = {
            key: value[:1] if key in ("client", "server") and value else value for key, value in message.items() if key != "reply_channel"
        }
        clients.setdefault(message["reply_channel"], []).append((channel, shown))
    return [*clients.values()]


@pytest.fixture(scope="module")
def outcomes(tmp_path_factory: pytest.TempPathFactory) -> tuple[dict[str, Outcome], dict[str, Outcome]]:
    directory = tmp_path_factory.mktemp("servers")
    results = []
    for name, command in (("daphne", daphne.command()), ("greendaphne", GREENDAPHNE)):
        with Server(command, directory / name, "-t", "3") as server:
            results.append(server.converse())
            assert server.stop() == 0
    return results[0], results[1]


def entries() -> list[str]:
    """The entries of "Changed" in docs/upgrading.rst, each in one line."""
    _, _, text = UPGRADING.read_text(encoding="utf-8").partition("\nChanged\n-------\n")
    text, _, _ = text.partition("\nBehind a proxy\n")
    found = re.findall(r"^\* (.*?)(?=\n\n|\n\* |\Z)", text, re.MULTILINE | re.DOTALL)
    return [" ".join(entry.split()) for entry in found]


def test_the_conversation_is_long_enough() -> None:
    requests = sum(len(case.methods) for case in CASES)
    websockets = sum(not case.methods for case in CASES)
    assert (requests >= 180, websockets >= 50) == (True, True), (requests, websockets)
    assert len({case.name for case in CASES}) == len(CASES)


def test_every_difference_is_documented(outcomes: tuple[dict[str, Outcome], dict[str, Outcome]]) -> None:
    undocumented = {}
    for case in CASES:
        allowed = {aspect for difference in DIFFERENCES if re.fullmatch(difference.cases, case.name) for aspect in difference.aspects}
        # Every answer has a date, and every chunked one its field in another place.
        allowed |= {"date", "transfer-encoding"}
        if more := observed(outcomes[0][case.name], outcomes[1][case.name]) - allowed:
            undocumented[case.name] = (more, outcomes[0][case.name], outcomes[1][case.name])
    assert not undocumented


def test_every_documented_difference_is_there(outcomes: tuple[dict[str, Outcome], dict[str, Outcome]]) -> None:
    text = " ".join(UPGRADING.read_text(encoding="utf-8").split())
    for difference in DIFFERENCES:
        assert difference.words in text
        names = [case.name for case in CASES if re.fullmatch(difference.cases, case.name)]
        assert names, difference
        seen = {aspect for name in names for aspect in observed(outcomes[0][name], outcomes[1][name])}
        assert seen & set(difference.aspects), difference


def test_the_page_lists_no_other_difference() -> None:
    shown = [difference.words for difference in DIFFERENCES] + [words for words, *_ in EXIT_CODES if words]
    unknown = [
        entry
        for entry in entries()
        if not any(words in entry for words in shown) and not any(entry.startswith(words) for words in ELSEWHERE)
    ]
    assert not unknown
    for words, place in ELSEWHERE.items():
        assert (ROOT / place).exists(), place
        assert any(entry.startswith(words) for entry in entries()), words


# ---- Exit codes

_ENDS: Final = "ends the process with one line and exit code 1"
#: Words of the page where the codes differ; the arguments; daphne's exit code and greendaphne's, ``None`` for one that serves on.
EXIT_CODES: Final[tuple[tuple[str, tuple[str, ...], int | None, int | None], ...]] = (
    ("", ("-h",), 0, 0),
    ("", ("--help",), 0, 0),
    ("", ("--he",), 0, 0),
    ("", (), 2, 2),
    ("", ("--bogus", LAYER), 2, 2),
    ("", ("-p", "x", LAYER), 2, 2),
    ("", ("-p",), 2, 2),
    ("", ("--ping", "5", LAYER), 2, 2),
    ("", ("--ws-protocol", "chat", LAYER), 2, 2),
    ("", (LAYER, "more"), 2, 2),
    ("", ("no_such_module:channel_layer",), 1, 1),
    ("", ("tests.differential.application:no_such_layer",), 1, 1),
    ("", ("-e", "imap:", LAYER), 1, 1),
    ("", ("--po", "PORT", LAYER), None, None),
    ("", ("--ws-protocol", "chat", "--ping-i", "5", "-p", "PORT", LAYER), None, None),
    ("``-v 3`` is ``-v 2``", ("-v", "3", "-p", "PORT", LAYER), 1, None),
    (_ENDS, ("-p", "TAKEN", LAYER), None, 1),
)


@pytest.mark.parametrize(("words", "argv", "theirs", "ours"), EXIT_CODES)
def test_exit_codes(tmp_path: Path, words: str, argv: tuple[str, ...], theirs: int | None, ours: int | None) -> None:
    if words:
        assert words in " ".join(UPGRADING.read_text(encoding="utf-8").split())
    with socket.create_server(("127.0.0.1", 0)) as taken:
        for command, expected in ((daphne.command(), theirs), (GREENDAPHNE, ours)):
            port = free_port()
            given = [{"PORT": str(port), "TAKEN": str(taken.getsockname()[1])}.get(word, word) for word in argv]
            assert run([*command, *given], tmp_path / "log", port, expected is None, "TAKEN" in argv) == (expected or 0), argv


def run(command: list[str], log: Path, port: int, serves: bool, taken: bool) -> int:
    """Run a command and return its exit code; one that serves is told to stop once it does."""
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "MESSAGES": str(log.with_name("messages")), "COLUMNS": "80"}
    with log.open("wb") as output:
        process = subprocess.Popen(command, cwd=ROOT, env=environment, stdin=subprocess.DEVNULL, stdout=output, stderr=output)
    try:
        deadline = time.monotonic() + PATIENCE
        while serves and not (b"Couldn't listen" in log.read_bytes() if taken else answers(port)):
            assert process.poll() is None, log.read_text()
            assert time.monotonic() < deadline, log.read_text()
            time.sleep(0.05)
        if serves:
            process.send_signal(signal.SIGTERM)
        return process.wait(PATIENCE)
    finally:
        process.kill()
        process.wait(PATIENCE)


def answers(port: int) -> bool:
    """Whether a server answers a request."""
    try:
        with socket.create_connection(("127.0.0.1", port), timeout=PATIENCE) as client:
            client.sendall(b"GET /echo HTTP/1.1\r\nHost: a\r\n\r\n")
            return client.recv(1024).startswith(b"HTTP/1.1 200 OK\r\n")
    except ConnectionRefusedError:
        return False
