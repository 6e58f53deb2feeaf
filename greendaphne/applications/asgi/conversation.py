"""What a task on the event loop and the greenlet of a connection share, for HTTP and for WebSockets.

Both run in one thread, so plain attributes do.  The task never waits for a socket: it hands data to ``offer``, and it hands what may wait,
an *errand*, to the greenlet.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable
from typing import Any, TypeVar

from gevent.hub import Waiter

from ...aio.loop import HubLoop
from .errors import ClientGone

T = TypeVar("T")


class Conversation:
    """One client's conversation with the application.

    :param loop: where the application's task runs.
    """

    __slots__ = ("_errands", "_loop", "_queued", "_receivers", "_senders", "_waiter", "gone", "left")

    def __init__(self, loop: HubLoop) -> None:
        self._loop = loop
        #: Whether the client has left, or the server has given it up.
        self.gone = False
        #: Whether the greenlet does no more errands.
        self.left = False
        # Futures of receive() calls that wait; and the order of send() calls where one waits, with their number.
        self._receivers: list[asyncio.Future[None]] | None = None
        self._senders: asyncio.Lock | None = None
        self._queued = 0
        self._errands: deque[tuple[Callable[[], object], asyncio.Future[Any]]] | None = None
        # The greenlet, where it waits.
        self._waiter: Waiter[None] | None = None

    # ---- the task's side

    async def _signal(self) -> None:
        """Wait until something has changed for ``receive``."""
        future = self._loop.create_future()
        if self._receivers is None:
            self._receivers = []
        self._receivers.append(future)
        try:
            await future
        finally:
            self._forget(future)

    def _forget(self, future: asyncio.Future[None]) -> None:
        """Wake ``future`` no more, if it is among those that wait."""
        receivers = self._receivers or ()
        if future in receivers:
            self._receivers = [each for each in receivers if each is not future]

    def _wake_receivers(self) -> None:
        receivers, self._receivers = self._receivers, None
        for future in receivers or ():
            if not future.done():
                future.set_result(None)

    async def _in_turn(self, offer: Callable[[], bool], has_room: Callable[[Callable[[], None]], bool]) -> None:
        """Call ``offer`` until it takes what it has, after all earlier calls."""
        if self._senders is None:
            self._senders = asyncio.Lock()
        self._queued += 1
        try:
            async with self._senders:
                while not offer():
                    future = self._loop.create_future()
                    if not has_room(_resolver(future)):
                        await future
        finally:
            self._queued -= 1

    async def _errand(self, function: Callable[[], T]) -> T:
        """Have the greenlet call ``function``, which may wait; returns what it returns and raises what it raises.

        :raises ClientGone: where the greenlet has left.
        """
        if self.left:
            raise ClientGone
        future: asyncio.Future[T] = self._loop.create_future()
        if self._errands is None:
            self._errands = deque()
        self._errands.append((function, future))
        self._call()
        return await future

    def _call(self) -> None:
        """Have the greenlet look at what there is to do; called in any greenlet."""
        waiter, self._waiter = self._waiter, None
        if waiter is not None:
            self._loop.call_in_hub(waiter.switch, None)

    # ---- the greenlet's side

    def _wait(self) -> None:
        """Wait until :meth:`_call`."""
        waiter: Waiter[None] = Waiter()
        self._waiter = waiter
        try:
            waiter.get()
        finally:
            self._waiter = None

    def _run_errand(self) -> None:
        assert self._errands
        function, future = self._errands.popleft()
        if future.done():
            return  # the task was cancelled, and may have closed what the errand needs
        try:
            result = function()
        except Exception as error:
            if future.done():
                if self.gone:
                    return  # its cancellation has ended the conversation
                raise
            future.set_exception(error)
        else:
            if not future.done():
                future.set_result(result)

    def _refuse_errands(self) -> None:
        self.left = True
        while self._errands:
            _, future = self._errands.popleft()
            if not future.done():
                future.set_exception(ClientGone())


def _resolver(future: asyncio.Future[None]) -> Callable[[], None]:
    def resolve() -> None:
        if not future.done():
            future.set_result(None)

    return resolve
