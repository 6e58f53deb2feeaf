"""One worker as its master sees it: a process, what it has said, and when patience with it ends."""

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
    """Where a worker is in its life."""

    STARTING = "starting"
    SERVING = "serving"
    #: It drains; another one may have taken its place.
    STOPPING = "stopping"


class Child:
    """A worker process, started by the constructor.

    :param command: executable and arguments.
    :param index: the worker's; see :data:`control.WORKER`.
    :param generation: the number of reloads that preceded its start.
    :param environment: what it gets besides the variables that concern it alone.
    :param sockets: endpoint strings and the descriptors that listen.
    :param directory: where it starts.
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
        #: Why it wants to be replaced; empty while it does not.
        self.tired = ""
        self.started = self.heard = time.monotonic()
        #: When it is killed, on the monotonic clock, unless it has ended or come further by then.
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
            # A session of its own: what a terminal or a manager sends to the whole group is the master's to pass on.
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
        """Its process' number."""
        return self._process.pid

    @property
    def age(self) -> float:
        """Seconds since it was started."""
        return time.monotonic() - self.started

    def read(self) -> list[bytes]:
        """What it has said since the last call.

        :raises EOFError: behind its last word, when it cannot say more.
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
        """Tell it ``line``; whether it can hear that."""
        try:
            self.socket.send(line + b"\n")
        except OSError:
            return False
        return True

    def stop(self, line: bytes, patience: float) -> None:
        """Have it end, and be killed when it has not after ``patience`` seconds.

        :param line: what is said to one that serves: :data:`control.RETIRE`, :data:`control.STOP` or :data:`control.QUIT`.
        """
        # One that starts has nothing to lose, and would not listen before it serves.  One that does not listen at all lost its end of the
        # socket pair to an application that closes what it does not know.
        if not self.say(line) or self.state is State.STARTING:
            self.signal(signal.SIGTERM)
        self.state = State.STOPPING
        self.deadline = time.monotonic() + patience

    def signal(self, number: int) -> None:
        """Send it a signal."""
        self._process.send_signal(number)

    def poll(self) -> int | None:
        """Its exit code, negative for a signal; ``None`` while it lives."""
        return self._process.poll()


def describe(code: int) -> str:
    """How a process ended, for the log."""
    if code >= 0:
        return f"ended with exit code {code}"
    try:
        name = signal.Signals(-code).name
    except ValueError:
        name = f"signal {-code}"
    return f"was ended by {name}"


def working_directory() -> str:
    """The current directory, by the name under which it was entered.

    Where that is a symbolic link to the release of the day, workers started later are to find the release of their day.
    """
    current = os.getcwd()
    named = os.environ.get("PWD", "")
    try:
        return named if os.path.isabs(named) and os.path.samefile(named, current) else current
    except OSError:
        return current
