"""What master and worker say to each other: environment variables at the start, lines on a socket pair afterwards.

Signals alone would not do: they cannot say why, one sent before its handler is installed kills, and a service manager that sends SIGTERM to
every process of a service would make the master's own the second one.  The socket pair also tells each side that the other is gone,
however that happened.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterable, Mapping, MutableMapping, Sequence
from typing import Final, NamedTuple

#: The listening sockets: JSON, a list of pairs of endpoint string and descriptor, in the order of the endpoints.
SOCKETS: Final = "_GREENDAPHNE_SOCKETS"
#: The descriptor of the worker's end of the socket pair.
CONTROL: Final = "_GREENDAPHNE_CONTROL"
#: The worker's index: from 0, unique among the workers that live, those that end included.
WORKER: Final = "_GREENDAPHNE_WORKER"
#: A directory for what the workers of one master share, mode 0700; removed when the master ends.
RUN_DIR: Final = "_GREENDAPHNE_RUN_DIR"
#: Set where no worker has loaded the application yet (``--reload``): a worker that cannot load it shows why instead of ending.
SHOW_FAILURE: Final = "_GREENDAPHNE_SHOW_FAILURE"
#: The file in :data:`RUN_DIR` with the traceback of the last worker that could not load the application.
FAILURE_FILE: Final = "failure.txt"
#: Seconds between two ALIVE; not set where nobody asks for it.
HEARTBEAT: Final = "_GREENDAPHNE_HEARTBEAT"

#: Worker to master, with what it serves behind a blank: it listens and serves.
READY: Final = b"ready"
#: Worker to master, in the place of READY: it serves a page that shows why the application does not load.
SHOWS_FAILURE: Final = b"shows-failure"
#: Worker to master: it drains, for a reason of its own; not sent when a failure makes it end.
STOPPING: Final = b"stopping"
#: Worker to master, with a reason behind a blank: it asks to be replaced, and serves until it is told to stop.
RECYCLE: Final = b"recycle"
#: Worker to master: its hub runs.
ALIVE: Final = b"alive"

#: Master to worker: drain, others serve on.
RETIRE: Final = b"retire"
#: Master to worker: drain, nobody serves on.
STOP: Final = b"stop"
#: Master to worker: end now, whatever is open.
QUIT: Final = b"quit"
#: Master to worker: the successor could not load the application; :data:`FAILURE_FILE` says why.
FAILED: Final = b"failed"
#: Master to worker: reopen log files.
REOPEN: Final = b"reopen"

#: The longest line, bytes.
MAX_LINE: Final = 1024


class Inheritance(NamedTuple):
    """What a worker was given by its master."""

    #: Pairs of endpoint string and descriptor.
    sockets: list[tuple[str, int]]
    control: int
    number: int
    #: Seconds, 0 for none.
    heartbeat: float


def is_worker() -> bool:
    """Whether this process was started by a master."""
    return SOCKETS in os.environ


def protect() -> None:
    """Keep what the master gave this process from the programs that the application starts, perhaps while it is imported."""
    for number in [int(os.environ[CONTROL]), *(int(number) for _, number in json.loads(os.environ[SOCKETS]))]:
        os.set_inheritable(number, False)


def inheritance(environment: MutableMapping[str, str] = os.environ) -> Inheritance | None:
    """Return what the master gave this process, ``None`` where there is no master.

    What only this process may use is taken out of ``environment``, or a program that the application starts would take it for its own.
    """
    sockets = environment.pop(SOCKETS, None)
    if sockets is None:
        return None
    pairs = [(str(description), int(number)) for description, number in json.loads(sockets)]
    control, heartbeat = int(environment.pop(CONTROL)), float(environment.pop(HEARTBEAT, "0"))
    return Inheritance(pairs, control, int(environment[WORKER]), heartbeat)


def opened(environment: Mapping[str, str] = os.environ) -> list[str]:
    """The endpoint strings of what the master opened; empty where there is no master."""
    return [str(description) for description, _ in json.loads(environment.get(SOCKETS, "[]"))]


def check(sockets: Sequence[tuple[str, int]], descriptions: Sequence[str]) -> None:
    """Make sure that the master opened the endpoints that this process is to serve.

    :raises EndpointError: when it did not, as after a change of the configuration.
    """
    from ..net.endpoints import EndpointError

    if [description for description, _ in sockets] != list(descriptions):
        opened = ", ".join(description for description, _ in sockets)
        raise EndpointError(f"The endpoints are not those that the running server opened ({opened}): they change with a restart only.")


def write_failure(text: str, environment: Mapping[str, str] = os.environ) -> None:
    """Leave ``text`` for the worker that serves on."""
    with open(os.path.join(environment[RUN_DIR], FAILURE_FILE), "w", encoding="utf-8", errors="backslashreplace") as file:
        file.write(text)


def read_failure(environment: Mapping[str, str] = os.environ) -> str:
    """What :func:`write_failure` left; empty where there is nothing."""
    try:
        with open(os.path.join(environment[RUN_DIR], FAILURE_FILE), encoding="utf-8") as file:
            return file.read()
    except OSError:
        return ""


def encode_sockets(pairs: Iterable[tuple[str, int]]) -> str:
    """The value of :data:`SOCKETS`."""
    return json.dumps([list(pair) for pair in pairs])


class Lines:
    """Bytes as they come to whole lines; an overlong one is cut."""

    def __init__(self) -> None:
        self._rest = b""

    def feed(self, data: bytes) -> list[bytes]:
        """Return the lines that ``data`` completes, without their ends."""
        *lines, self._rest = (self._rest + data).split(b"\n")
        self._rest = self._rest[:MAX_LINE]
        return lines
