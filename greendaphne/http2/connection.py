"""One HTTP/2 connection (RFC 9113): reads, opens streams and ends.

:class:`Http2Connection` runs in the connection's greenlet, which is the reader: it feeds the engine and tells the streams what arrived,
and never waits for a stream.  A :class:`~greendaphne.http2.writer.Writer` is the second greenlet; every request gets one of its own, in
which ``serve`` answers it.  The caller decides what is served, and how errors become responses.
"""

from __future__ import annotations

import logging
from enum import Enum
from functools import partial
from time import monotonic
from typing import Any, Final

import gevent
from gevent import GreenletExit
from h2.errors import ErrorCodes
from h2.exceptions import ProtocolError

from ..config import KIB
from ..core import greenlets
from ..core.detached import Detached
from ..core.greenlets import Greenlets, Task
from ..core.message import ClientDisconnected, ConnectionInfo, HTTPError, Request
from ..net.byte_stream import RECV_SIZE, ByteStream, lingering_close
from ..net.service import Service
from .budgets import EnhanceYourCalm
from .compression import Field, Section
from .early import EarlyAnswers
from .engine import Engine
from .fields import Head, MalformedMessage, check_trailers, parse_request
from .limits import MAX_WINDOW, Http2Limits
from .priority import parse_priority
from .stream import Http2Stream
from .writer import Writer

logger = logging.getLogger("daphne.http2_protocol")

#: RFC 9113 section 6.8: the last stream of a GOAWAY that only warns.
LAST_STREAM = MAX_WINDOW
#: Seconds between the warning and the final GOAWAY where the peer does not answer the PING sent with the first: a round trip.
GOAWAY_DELAY = 1.0
_GOAWAY_PING = b"goaway\0\0"

#: Bytes that a request takes besides its content: objects, a greenlet and its stack.  11 KiB while it waits for the application, more while
#: its response waits for the client.
_STREAM: Final = 16 * 1024
#: Bytes in the engine's buffers that the account is not told of: its base covers them.
_UNCHARGED = 32 * KIB
#: Seconds for the peer to see why the connection ends, where it is closed to make room.
_HURRY = 0.1


class _Goaway(Enum):
    """How far the graceful end of the connection is (RFC 9113 section 6.8)."""

    #: No GOAWAY was sent.
    NONE = 0
    #: The first GOAWAY was sent, which only warns.
    WARNED = 1
    #: The GOAWAY with the last stream that is served was sent.
    FINAL = 2


