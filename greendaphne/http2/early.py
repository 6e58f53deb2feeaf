"""Early answers: responses that are complete before their requests are, and what becomes of the rest of these."""

from __future__ import annotations

from time import monotonic
from typing import Any, Final

import gevent
from h2.errors import ErrorCodes

from .engine import Engine
from .writer import Writer

#: Seconds for which an early answer stands before the request is reset, unless ``timeouts.linger`` is shorter.
EARLY_ANSWER_DELAY: Final = 0.5


class EarlyAnswers:
    """The streams of one connection that were answered before the request's end; the rest of the request is dropped.

    RFC 9113 section 8.1 has RST_STREAM(NO_ERROR) follow an early answer, and clients keep the answer.  Not all do when the reset comes in
    the same segment (curl 7), so it is sent only to those that have not stopped by themselves after a while.

    :param linger: ``timeouts.linger``, in seconds.
    """

    __slots__ = ("_engine", "_seconds", "_streams", "_timer", "_writer")

    def __init__(self, engine: Engine, writer: Writer, linger: float) -> None:
        self._engine = engine
        self._writer = writer
        self._seconds = min(linger, EARLY_ANSWER_DELAY)
        # Until when the rest of each request is dropped, on the monotonic clock; the earliest first.
        self._streams: dict[int, float] = {}
        self._timer: Any = None

    def __len__(self) -> int:
        return len(self._streams)

    def add(self, stream_id: int) -> None:
        """The stream was answered."""
        self._streams[stream_id] = monotonic() + self._seconds
        if self._timer is None:
            self._timer = gevent.spawn(self._run)

    def discard(self, stream_id: int) -> None:
        """The client has ended or reset the stream."""
        if self._streams:
            self._streams.pop(stream_id, None)

    def _run(self) -> None:
        streams = self._streams
        while streams:
            stream_id, end = next(iter(streams.items()))
            left = end - monotonic()
            if left > 0:
                gevent.sleep(left)
            elif streams.pop(stream_id, None) is not None:
                self._engine.reset(stream_id, ErrorCodes.NO_ERROR)
                self._writer.flush()
        self._timer = None

    def end(self) -> None:
        """The connection ends: reset nothing."""
        if self._timer is not None:
            self._timer.kill(block=False)
