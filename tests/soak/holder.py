"""Keeps sockets that systemd-socket-activate opened, and starts a server on them again whenever it has ended.

What systemd's own socket units do: ``python -m tests.soak.holder COMMAND …`` runs the command with LISTEN_FDS and LISTEN_PID, writes its
process number to standard output, and begins anew when it has ended.  SIGTERM ends both.
"""

from __future__ import annotations

import os
import signal
import sys
from typing import Any

children: list[int] = []


def main() -> None:
    count = int(os.environ["LISTEN_FDS"])
    assert int(os.environ["LISTEN_PID"]) == os.getpid()
    for number in range(3, 3 + count):
        os.set_inheritable(number, True)
    signal.signal(signal.SIGTERM, end)
    while True:
        # SIGTERM between the fork and the note of whom to pass it on to would leave the child behind.
        signal.pthread_sigmask(signal.SIG_BLOCK, [signal.SIGTERM])
        child = os.fork()
        children[:] = [child]
        if not child:
            signal.signal(signal.SIGTERM, signal.SIG_DFL)
            signal.pthread_sigmask(signal.SIG_UNBLOCK, [signal.SIGTERM])
            os.environ["LISTEN_PID"] = str(os.getpid())
            os.execvp(sys.argv[1], sys.argv[1:])
        signal.pthread_sigmask(signal.SIG_UNBLOCK, [signal.SIGTERM])
        print(child, flush=True)
        os.waitpid(child, 0)


def end(number: int, frame: Any) -> None:
    for child in children:
        os.kill(child, signal.SIGTERM)
        os.waitpid(child, 0)
    sys.exit()


if __name__ == "__main__":
    main()
