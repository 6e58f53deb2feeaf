"""The class of the hub, which :mod:`.hub` installs and :mod:`.isolation` completes."""

from __future__ import annotations

import logging
import sys
from typing import ClassVar

import gevent
from gevent.hub import Hub

logger = logging.getLogger("greendaphne.aio")


class AsyncioHub(Hub):
    """A hub that gives each greenlet its own running loop, current task, asynchronous generator hooks and origin tracking depth.

    It is gevent's hub until the program imports asyncio.  From then on a switch of a greenlet without a running loop costs one additional
    call in Python.
    """

    #: Whether it is the class of new hubs.
    installed: ClassVar[bool] = False
    #: Whether :mod:`.isolation` itself imports asyncio, so that its end is waited for.
    pending: ClassVar[bool] = False
    #: Whether the self-test has failed, so that it is gevent's hub by another name.
    failed: ClassVar[bool] = False


def give_up(error: Exception) -> None:
    """Make :class:`AsyncioHub` behave as gevent's hub, and log why."""
    AsyncioHub.failed = True
    if "switch" in vars(AsyncioHub):
        del AsyncioHub.switch
    reason = " ".join(str(error).split()) or type(error).__name__
    version = "Python {}.{} with gevent {}".format(*sys.version_info[:2], gevent.__version__)
    logger.warning("asyncio code in greenlets is not supported on %s: %s", version, reason)
