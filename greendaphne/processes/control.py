"""The protocol between master and worker: environment variables at the start, lines on a socket pair afterwards.

Signals alone are not enough.  They carry no reason; one sent before its handler is installed ends the worker; and where a service manager
sends SIGTERM to every process of a service, the master's own SIGTERM would be the worker's second.  The socket pair also tells each side
that the other has ended, for any reason.
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
#: The worker's index: from 0, unique among the running workers, including those that drain.
WORKER: Final = "_GREENDAPHNE_WORKER"
#: A directory for files that the workers of one master share, mode 0700; removed when the master ends.
RUN_DIR: Final = "_GREENDAPHNE_RUN_DIR"
#: Set if no worker has loaded the application yet (``--reload``): a worker that cannot load it then serves the traceback instead of ending.
SHOW_FAILURE: Final = "_GREENDAPHNE_SHOW_FAILURE"
#: The file in :data:`RUN_DIR` with the traceback of the last worker that could not load the application.
FAILURE_FILE: Final = "failure.txt"
#: Seconds between two ALIVE lines; not set without a watchdog.
HEARTBEAT: Final = "_GREENDAPHNE_HEARTBEAT"

#: Worker to master: it listens and serves; a blank and the name of the application follow.
READY: Final = b"ready"
#: Worker to master, instead of READY: it serves a page with the traceback of an application that does not load.
SHOWS_FAILURE: Final = b"shows-failure"
#: Worker to master: it drains without an order of the master; not sent when it ends because of a failure.
STOPPING: Final = b"stopping"
#: Worker to master: it asks to be replaced, and serves until it is told to stop; a blank and the reason follow.
RECYCLE: Final = b"recycle"
#: Worker to master: its hub runs.
ALIVE: Final = b"alive"

#: Master to worker: drain; other workers continue to serve.
RETIRE: Final = b"retire"
#: Master to worker: drain; all workers stop.
STOP: Final = b"stop"
#: Master to worker: end at once, without waiting for open requests.
QUIT: Final = b"quit"
#: Master to worker: the successor could not load the application; :data:`FAILURE_FILE` says why.
FAILED: Final = b"failed"
#: Master to worker: reopen log files.
REOPEN: Final = b"reopen"

#: The longest line in bytes.
MAX_LINE: Final = 1024


class Inheritance(NamedTuple):
    """The environment variables of a worker, parsed."""

    #: Pairs of endpoint string and descriptor.
    sockets: list[tuple[str, int]]
    control: int
    number: int
    #: Seconds between two ALIVE lines; 0 for none.
    heartbeat: float


def is_worker() -> bool:
    """Whether this process was started by a master."""
    return SOCKETS in os.environ


def protect() -> None:
    """Make the descriptors that the master gave this process non-inheritable, because the application may start programs while it is
    imported."""
    for number in [int(os.environ[CONTROL]), *(int(number) for _, number in json.loads(os.environ[SOCKETS]))]:
        os.set_inheritable(number, False)


def inheritance(environment: MutableMapping[str, str] = os.environ) -> Inheritance | None:
    """Return the values that the master gave this process; ``None`` without a master.

    Removes the variables that concern only this process from ``environment``, so that programs started by the application do not use them.
    """
    sockets = environment.pop(SOCKETS, None)
    if sockets is None:
        return None
    pairs = [(str(description), int(number)) for description, number in json.loads(sockets)]
    control, heartbeat = int(environment.pop(CONTROL)), float(environment.pop(HEARTBEAT, "0"))
    return Inheritance(pairs, control, int(environment[WORKER]), heartbeat)


def opened(environment: Mapping[str, str] = os.environ) -> list[str]:
    """The strings of the endpoints that the master opened; empty without a master."""
    return [str(description) for description, _ in json.loads(environment.get(SOCKETS, "[]"))]


def check(sockets: Sequence[tuple[str, int]], descriptions: Sequence[str]) -> None:
    """Check that the master opened the endpoints that this process has to serve.

    :raises EndpointError: if it did not, for example after a change of the configuration.
    """
    from ..net.endpoints import EndpointError

    if [description for description, _ in sockets] != list(descriptions):
        opened = ", ".join(description for description, _ in sockets)
        raise EndpointError(f"The endpoints are not those that the running server opened ({opened}): they change with a restart only.")


def write_failure(text: str, environment: Mapping[str, str] = os.environ) -> None:
    """Store ``text`` for the worker that continues to serve."""
    with open(os.path.join(environment[RUN_DIR], FAILURE_FILE), "w", encoding="utf-8", errors="backslashreplace") as file:
        file.write(text)


def read_failure(environment: Mapping[str, str] = os.environ) -> str:
    """The text that :func:`write_failure` stored; empty if there is none."""
    try:
        with open(os.path.join(environment[RUN_DIR], FAILURE_FILE), encoding="utf-8") as file:
            return file.read()
    except OSError:
        return ""


def encode_sockets(pairs: Iterable[tuple[str, int]]) -> str:
    """The value of :data:`SOCKETS`."""
    return json.dumps([list(pair) for pair in pairs])


class Lines:
    """Splits received bytes into whole lines; cuts a line that is too long."""

    def __init__(self) -> None:
        self._rest = b""

    def feed(self, data: bytes) -> list[bytes]:
        """Return the lines that ``data`` completes, without their ends."""
        *lines, self._rest = (self._rest + data).split(b"\n")
        self._rest = self._rest[:MAX_LINE]
        return lines
