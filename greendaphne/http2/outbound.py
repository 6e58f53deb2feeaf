"""What one stream has to send, and its place among the others of its connection."""

from __future__ import annotations

from collections import deque

from .compression import Field
from .priority import DEFAULT_URGENCY
from .states import StreamState


class Outbound(StreamState):
    """The sending side of a stream; owned by the writer."""

    __slots__ = ("_chunks", "ending", "incremental", "queued", "scheduled", "taken", "trailers", "urgency")

    def __init__(self, stream_id: int, receive_window: int, send_window: int, *, end_stream: bool) -> None:
        StreamState.__init__(self, stream_id, receive_window, send_window, end_stream=end_stream)
        self.urgency = DEFAULT_URGENCY
        self.incremental = False
        #: Whether the scheduler has the stream.
        self.scheduled = False
        #: Body bytes queued, and whether END_STREAM follows them.
        self.queued = 0
        self.ending = False
        #: Fields that follow the body, which carry END_STREAM then.
        self.trailers: list[Field] | None = None
        #: Body bytes that have left the queue.
        self.taken = 0
        self._chunks: deque[memoryview] | None = None

    def on_taken(self) -> None:
        """Some of what was queued has left, or everything and END_STREAM with it."""

    def put(self, data: bytes) -> None:
        """Queue ``data``, by reference."""
        if self._chunks is None:
            self._chunks = deque()
        self._chunks.append(memoryview(data))
        self.queued += len(data)

    def get(self, n: int) -> memoryview:
        """Up to ``n`` bytes from the front of the queue, no more than its first piece has."""
        assert self._chunks
        chunk = self._chunks[0]
        if len(chunk) <= n:
            self._chunks.popleft()
        else:
            self._chunks[0] = chunk[n:]
            chunk = chunk[:n]
        self.queued -= len(chunk)
        self.taken += len(chunk)
        return chunk

    def discard(self) -> None:
        """Drop everything queued."""
        self._chunks = None
        self.queued = 0
        self.ending = False
