"""A greenlet for each call of the application: neither context variables nor thread-locals outlive a request.

The greenlet of a connection serves many requests.  Under gevent both ``contextvars`` and ``threading.local`` belong to the greenlet, so
values that one request leaves would be there in the next one of the same client.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from gevent import get_hub
from greenlet import greenlet


def isolated(function: Callable[..., None], *arguments: Any) -> None:
    """Call ``function`` in a new greenlet and return when it has returned; raises what it raises.

    The calling greenlet is the parent of the new one, which begins at once and passes control back when it ends.  That costs two switches
    and no turn of the hub.  An exception that is thrown into the calling greenlet meanwhile, such as ``GreenletExit``, ends the new one.
    """
    inner = greenlet(function)
    try:
        inner.switch(*arguments)
    except BaseException as error:
        if inner.dead:
            raise
        # The exception was thrown into this greenlet, which waits for the other one.
        _end(inner, error)
        raise


def _end(inner: greenlet, error: BaseException) -> None:
    """Throw ``error`` into ``inner`` and wait for its end.  The hub throws, so that it restores what belongs to the greenlet."""
    hub = get_hub()
    hub.loop.run_callback(inner.throw, error)
    while not inner.dead:
        # The end of ``inner`` passes control to this greenlet, its parent.
        hub.switch()