class Http2Connection:
    """Serves one connection until it ends.

    :param transport: the connected byte stream; closed when :meth:`run` returns.
    :param info: what all requests have in common.
    :param service: how the connection is served.
    :param initial: bytes that were received already, the beginning of the client's preface.
    """

    def __init__(
        self,
        transport: ByteStream,
        info: ConnectionInfo,
        service: Service,
        http2_limits: Http2Limits,
        initial: bytes = b"",
    ) -> None:
        limits, timeouts, self._serve, self._refuse, self.detaches = service
        self.timeouts = timeouts
        self.http2_limits = http2_limits
        self.engine = Engine(http2_limits, self, limits.request_field_size)
        #: Is told of what is held for the connection.
        self.account = info.account
        #: Bytes that the connection may hold before its streams wait for the client with each piece.
        self.share = limits.reply_queue
        self.writer = Writer(self.engine, transport, http2_limits, self.account)
        self._transport = transport
        self._info = info
        self._limits = limits
        self._initial = initial
        # What runs the streams; there is one for all connections of a hub.
        self._greenlets: Greenlets
        # Streams whose greenlet has not ended, whether or not the peer has given them up.
        self._streams: dict[int, Http2Stream] = {}
        #: Streams that were answered before the request's end.
        self.early_answers = EarlyAnswers(self.engine, self.writer, timeouts.linger)
        # PRIORITY_UPDATE frames for requests that have not come yet (RFC 9218 section 7.1).
        self._early_priorities: dict[int, tuple[int | None, bool | None]] = {}
        self._upload_windows = http2_limits.upload_windows
        self._goaway: _Goaway = _Goaway.NONE
        self._goaway_timer: Any = None
        self._peer_leaves = False
        self._ending = False
        self._killed = False
        # Seconds for the peer to see why the connection ends.
        self._linger = timeouts.linger
        # What the account was told of the buffers of the engine.
        self._charged = 0
        self._started = self._idle_since = monotonic()
        # When the frame or header section that has begun and not ended was first seen, and how far the engine was then.
        self._midway_since: float | None = None
        self._progress = 0
        self.engine.begin()

    @property
    def draining(self) -> bool:
        """Whether the peer has been told that the connection will end."""
        return self._goaway is not _Goaway.NONE

    @property
    def serving(self) -> int:
        """The number of requests that are being answered."""
        return len(self._streams)

    @property
    def idle(self) -> bool:
        """Whether no request is being answered."""
        return not self._streams

    # --- the reader ---

    def run(self) -> None:
        """Serve until the peer, a time limit, an error or :meth:`drain` ends the connection."""
        shared = self._greenlets = greenlets.enter()
        try:
            self._run()
        finally:
            greenlets.leave(shared)

    def _run(self) -> None:
        self.writer.start(self._greenlets)
        try:
            graceful = self._serve_until_end()
            self._cancel_streams()
            if graceful and not self.writer.failed:
                # What explains the end has to arrive before it; a peer that does not read is not waited for long.
                self.writer.close(self._linger)
                if self._transport.flush(self._linger):
                    lingering_close(self._transport, self._linger)
        except GreenletExit:
            self._killed = True
            raise
        finally:
            self._cancel_streams()
            self._transport.close()
            self.writer.close(0)
            self._charge(0)
            self._end_streams()
            self.engine.end()

    def _serve_until_end(self) -> bool:
        """Serve; returns whether the peer is to be told why the connection ends."""
        try:
            return self._read()
        except ClientDisconnected:
            return False
        except ProtocolError as error:
            self._log(error)
            return True

    def _read(self) -> bool:
        """Process what the peer sends; returns whether the connection ends by the server's will."""
        engine = self.engine
        transport = self._transport
        data = self._initial
        self._initial = b""
        while True:
            if data:
                while engine.receive(data):
                    # Whole frames are left: the other connections and this one's own requests go first.
                    self.writer.flush()
                    data = b""
                    engine.give_way()
                    if self._ending:
                        break
                self.writer.flush()
                held = engine.held
                if held > _UNCHARGED or self._charged:
                    self._charge(held if held > _UNCHARGED else 0)
            if self._ending:
                return True
            patience = self._patience()
            if patience <= 0:
                engine.send_goaway(engine.closed_streams.latest)
                return True
            try:
                data = transport.recv(RECV_SIZE, patience)
            except TimeoutError:
                data = b""
                continue
            if not data:
                return self._ending

    def _charge(self, held: int) -> None:
        """``held`` bytes are in the engine's buffers."""
        self.account.give(self._charged)
        self._charged = held
        self.account.take(held)

    def _patience(self) -> float:
        """Seconds to wait for the peer's next bytes; 0 or less where the connection has to end."""
        timeouts = self.timeouts
        engine = self.engine
        if not engine.settled:
            return self._started + timeouts.header - monotonic()
        if engine.midway:
            # Absolute, so that a drip does not extend it.
            now = monotonic()
            if self._midway_since is None or engine.progress != self._progress:
                self._midway_since = now
                self._progress = engine.progress
            return self._midway_since + timeouts.header - now
        self._midway_since = None
        if self._streams:
            return timeouts.keep_alive
        return self._idle_since + timeouts.keep_alive - monotonic()

    def _log(self, error: ProtocolError) -> None:
        client = self._info.client
        peer = f"{client[0]}:{client[1]}" if client else "a client"
        if isinstance(error, EnhanceYourCalm):
            logger.warning("Connection of %s ended: %s", peer, str(error))
        else:
            logger.debug("Connection of %s ended by a protocol error: %s", peer, str(error))

    def _cancel_streams(self) -> None:
        """Serve nothing from here on; greenlets that wait for the peer are told."""
        self._ending = True
        if self._goaway_timer is not None:
            self._goaway_timer.kill(block=False)
        self.early_answers.end()
        for stream in list(self._streams.values()):
            stream.cancel()
        self.writer.release()

    def _end_streams(self) -> None:
        """Wait for the streams' greenlets: their work is cancelled, but they may have something to release.

        Where the connection's greenlet is killed, theirs are too.
        """
        tasks = [stream.task for stream in self._streams.values() if stream.task is not None]
        try:
            if not self._killed:
                for task in tasks:
                    task.join()
        except GreenletExit:
            self._killed = True
            raise
        finally:
            if self._killed:
                for task in tasks:
                    task.kill()
                for task in tasks:
                    task.join()

    # --- the end ---

    def delivery(self) -> tuple[int, int] | None:
        """As :class:`greendaphne.net.byte_stream.ByteStream` says."""
        return self._transport.delivery()

    def drain(self) -> None:
        """Let the peer finish what it has open, and end (RFC 9113 section 6.8); called from another greenlet.

        Streams that the peer opens until it knows are still answered: the first GOAWAY only warns, the one that follows a round trip
        later is final.
        """
        if self._goaway is not _Goaway.NONE or self._ending:
            return
        self._goaway = _Goaway.WARNED
        self.engine.send_goaway(LAST_STREAM)
        self.engine.ping(_GOAWAY_PING)
        self.writer.flush()
        self._goaway_timer = gevent.spawn_later(GOAWAY_DELAY, self._send_final_goaway)

    def end_if_idle(self) -> None:
        """Do nothing: the final GOAWAY sees to it."""

    @property
    def idle_since(self) -> float:
        """Since when it serves no request, on the monotonic clock; 0 while it does."""
        return 0.0 if self._streams else self._idle_since

    def make_room(self) -> None:
        """End: it serves no request, and another client waits for a connection; called from another greenlet."""
        if not self._ending:
            self._linger = _HURRY
            self._goaway = _Goaway.WARNED
            self._send_final_goaway()

    def evict(self) -> None:
        """End at once, since it holds what others need; called from the hub.

        The peer is told ENHANCE_YOUR_CALM (RFC 9113 section 7).  Where it takes not even that in time, the connection is reset.
        """
        if self._ending:
            self._transport.abort()
            return
        self.engine.fail(ErrorCodes.ENHANCE_YOUR_CALM, b"out of memory")
        self._cancel_streams()
        self.writer.flush()
        self._transport.shutdown_read()

    def _send_final_goaway(self) -> None:
        if self._goaway is _Goaway.WARNED and not self._ending:
            self._goaway = _Goaway.FINAL
            self.engine.send_goaway(self.engine.closed_streams.latest)
            self.writer.flush()
            self._end_if_done()

    def _end_if_done(self) -> None:
        if (self._goaway is _Goaway.FINAL or self._peer_leaves) and not self._streams and not self._ending:
            self._ending = True
            self._transport.shutdown_read()

    # --- streams ---

    def _open(self, stream_id: int, head: Head, error: HTTPError | None, *, end_stream: bool) -> None:
        if not self.account.ask(_STREAM):
            # RFC 9113 section 8.7: nothing was done, and the client may send it again.
            self.engine.refuse(stream_id, ErrorCodes.REFUSED_STREAM)
            return
        stream = Http2Stream(self, stream_id, head.request, expect_continue=head.expect_continue, end_stream=end_stream)
        early = self._early_priorities.pop(stream_id, None) if self._early_priorities else None
        if early is not None or head.priority:
            urgency, incremental = parse_priority(head.priority) if early is None else early
            if urgency is not None:
                stream.urgency = urgency
            if incremental is not None:
                stream.incremental = incremental
        self.engine.open(stream)
        self._streams[stream_id] = stream
        stream.task = self._greenlets.spawn(self._serve_stream, stream, error)

    def _serve_stream(self, stream: Http2Stream, error: HTTPError | None) -> None:
        try:
            if stream.lost:
                return
            if error is None:
                self._serve(stream)
            else:
                self._refuse(stream, error)
        except ClientDisconnected:
            pass
        finally:
            if stream.detached is None:
                self.close_stream(stream)

    def resume(self, stream: Http2Stream) -> None:
        """Serve ``stream``, which was left without a greenlet, in one again; does not wait."""
        task = stream.task = self._greenlets.spawn(self._serve_resumed, stream, stream.detached)
        task.link(partial(self._end_resumed, stream))

    def _serve_resumed(self, stream: Http2Stream, detached: Detached) -> None:
        stream.detached = None
        try:
            self._serve(stream, detached)
        except ClientDisconnected:
            pass
        finally:
            self.close_stream(stream)

    def _end_resumed(self, stream: Http2Stream, task: Task) -> None:
        detached = stream.detached
        if detached is not None:
            # It was killed before it began.
            stream.detached = None
            detached.discard()

    def close_stream(self, stream: Http2Stream) -> None:
        """End ``stream``, for which nothing runs any more."""
        stream.close()
        self.account.give(_STREAM)
        del self._streams[stream.stream_id]
        self._upload_windows += stream.grown
        if not self._streams:
            self._idle_since = monotonic()
            self._end_if_done()
        self.writer.flush()

    def end_answered(self, stream: Http2Stream) -> None:
        """:meth:`close_stream` for a stream without a body whose whole response was put into the engine's buffer at once."""
        stream.lost = True
        self.account.give(_STREAM)
        del self._streams[stream.stream_id]
        if not self._streams:
            self._idle_since = monotonic()
            self._end_if_done()

    def grow_window(self, window: int) -> int:
        """How much a stream's receive window of ``window`` bytes may grow, taken from what the connection has for that."""
        limits = self.http2_limits
        growth = min(window, limits.upload_window_size - window, self._upload_windows)
        self._upload_windows -= growth
        return growth

    # --- what the engine tells (engine.Listener); nothing here may switch greenlets ---

    def admit(self) -> bool:
        count = len(self._streams) + len(self.early_answers)
        return count < self.http2_limits.max_concurrent_streams and self._goaway is not _Goaway.FINAL and not self._ending

    def on_request(self, stream_id: int, section: Section, end_stream: bool) -> None:
        error: HTTPError | None = None
        head = section.meaning
        if head is not None and end_stream:
            # The same request as one before, of which the application may have changed the list of fields.
            assert isinstance(head, Head)
            self._open(stream_id, head.again(), None, end_stream=True)
            return
        fields = section.fields
        try:
            if fields is None:
                raise HTTPError(431, "The request's header section is too long.")
            head = parse_request(fields, section.size, self._info, self._limits, end_stream=end_stream)
            if end_stream and section.remembered:
                section.meaning = head.again()
        except MalformedMessage as malformed:
            logger.debug("Stream %d reset: %s", stream_id, str(malformed))
            self.engine.refuse(stream_id, ErrorCodes.PROTOCOL_ERROR)
            return
        except HTTPError as refusal:
            error = refusal
            head = self._refused_head(fields or [], end_stream=end_stream)
        self._open(stream_id, head, error, end_stream=end_stream)

    def _refused_head(self, fields: list[Field], *, end_stream: bool) -> Head:
        """Stands for a request that is refused because of its head."""
        method = "HEAD" if (b":method", b"HEAD") in fields else "GET"
        return Head(Request(method, b"", b"/", b"", "2", [], 0 if end_stream else None, b"", self._info), False, b"")

    def on_trailers(self, stream_id: int, section: Section) -> None:
        self.early_answers.discard(stream_id)
        stream = self._streams.get(stream_id)
        if stream is None:
            return
        try:
            if section.fields is None:
                raise MalformedMessage("a trailer section that is too long")
            check_trailers(section.fields)
            if not stream.feed_end():
                raise MalformedMessage("a body shorter than its Content-Length")
        except MalformedMessage as malformed:
            logger.debug("Stream %d reset: %s", stream_id, str(malformed))
            self.engine.stream_error(stream_id)

    def on_data(self, stream_id: int, data: bytes, overhead: int, end_stream: bool) -> None:
        engine = self.engine
        if end_stream:
            self.early_answers.discard(stream_id)
        stream = self._streams.get(stream_id)
        if stream is None:
            engine.consumed(len(data) + overhead)
            return
        if overhead:
            engine.consumed(overhead)
            if not end_stream:
                engine.widen(stream_id, overhead)
        if (data and not stream.feed(data)) or (end_stream and not stream.feed_end()):
            # RFC 9113 section 8.1.1.
            engine.stream_error(stream_id)

    def on_reset(self, stream_id: int) -> None:
        self.early_answers.discard(stream_id)
        stream = self._streams.get(stream_id)
        if stream is not None:
            stream.cancel()

    def on_window(self, stream_id: int) -> None:
        self.writer.on_window(stream_id)

    def on_priority_update(self, stream_id: int, value: bytes) -> None:
        priority = parse_priority(value)
        stream = self._streams.get(stream_id)
        if stream is not None:
            self.writer.prioritize(stream, *priority)
        elif stream_id > self.engine.closed_streams.latest:
            self._early_priorities.pop(stream_id, None)
            if len(self._early_priorities) < self.http2_limits.max_concurrent_streams:
                self._early_priorities[stream_id] = priority

    def on_ping_ack(self) -> None:
        if self._goaway is _Goaway.WARNED:
            self._send_final_goaway()

    def on_goaway(self) -> None:
        # The connection has served its purpose when the open requests are answered (RFC 9113 section 6.8).
        self._peer_leaves = True
        self._end_if_done()
