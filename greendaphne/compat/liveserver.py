"""The objects of daphne and Twisted that ``channels.test`` needs for its live-server test case.

``channels.test`` always imports ``ChannelLiveServerTestCase``, whose module imports Twisted's reactor.  It uses the reactor only once: to
read the server's port half a second after the start.  So that the other test cases work without Twisted, and this one works at all,
this one module gets substitutes.  Without Twisted, it gets a package ``twisted.internet`` with this one name.  With Twisted, it gets a
``Server`` that puts :class:`Reactor` into the module.  The test case starts the server in a forked process.
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
    """The part of a Twisted reactor that the test case uses."""

    def callLater(self, seconds: float, function: Callable[..., Any], *args: Any, **kwargs: Any) -> None:  # noqa: N802 -- Twisted's name
        """Call ``function`` after ``seconds``, in the event loop of the server."""
        gevent.spawn_later(seconds, function, *args, **kwargs)


class LiveServer(Server):
    """The server for a process forked from the tests, and for a module that sets timers in a reactor."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        if os.getpid() != _process:
            # The event loop was inherited and belongs to the parent.
            gevent.reinit()
        module = sys.modules.get(LIVE_SERVER_MODULE)
        if module is not None:
            module.__dict__["reactor"] = Reactor()
        super().__init__(*args, **kwargs)


def fill_twisted(module: ModuleType) -> None:
    """Make ``module`` a stand-in for one of :data:`TWISTED_MODULES` that disappears after its use."""

    def resolve(name: str) -> object:
        if name != "reactor":
            raise AttributeError(f"module {module.__name__!r} has no attribute {name!r}")
        for each in TWISTED_MODULES:
            sys.modules.pop(each, None)
        return Reactor()

    module.__dict__["__getattr__"] = resolve
