"""Several applications behind one server: by kind of request, and by path.

The parts start and stop together.  Each part is told of its mount point by the request's root path, which becomes ``root_path`` or
``SCRIPT_NAME``; the path itself stays whole.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any
from urllib.parse import quote, unquote, unquote_to_bytes

from ..core.message import Request, Stream
from ..serving.session import Session
from .base import Application


class Group(Application):
    """Applications that live together.

    :param parts: in the order in which they start; they stop in the reverse order.
    """

    def __init__(self, parts: Sequence[Application]) -> None:
        self._parts = parts
        self._started: list[Application] = []
        self.interface = "+".join(dict.fromkeys(part.interface for part in parts))  # type: ignore[misc]

    @property
    def router(self) -> Any:
        """The reply router of the first part that serves a channel layer."""
        return next((part.router for part in self._parts if hasattr(part, "router")), None)

    def check(self) -> None:
        for part in self._parts:
            part.check()

    def start(self) -> None:
        for part in self._parts:
            # One that fails may have begun.
            self._started.append(part)
            part.start()

    def drain(self, *, succeeded: bool = False) -> None:
        for part in self._parts:
            part.drain(succeeded=succeeded)

    def stop(self, patience: float = 0, *, at_once: bool = False) -> None:
        while self._started:
            self._started.pop().stop(patience, at_once=at_once)

    def end_now(self) -> None:
        for part in self._parts:
            part.end_now()

    def health(self) -> str:
        return next((problem for part in self._parts if (problem := part.health())), "")

    def metric_families(self) -> Iterable[Any]:
        names = set()
        for part in self._parts:
            for family in part.metric_families():
                # Parts of one interface have the same families: the first one's are shown.
                if family.name not in names:
                    names.add(family.name)
                    yield family


class ByKind(Group):
    """HTTP goes to one application and WebSockets to another.

    :param http: the application for requests.
    :param websocket: that for WebSockets.
    """

    def __init__(self, http: Application, websocket: Application) -> None:
        super().__init__([http, websocket])
        # Their own methods, so that a request costs no call more.
        self.http = http.http  # type: ignore[method-assign]
        self.websocket = websocket.websocket  # type: ignore[method-assign]


class Mounts(Group):
    """Applications by the path that they are mounted at; of several the longest counts.

    :param mounts: paths, percent-encoded and without a slash at the end, and applications.
    :param rest: the application for everything else.
    """

    def __init__(self, mounts: Iterable[tuple[str, Application]], rest: Application) -> None:
        ordered = sorted(mounts, key=lambda mount: len(mount[0]), reverse=True)
        super().__init__([rest, *(application for _, application in ordered)])
        self._mounts = [(unquote_to_bytes(path), unquote(path), application) for path, application in ordered]
        self._rest = rest

    def http(self, request: Request, stream: Stream) -> None:
        application, request = self._find(request)
        application.http(request, stream)

    def websocket(self, request: Request, session: Session) -> None:
        application, request = self._find(request)
        application.websocket(request, session)

    def _find(self, request: Request) -> tuple[Application, Request]:
        """The application at the request's path, and the request as it gets it."""
        raw = path = request.path
        if b"%" in path:
            # A path can be encoded in several ways, and applications compare it decoded too.
            path = unquote_to_bytes(path)
        root = request.root_path.rstrip("/")
        if root:
            own = root.encode("utf-8", "surrogateescape")
            if path.startswith(own) and path[len(own) : len(own) + 1] in (b"", b"/"):
                path = path[len(own) :]
            else:
                # A proxy has taken the server's own mount point off; an application could not tell where the longer one ends.
                raw = quote(own, "/~!$&'()*+,;=:@").encode("ascii") + raw
        for prefix, name, application in self._mounts:
            if path.startswith(prefix) and path[len(prefix) : len(prefix) + 1] in (b"", b"/"):
                return application, request._replace(path=raw, root_path=root + name)
        return self._rest, request
