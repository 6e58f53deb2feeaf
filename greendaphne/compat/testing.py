"""``daphne.testing``: the process that serves ``ChannelsLiveServerTestCase`` of Channels 4."""

from __future__ import annotations

import multiprocessing
import os
import traceback
from collections.abc import Callable, Mapping
from typing import Any

import gevent

from ..aio import hub
from ..net.endpoints import build_endpoint_description_strings
from ..server import Server

_process = os.getpid()


class DaphneProcess(multiprocessing.Process):
    """Serves an application in a process of its own; ``terminate()`` stops it.

    :param host: the address to listen on.
    :param get_application: returns the application; called in the process.
    :param kwargs: keyword arguments of ``Server``.
    :param setup: called before the process serves.
    :param teardown: called after it has served.
    :param port: the port to listen on; the system chooses one by default.
    """

    def __init__(
        self,
        host: str,
        get_application: Callable[[], Any],
        kwargs: Mapping[str, Any] | None = None,
        setup: Callable[[], object] | None = None,
        teardown: Callable[[], object] | None = None,
        port: int | None = None,
    ) -> None:
        super().__init__()
        self.host = host
        self.get_application = get_application
        self.kwargs = kwargs or {}
        self.setup = setup
        self.teardown = teardown
        #: The port, once ``ready`` is set.
        self.port = multiprocessing.Value("i", port or 0)
        self.ready = multiprocessing.Event()
        #: The exception that ended the process early, with its traceback as text.
        self.errors: Any = multiprocessing.Queue()

    def run(self) -> None:
        """Serve; called in the new process."""
        if os.getpid() != _process:
            # An event loop that was inherited belongs to the parent.
            gevent.reinit()
        hub.install()
        try:
            server = Server(
                application=self.get_application(),
                endpoints=build_endpoint_description_strings(host=self.host, port=self.port.value),
                **self.kwargs,
            )
            if self.setup is not None:
                self.setup()
            try:
                server.start()
                self.port.value = server.port
                self.ready.set()
                server.serve_forever(signal_handlers=True)
            finally:
                if self.teardown is not None:
                    self.teardown()
        except BaseException as error:  # noqa: BLE001 - the parent raises it
            self.errors.put((error, traceback.format_exc()))
