"""The master's view of one worker: its process, its messages, and its deadlines."""

from __future__ import annotations

import enum
import os
import signal
import socket
import subprocess
import time
from collections.abc import Mapping, Sequence
from typing import Final

from . import control
from .control import Lines

_RECEIVE: Final = 4096


class State(enum.Enum):
    """The states of a worker."""

    STARTING = "starting"
    SERVING = "serving"
    #: It drains; another one may have taken its place.
    STOPPING = "stopping"


class Child:
    """A worker process, started by the constructor.

    :param command: executable and arguments.
    :param index: the worker's; see :data:`control.WORKER`.
    :param generation: the number of reloads that preceded its start.
    :param environment: its environment, without the variables of :mod:`control`, which the constructor adds.
    :param sockets: endpoint strings and the descriptors that listen.
    :param directory: its working directory.
    :param heartbeat: seconds between two signs of life; 0 for none.
    :raises OSError: when it cannot be started.
    """

    def __init__(
        self,
        command: Sequence[str],
        index: int,
        generation: int,
        environment: Mapping[str, str],
        sockets: Sequence[tuple[str, int]],
        directory: str,
        heartbeat: float,
    ) -> None:
        self.index = index
        self.generation = generation
        self.state = State.STARTING
        #: Why it asks to be replaced; empty while it does not ask.
        self.tired = ""
        self.started = self.heard = time.monotonic()
        #: When it is killed, on the monotonic clock, unless it has reached the next state or ended by then.
        self.deadline: float | None = None
        self._lines = Lines()
        self.socket, theirs = socket.socketpair()
        try:
            self.socket.setblocking(False)
            own = {
                control.SOCKETS: control.encode_sockets(sockets),
                control.CONTROL: str(theirs.fileno()),
                control.WORKER: str(index),
            }
            if heartbeat:
                own[control.HEARTBEAT] = f"{heartbeat:.3f}"
            inherited = [theirs.fileno(), *(number for _, number in sockets)]
            # A session of its own: signals that a terminal or a manager sends to the whole group reach only the master, which passes them
            # on.
            self._process = subprocess.Popen(command, env={**environment, **own}, pass_fds=inherited, cwd=directory, start_new_session=True)
        except BaseException:
            self.socket.close()
            raise
        finally:
            theirs.close()

    def __str__(self) -> str:
        return f"Worker {self.index} (process {self.pid})"

    @property
    def pid(self) -> int:
        """The process ID."""
        return self._process.pid

    @property
    def age(self) -> float:
        """Seconds since it was started."""
        return time.monotonic() - self.started

    def read(self) -> list[bytes]:
        """The lines that it has sent since the last call.

        :raises EOFError: after its last line, when it has closed its end.
        """
        lines: list[bytes] = []
        try:
            while data := self.socket.recv(_RECEIVE):
                lines += self._lines.feed(data)
        except BlockingIOError:
            return lines
        except OSError:
            pass  # it ended with something unread
        if not lines:
            raise EOFError
        return lines

    def say(self, line: bytes) -> bool:
        """Send it ``line``; returns whether it still reads."""
        try:
            self.socket.send(line + b"\n")
        except OSError:
            return False
        return True

    def stop(self, line: bytes, patience: float) -> None:
        """End it; it is killed if it has not ended after ``patience`` seconds.

        :param line: the line for one that serves: :data:`control.RETIRE`, :data:`control.STOP` or :data:`control.QUIT`.
        """
        # A worker that starts has no clients, and reads no lines before it serves.  A worker whose application has closed unknown
        # descriptors has lost its end of the socket pair.
        if not self.say(line) or self.state is State.STARTING:
            self.signal(signal.SIGTERM)
        self.state = State.STOPPING
        self.deadline = time.monotonic() + patience

    def signal(self, number: int) -> None:
        """Send it a signal."""
        self._process.send_signal(number)

    def poll(self) -> int | None:
        """The exit code, negative for a signal; ``None`` while it runs."""
        return self._process.poll()


def describe(code: int) -> str:
    """Words for the log that say how a process ended."""
    if code >= 0:
        return f"ended with exit code {code}"
    try:
        name = signal.Signals(-code).name
    except ValueError:
        name = f"signal {-code}"
    return f"was ended by {name}"


def working_directory() -> str:
    """The current directory, under the name by which it was entered.

    If that is a symbolic link to the current release, workers that start later then use the release that is current at their start.
    """
    current = os.getcwd()
    named = os.environ.get("PWD", "")
    try:
        return named if os.path.isabs(named) and os.path.samefile(named, current) else current
    except OSError:
        return current
