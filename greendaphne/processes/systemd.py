"""Notifications to systemd (``sd_notify(3)``): readiness, reloads, stops and the watchdog.

A notification is one datagram to the socket that ``NOTIFY_SOCKET`` names.  A notification that cannot be sent at once is dropped.
"""

from __future__ import annotations

import logging
import os
import socket
import time
from collections.abc import MutableMapping
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from .lifecycle import RunningServer

logger = logging.getLogger("greendaphne.processes")

_NOTIFY_SOCKET: Final = "NOTIFY_SOCKET"
_WATCHDOG_USEC: Final = "WATCHDOG_USEC"
_WATCHDOG_PID: Final = "WATCHDOG_PID"
_MICROSECONDS: Final = 1_000_000


class ServiceManager:
    """The service manager that started this process.

    :param address: path of its socket; one that begins with ``@`` is in the abstract namespace.
    :param watchdog: the longest time in seconds between two notifications that it expects; 0 for no limit.
    """

    def __init__(self, address: str, watchdog: float = 0) -> None:
        self.watchdog = watchdog
        self._address = "\0" + address[1:] if address.startswith("@") else address
        self._failed = False

    def notify(self, **variables: object) -> None:
        """Send ``variables``, such as ``READY=1``; values contain no line end."""
        text = "\n".join(f"{name}={value}" for name, value in variables.items())
        try:
            with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as sock:
                sock.setblocking(False)
                sock.sendto(text.encode(), self._address)
        except OSError as error:
            if not self._failed:
                logger.warning("Cannot notify the service manager: %s", error)
            self._failed = True

    def ready(self, status: str) -> None:
        """This process, or the workers of this master, serve; also reports the end of a reload."""
        self.notify(READY=1, MAINPID=os.getpid(), STATUS=status)

    def reloading(self) -> None:
        """A reload begins; :meth:`ready` ends it."""
        self.notify(RELOADING=1, MONOTONIC_USEC=int(time.monotonic() * _MICROSECONDS), STATUS="Reloading")

    def stopping(self, status: str) -> None:
        """The drain begins."""
        self.notify(STOPPING=1, STATUS=status)

    def alive(self) -> None:
        """The process works; restarts the manager's watchdog time."""
        self.notify(WATCHDOG=1)


def service_manager(environment: MutableMapping[str, str] = os.environ) -> ServiceManager | None:
    """Return the service manager that asks for notifications; ``None`` without one.

    Removes its variables from ``environment``, so that programs started by the application do not send notifications for this process.
    """
    address = environment.pop(_NOTIFY_SOCKET, "")
    usec, pid = environment.pop(_WATCHDOG_USEC, ""), environment.pop(_WATCHDOG_PID, "")
    if not address.startswith(("/", "@")):
        return None
    watched = usec.isascii() and usec.isdigit() and pid in ("", str(os.getpid()))
    return ServiceManager(address, int(usec) / _MICROSECONDS if watched else 0)


class Notifier:
    """Notifies the service manager of the stages of a server that runs without a master."""

    def __init__(self, manager: ServiceManager) -> None:
        self._manager = manager
        self._server: RunningServer | None = None

    def started(self, server: RunningServer) -> None:
        self._server = server
        self._manager.ready(self._status)
        if self._manager.watchdog:
            import gevent

            gevent.spawn(self._watch, self._manager.watchdog / 2)

    def _watch(self, interval: float) -> None:
        # In the hub: a blocked hub sends nothing, so the service manager restarts the server.
        import gevent

        while self._server is not None:
            self._manager.alive()
            gevent.sleep(interval)

    @property
    def _status(self) -> str:
        assert self._server is not None
        return f"Serving {', '.join(str(listener.endpoint) for listener in self._server.listeners)}"

    def reloading(self) -> None:
        self._manager.reloading()

    def reloaded(self) -> None:
        self._manager.ready(self._status)

    def stopping(self, failed: bool) -> None:
        assert self._server is not None
        self._manager.stopping(f"Stopping; {self._server.connections} connections are open")

    def stopped(self) -> None:
        self._server = None
