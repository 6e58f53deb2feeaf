"""Messages of HTTP applications beyond the plain ones: files, early hints, trailers (ASGI "extensions").

Files are sent by the connection's greenlet, which may wait for the client; disks are waited for in a native thread.
"""

from __future__ import annotations

import asyncio
import errno
import fcntl
import os
import stat
from collections.abc import Callable
from typing import Any, Final, Protocol

from gevent import get_hub

from ...core.message import ResponseError, Stream
from .callables import Message
from .values import as_headers

#: Bytes of a file that are read at a time where the kernel cannot send it.
_READ_SIZE: Final = 256 * 1024


class Answering(Protocol):
    """What the messages use of a request; :class:`~greendaphne.applications.asgi.http.HTTPConversation` has it."""

    @property
    def in_body(self) -> bool:
        """Whether the response has been started, and its last body event not been sent."""

    async def whole_body(self, send: Callable[[], object]) -> None:
        """Have the greenlet send the whole body by ``send``, which may wait."""

    async def part_of_body(self, send: Callable[[], object], *, last: bool) -> None:
        """Have the greenlet send a part of the body by ``send``, which may wait."""

    async def interim(self, send: Callable[[], object]) -> None:
        """Have the greenlet send something before the response by ``send``, which may wait."""

    async def trailers(self, headers: list[tuple[bytes, bytes]], *, more: bool) -> None:
        """Take the trailers of one event; the last ends the response."""


async def send(conversation: Answering, stream: Stream, kind: str, message: Message) -> None:
    """Do what a message that is no ``http.response.start`` or ``.body`` says.

    :raises RuntimeError: for a message out of order.
    :raises ValueError: for an unknown one.
    """
    if kind == "http.response.pathsend":
        _require_body(conversation, kind)
        # Before the head leaves: the application may answer something else.
        opening = asyncio.get_running_loop().run_in_executor(None, _open, message["path"])
        try:
            descriptor, size = await asyncio.shield(opening)
        except asyncio.CancelledError:
            opening.add_done_callback(_close_opened)
            raise
        held = _Held(descriptor)
        try:
            await conversation.whole_body(lambda: held.use(lambda: _send_file(stream, descriptor, 0, size)))
        finally:
            held.release()
    elif kind == "http.response.zerocopysend":
        _require_body(conversation, kind)
        await _zero_copy(conversation, stream, message)
    elif kind == "http.response.early_hint":
        links = [(b"link", bytes(link)) for link in message.get("links", ())]
        await conversation.interim(lambda: stream.inform(103, links))
    elif kind == "http.response.trailers":
        await conversation.trailers(as_headers(message.get("headers") or ()), more=bool(message.get("more_trailers", False)))
    else:
        raise ValueError(f"the message type {kind!r} is not known")


def _require_body(conversation: Answering, kind: str) -> None:
    if not conversation.in_body:
        raise RuntimeError(f"{kind} is sent before http.response.start or after the body")


def _open(path: Any) -> tuple[int, int]:
    """The descriptor of the regular file ``path``, and its size."""
    # O_NONBLOCK, because open(2) of a FIFO would wait for its writer; regular files ignore it.
    descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK)
    status = os.fstat(descriptor)
    if not stat.S_ISREG(status.st_mode):
        os.close(descriptor)
        number = errno.EISDIR if stat.S_ISDIR(status.st_mode) else errno.EINVAL
        raise OSError(number, os.strerror(number) if number == errno.EISDIR else "Not a regular file", path)
    return descriptor, status.st_size


def _close_opened(opening: asyncio.Future[tuple[int, int]]) -> None:
    """Close the file that was opened for a task that was cancelled meanwhile."""
    if not opening.cancelled() and opening.exception() is None:
        os.close(opening.result()[0])


class _Held:
    """A descriptor that the greenlet may still use after the task was cancelled; the last of both closes it.

    A number that is closed too early may be that of another client's file when the greenlet goes on.
    """

    def __init__(self, descriptor: int) -> None:
        self._descriptor = descriptor
        self._users = 1

    def use(self, function: Callable[[], object]) -> None:
        """Call ``function``, which uses the descriptor."""
        self._users += 1
        try:
            function()
        finally:
            self.release()

    def release(self) -> None:
        self._users -= 1
        if not self._users:
            os.close(self._descriptor)


async def _zero_copy(conversation: Answering, stream: Stream, message: Message) -> None:
    file = message["file"]
    # The descriptor stays the application's, which may close it as soon as this returns.
    descriptor = file if isinstance(file, int) else file.fileno()
    offset = message.get("offset")
    count = message.get("count")
    position = None
    if offset is None:
        position = offset = os.lseek(descriptor, 0, os.SEEK_CUR)
    if count is None:
        count = max(os.fstat(descriptor).st_size - offset, 0)
    # The greenlet may use it a moment longer where the task is cancelled.
    own = fcntl.fcntl(descriptor, fcntl.F_DUPFD_CLOEXEC, 0)
    held = _Held(own)
    try:
        last = not message.get("more_body", False)
        await conversation.part_of_body(lambda: held.use(lambda: _send_file(stream, own, offset, count)), last=last)
    finally:
        held.release()
    if position is not None:
        os.lseek(descriptor, position + count, os.SEEK_SET)


def _send_file(stream: Stream, descriptor: int, offset: int, count: int) -> None:
    """Send a part of a file as body bytes; runs in the connection's greenlet."""
    if stream.sendfile(descriptor, offset, count):
        return
    pool = get_hub().threadpool
    while count:
        data = pool.apply(os.pread, (descriptor, min(count, _READ_SIZE), offset))
        if not data:
            raise ResponseError(f"the file is {count} bytes shorter than it was")
        stream.write(data)
        offset += len(data)
        count -= len(data)
