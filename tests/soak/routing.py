"""The consumers of the site for workers of Channels."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from channels import route

from .answers import respond

#: Django's; there are no views.
urlpatterns: list[Any] = []


def _reply(message: Any, content: dict[str, Any]) -> None:
    # Otherwise Channels sends it when the consumer has ended.
    message.reply_channel.send(content, immediately=True)


def _body(message: Any) -> Iterator[bytes]:
    yield message.content.get("body", b"")
    channel = message.content.get("body_channel")
    while channel:
        name, piece = message.channel_layer.receive_many([channel], block=True)
        if name is None:
            continue
        if piece.get("closed"):
            raise ConnectionError("the client went away within its request")
        yield piece["content"]
        if not piece.get("more_content"):
            return


def request(message: Any) -> None:
    respond(message.content, lambda: _body(message), lambda content: _reply(message, content))


def connect(message: Any) -> None:
    _reply(message, {"accept": True})


def receive(message: Any) -> None:
    _reply(message, {"text": message.content["text"]})


def ignore(message: Any) -> None:
    """A client has left."""


channel_routing = [
    route("http.request", request),
    route("http.disconnect", ignore),
    route("websocket.connect", connect),
    route("websocket.receive", receive),
    route("websocket.disconnect", ignore),
]
