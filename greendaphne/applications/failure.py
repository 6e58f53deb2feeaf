"""The application of a server whose code has never loaded (``--reload``): it shows why."""

from __future__ import annotations

from ..core.message import HTTPError, Request, Stream
from ..serving.failurepage import failure_page, send_page
from ..serving.session import Session
from .base import Application


class FailedApplication(Application):
    """Answers all requests with a traceback.

    :param text: the traceback.
    """

    interface = "failure"

    def __init__(self, text: str) -> None:
        self._page = failure_page(text, serving=False)

    def http(self, request: Request, stream: Stream) -> None:
        send_page(stream, self._page)

    def websocket(self, request: Request, session: Session) -> None:
        raise HTTPError(503, "The application does not load.", [(b"Retry-After", b"1")])

    def health(self) -> str:
        return "the application does not load"
