"""The consumers under measurement, written against the channel layer alone so that every server runs the very same code."""

from __future__ import annotations

from typing import Any

HELLO = b"Hello, world\n"
HELLO_HEADERS = [(b"content-type", b"text/plain"), (b"content-length", b"%d" % len(HELLO))]
GROUP = "everyone"
#: A client that sends this text has it sent to everyone.
TO_EVERYONE = "to everyone"
CHANNELS = ["http.request", "http.disconnect", "websocket.connect", "websocket.receive", "websocket.disconnect"]


def consume(layer: Any, channel: str, content: dict[str, Any]) -> None:
    """Answer one message: hello, an echo, or a message to the group of all WebSockets."""
    if channel == "http.request":
        layer.send(content["reply_channel"], {"status": 200, "headers": HELLO_HEADERS, "content": HELLO})
    elif channel == "websocket.receive":
        if "text" in content:
            text = content["text"]
            if text == TO_EVERYONE:
                layer.send_group(GROUP, {"text": text})
            else:
                layer.send(content["reply_channel"], {"text": text})
        else:
            layer.send(content["reply_channel"], {"bytes": content["bytes"]})
    elif channel == "websocket.connect":
        layer.group_add(GROUP, content["reply_channel"])
        layer.send(content["reply_channel"], {"accept": True})
    elif channel == "websocket.disconnect":
        layer.group_discard(GROUP, content["reply_channel"])
