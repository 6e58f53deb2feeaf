"""Commands of callers: how they are packed into one pipeline, exchanged, and given their outcomes.

Messages for the same list become one command.  Nothing is sent twice: only a call whose script was unknown, and therefore not run, is
repeated.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from .. import LayerUnavailable
from .connection import Link
from .resp import ErrorReply, Reply
from .scripts import SEND, SEND_ALL, SEND_GROUP, Script
from .send_commands import SendCommands
from .shard import FATAL_CODES, Shard

#: Commands in one pipeline, and messages that one command stores.
PIPELINE_COMMANDS = 256
#: Bytes of messages that one command stores, which Redis holds until it has them all.
TOGETHER_BYTES = 256 * 1024
#: A success of these shows that Redis stores messages (again).
STORING_SCRIPTS = frozenset({SEND, SEND_ALL, SEND_GROUP})


class Call:
    """Commands of one caller: packed, with the number of replies, and the script that they call, if any."""

    __slots__ = ("asks", "data", "error", "failed", "replies", "result", "script", "waiter")

    def __init__(self, data: bytes, replies: int = 1, script: Script | None = None) -> None:
        self.data = data
        #: Whether it sends a message to workers that a reply is expected to.
        self.asks = False
        self.replies = replies
        self.script = script
        self.result: list[Reply] = []
        self.error: LayerUnavailable | None = None
        self.waiter: Any = None
        #: In the place of a waiter: called where the outcome is not the usual one, see :meth:`HubLane.take_along`.
        self.failed: Callable[[LayerUnavailable | None], object] | None = None


class Send(Call):
    """A message for one list.  Its result is the length of the list, or 0 where that was full."""

    __slots__ = ("body", "commands", "posted")

    def __init__(self, commands: SendCommands, body: bytes) -> None:
        # As Call.__init__(), without the call.
        self.data = b""
        self.asks = False
        self.replies = 1
        self.script = SEND
        self.result = []
        self.error = self.waiter = self.failed = None
        self.commands = commands
        self.body = body
        #: Whether no caller waits for the outcome, and the message may go behind others of its pipeline.
        self.posted = False


class _SendAll(Call):
    """Messages for one list in one command."""

    __slots__ = ("sends",)

    def __init__(self, sends: list[Send]) -> None:
        super().__init__(sends[0].commands.pack_all([send.body for send in sends]), 1, SEND_ALL)
        self.sends = sends

    def share(self) -> None:
        """Give each message its outcome."""
        error = self.error
        if error is not None:
            for send in self.sends:
                send.error = error
        elif self.result:
            length, stored = self.result[0]  # type: ignore[misc]
            for place, send in enumerate(self.sends, 1):
                send.result = [length + place] if place <= stored else [0]  # type: ignore[operator]


class _Batch:
    """Messages for one list that one command may store."""

    __slots__ = ("place", "sends", "size")

    def __init__(self, send: Send, place: list[Any]) -> None:
        self.sends = [send]
        self.size = len(send.body)
        #: Where in the pipeline it goes.
        self.place = place

    def call(self) -> Call:
        sends = self.sends
        if len(sends) > 1:
            return _SendAll(sends)
        [send] = sends
        send.data = send.commands.pack(send.body)
        return send


def combine(calls: Sequence[Call]) -> Sequence[Call]:
    """The calls that a pipeline consists of, where ``calls`` are to be run: messages for the same list become one of them.

    They go where the first of them is, so that none is later than it was.  What was posted goes last: a notice that a client has left must
    not overtake the client's request.
    """
    if len(calls) == 1:
        call = calls[0]
        if type(call) is Send:
            call.data = call.commands.pack(call.body)
        return calls
    batches: dict[SendCommands, _Batch] = {}
    combined: list[Any] = []
    last: list[Any] = []
    for call in calls:
        if type(call) is not Send:
            combined.append(call)
            continue
        batch = batches.get(call.commands)
        if batch is None:
            place = last if call.posted else combined
        elif len(batch.sends) < PIPELINE_COMMANDS and batch.size + len(call.body) <= TOGETHER_BYTES:
            batch.sends.append(call)
            batch.size += len(call.body)
            continue
        else:
            # Behind the messages for the same list that came before.
            place = batch.place
        batches[call.commands] = batch = _Batch(call, place)
        place.append(batch)
    combined += last
    return [item.call() if type(item) is _Batch else item for item in combined]


def share(calls: Sequence[Call]) -> None:
    """Give the messages that were combined into ``calls`` their outcomes."""
    for call in calls:
        if type(call) is _SendAll:
            call.share()


def perform(shard: Shard, link: Link, calls: Sequence[Call]) -> None:
    """Exchange ``calls`` over ``link`` in one pipeline and set their results.

    :raises LinkError: when the link broke; the calls without a result have an unknown outcome then.
    """
    link.send(calls[0].data if len(calls) == 1 else b"".join([call.data for call in calls]))
    read = link.read
    missing: list[Call] = []
    for call in calls:
        reply = read()
        call.result = [reply] if call.replies == 1 else [reply, *(read() for _ in range(call.replies - 1))]
        if call.script is not None and isinstance(reply, ErrorReply) and reply.code == "NOSCRIPT":
            missing.append(call)
            call.result = []
    if missing:
        scripts = {call.script for call in missing if call.script is not None}
        link.exchange(b"".join([script.load for script in scripts]), len(scripts))
        link.send(b"".join([call.data for call in missing]))
        for call in missing:
            call.result = [link.read() for _ in range(call.replies)]


def settle(shard: Shard, calls: Sequence[Call]) -> bool:
    """Turn error replies into the calls' errors; returns whether the link remains of use."""
    usable = True
    for call in calls:
        for reply in call.result:
            if isinstance(reply, ErrorReply):
                call.error = shard.refused(reply)
                usable = usable and reply.code not in FATAL_CODES
                break
        else:
            if call.result and call.script in STORING_SCRIPTS:
                shard.accepted()
    return usable


def outcome(call: Call) -> list[Reply]:
    """The replies to ``call``.

    :raises LayerUnavailable: when it failed.
    """
    if call.error is not None:
        # Several calls may share the error, each of which is raised with a traceback of its own.
        raise LayerUnavailable(str(call.error), maybe_stored=call.error.maybe_stored)
    return call.result
