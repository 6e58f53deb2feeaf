"""Ports for programs that cannot be told to choose one."""

from __future__ import annotations

import secrets
import socket
from contextlib import suppress
from pathlib import Path
from typing import Final

#: How many ports below those that the system gives out are tried.
_RANGE: Final = 10000
#: Ports that only root may take end before this one.
_UNPRIVILEGED: Final = 1024
_TRIES: Final = 100


def free_port() -> int:
    """A TCP port of the loopback interface on which nothing listens.

    The system gives it to no connection and to no socket that asks for any port, so it stays free until the program takes it.
    """
    first = int(Path("/proc/sys/net/ipv4/ip_local_port_range").read_text().split()[0])
    lowest = max(first - _RANGE, _UNPRIVILEGED)
    for _ in range(_TRIES if lowest < first else 0):
        port = lowest + secrets.randbelow(first - lowest)
        with suppress(OSError), socket.create_server(("127.0.0.1", port)):
            return port
    # The system's range leaves none.
    with socket.create_server(("127.0.0.1", 0)) as sock:
        return int(sock.getsockname()[1])
