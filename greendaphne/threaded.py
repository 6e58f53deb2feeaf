"""A server in a separate thread, for processes that do not run gevent's event loop: a test, a script, Django's shell.

The thread has its own hub, so the rest of the process may block and need not be patched.  In a patched process the thread is a
greenlet; the only difference is that blocking code then blocks the server.
"""

from __future__ import annotations

import threading
from typing import Any

from gevent import get_hub
from gevent._hub_local import get_hub_if_exists

from .server import Server

#: Seconds for the remains of a server in its hub, such as threads that have been asked to end.
_AFTERMATH = 5.0


class ServerThread:
    """Runs a server in a thread.  As a context manager it returns the listening server, and stops it gracefully::

        with ServerThread(Server(layer, endpoints=["tcp:0:interface=127.0.0.1"])) as server:
            print(server.port)

    :param server: a server that is not started; after it has ended it may be started again.
    """

    def __init__(self, server: Server) -> None:
        self.server = server
        self._thread: threading.Thread | None = None
        self._error: BaseException | None = None

    def start(self) -> None:
        """Start the server; returns once it listens.

        :raises EndpointError: and other exceptions of :meth:`Server.start`.
        :raises RuntimeError: where it is already running.
        """
        if self._thread is not None:
            raise RuntimeError("the server has been started already")
        self._error = None
        started = threading.Event()
        # A daemon, so that a thread that is never stopped does not keep the process alive.
        self._thread = threading.Thread(target=self._run, args=(started,), name="greendaphne", daemon=True)
        self._thread.start()
        started.wait()
        if self._failed():
            self.stop()

    def stop(self) -> None:
        """Stop the server gracefully and wait for its end; does nothing where it is not running.

        :raises BaseException: the exception that ended the server early, if any.
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
                _destroy_hub(get_hub())
            started.set()


def _destroy_hub(hub: Any) -> None:
    """Destroy this thread's hub; otherwise gevent would keep it after the thread's end."""
    # First its threads, because waiting for them needs the loop; then other greenlets; then the loop.
    hub.threadpool.kill()
    hub.join(_AFTERMATH)
    hub.destroy(destroy_loop=True)
