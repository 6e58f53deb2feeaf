"""What ``channels.test`` needs of daphne and Twisted for its live-server test case.

``channels.test`` imports ``ChannelLiveServerTestCase`` always, and the module of that imports Twisted's reactor, for one use: to ask, half
a second after the start, which port the server listens on.  So that the other test cases work without Twisted, and this one works at all,
the module gets, and nobody else does: a package ``twisted.internet`` with this one name, where there is no Twisted, and a ``Server`` that
puts :class:`Reactor` into the module, where there is.  The test case starts the server in a forked process.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Callable
from types import ModuleType
from typing import Any

import gevent

from ..server import Server
from . import LIVE_SERVER_MODULE, TWISTED_MODULES

_process = os.getpid()


class Reactor:
    """As much of a Twisted reactor as the test case uses."""

    def callLater(self, seconds: float, function: Callable[..., Any], *args: Any, **kwargs: Any) -> None:  # noqa: N802 -- Twisted's name
        """Call ``function`` in ``seconds``, in the event loop that the server runs in."""
        gevent.spawn_later(seconds, function, *args, **kwargs)


class LiveServer(Server):
    """The server, made for a process that was forked off the tests and for a module that would ask the reactor for timers."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        if os.getpid() != _process:
            # The event loop was inherited and belongs to the parent.
            gevent.reinit()
        module = sys.modules.get(LIVE_SERVER_MODULE)
        if module is not None:
            module.__dict__["reactor"] = Reactor()
        super().__init__(*args, **kwargs)


def fill_twisted(module: ModuleType) -> None:
    """Make ``module`` a stand-in for one of :data:`TWISTED_MODULES` that disappears once it was used."""

    def resolve(name: str) -> object:
        if name != "reactor":
            raise AttributeError(f"module {module.__name__!r} has no attribute {name!r}")
        for each in TWISTED_MODULES:
            sys.modules.pop(each, None)
        return Reactor()

    module.__dict__["__getattr__"] = resolve
