"""The data that all connections of one server share, for each protocol."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

from ..config import Limits, Timeouts
from ..core.message import HTTPError


class Service(NamedTuple):
    """How connections are served: their limits, and the functions that answer each request.

    Both functions get the stream (:class:`greendaphne.core.message.Stream`), and return when the response is complete.
    """

    limits: Limits
    timeouts: Timeouts
    #: Answers one stream.  HTTP/1 calls it in the connection's greenlet, HTTP/2 in one of the stream's own.
    serve: Callable[..., None]
    #: Answers a stream whose request is in error.
    refuse: Callable[[Any, HTTPError], None]
    #: Whether ``serve`` may return before the response of a stream that can be detached
    #: (:class:`greendaphne.core.detached.Detachable`), and takes up such a stream where it gets what was detached as its second argument.
    detaches: bool = False
