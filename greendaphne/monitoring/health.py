"""The page for health checks: whether the server can serve."""

from __future__ import annotations

from collections.abc import Callable
from typing import Final

from ..core.message import Request
from ..serving.localpages import Page

_FIELDS = ((b"Content-Type", b"text/plain; charset=utf-8"), (b"Cache-Control", b"no-store"))
_OK: Final[Page] = (200, _FIELDS, b"ok\n")
# The drain may not have closed this connection yet, so the response does.
_DRAINING: Final[Page] = (503, (*_FIELDS, (b"Connection", b"close")), b"draining\n")


class Health:
    """Answers health checks: 200, or 503 with the reason.

    :param problem: returns the reason why the application cannot serve, ``""`` where it can.
    """

    def __init__(self, problem: Callable[[], str]) -> None:
        self._problem = problem
        #: Whether the server is draining.
        self.draining = False

    def __call__(self, request: Request) -> Page:
        """Answer a check; see :data:`greendaphne.serving.localpages.Handler`."""
        if self.draining:
            return _DRAINING
        problem = self._problem()
        # The drain may have begun during the check of the application.
        return self._unless_draining((503, _FIELDS, f"{problem}\n".encode("ascii", "replace")) if problem else _OK)

    def _unless_draining(self, page: Page) -> Page:
        return _DRAINING if self.draining else page
