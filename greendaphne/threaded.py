"""A server in a thread of its own, for processes that do not live in gevent's event loop: a test, a script, Django's shell.

The thread has its own hub, so the rest of the process may block as it likes and need not be patched.  Where it is patched, the thread is a
greenlet, and all is the same but for blocking.
"""

from __future__ import annotations

import threading
from typing import Any

from gevent import get_hub
from gevent._hub_local import get_hub_if_exists

from .server import Server

#: Seconds for what a server leaves behind in its hub, such as threads that are told to end.
_AFTERMATH = 5.0


class ServerThread:
    """Runs a server in a thread.  As a context manager it returns the server, which listens then, and stops it in good order::

        with ServerThread(Server(layer, endpoints=["tcp:0:interface=127.0.0.1"])) as server:
            print(server.port)

    :param server: not started; once it has ended it may be started again.
    """

    def __init__(self, server: Server) -> None:
        self.server = server
        self._thread: threading.Thread | None = None
        self._error: BaseException | None = None

    def start(self) -> None:
        """Return once it listens.

        :raises EndpointError: and whatever else :meth:`Server.start` raises.
        :raises RuntimeError: where it runs already.
        """
        if self._thread is not None:
            raise RuntimeError("the server has been started already")
        self._error = None
        started = threading.Event()
        # Should it be forgotten, it does not keep the process alive.
        self._thread = threading.Thread(target=self._run, args=(started,), name="greendaphne", daemon=True)
        self._thread.start()
        started.wait()
        if self._failed():
            self.stop()

    def stop(self) -> None:
        """End in good order and return when that is done; nothing happens where it does not run.

        :raises BaseException: what ended the server early, if anything did.
        """
        if self._thread is None:
            return
        self.server.stop()
        self._thread.join()
        self._thread = None
        if self._error is not None:
            raise self._error

    def _failed(self) -> bool:
        return self._error is not None

    def __enter__(self) -> Server:
        self.start()
        return self.server

    def __exit__(self, *details: object) -> None:
        self.stop()

    def _run(self, started: threading.Event) -> None:
        native = get_hub_if_exists() is None
        try:
            self.server.start()
            started.set()
            self.server.serve_forever()
        except BaseException as error:  # noqa: BLE001 - raised in the thread that waits for it
            self._error = error
        finally:
            if native:
                _take_down(get_hub())
            started.set()


def _take_down(hub: Any) -> None:
    """Leave nothing of this thread's hub behind: gevent itself would keep it for ever when the thread ends."""
    # Its threads first, while there is a loop to wait for them in; then what else has not ended; then the loop.
    hub.threadpool.kill()
    hub.join(_AFTERMATH)
    hub.destroy(destroy_loop=True)
