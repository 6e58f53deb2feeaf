"""The application of the comparison, for daphne and greendaphne alike; it imports nothing of either.

A thread takes all messages from asgiref's in-memory layer, writes each into the file that ``MESSAGES`` names, and answers by the path:

``/status/204``                   that status; ``/body/100`` that many bytes; ``/chunks/3`` as many messages, ``/length/5`` with a length
``/echo``                         method, path, query and body
``/bad/kind``                     a reply that the protocol does not allow
``/ws/accept+text=a+close=4000``  replies to a connect, in their order; messages are echoed once the WebSocket is open
"""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Callable
from functools import partial
from typing import Any

from asgiref.inmemory import ChannelLayer

CHANNELS = ["http.request", "http.disconnect", "websocket.connect", "websocket.receive", "websocket.disconnect"]

# Room for everything that waits: a full layer is another subject.
channel_layer = ChannelLayer(capacity=100_000)


def http(message: dict[str, Any], send: Callable[[dict[str, Any]], None]) -> None:
    _, kind, *rest = f"{message['path']}/".split("/")
    argument = rest[0] if rest else ""
    plain = [(b"Content-Type", b"text/plain")]
    if kind == "status":
        send({"status": int(argument), "headers": plain, "content": b"some content"})
    elif kind == "body":
        send({"status": 200, "headers": plain, "content": b"x" * int(argument)})
    elif kind == "length":
        content = b"y" * int(argument)
        send({"status": 200, "headers": [(b"content-length", argument.encode())], "content": content})
    elif kind == "chunks":
        for number in range(int(argument)):
            part = {"status": 200, "headers": [(b"X-Parts", argument.encode())]} if number == 0 else {}
            send({**part, "content": b"part %d;" % number, "more_content": number + 1 < int(argument)})
    elif kind == "headers":
        send({"status": 200, "headers": [(b"Set-Cookie", b"a=1"), (b"Set-Cookie", b"b=2"), (b"x-mixed-CASE", b"1"), (b"etag", b'"e"')]})
    elif kind == "text":
        send({"status": 200, "headers": [("X-Text", "value")], "content": b"text"})
    elif kind == "push":
        send({"request": {"path": "/pushed"}})
        send({"status": 200, "content": b"pushed"})
    elif kind == "bad":
        if argument == "status":
            send({"content": b"no status"})
        elif argument == "twice":
            send({"status": 200, "content": b"a", "more_content": True})
            send({"status": 200, "content": b"b", "more_content": True})
        send({"status": 200, "content": b"good"} if argument == "status" else {"content": b"c"})
    elif kind == "close":
        send({"status": 200, "headers": [(b"Connection", b"close"), (b"Content-Length", b"2")], "content": b"ok"})
    elif kind != "silent":
        text = "\n".join([message["method"], message["path"], repr(message["query_string"]), repr(message["body"])])
        send({"status": 200, "headers": plain, "content": text.encode()})


def connect(message: dict[str, Any], send: Callable[[dict[str, Any]], None]) -> None:
    words = message["path"].removeprefix("/ws/").split("+")
    for word in words:
        name, _, value = word.partition("=")
        if name == "accept":
            send({"accept": value != "no"})
        elif name == "text":
            send({"text": value})
        elif name == "bytes":
            send({"bytes": value.encode()})
        elif name == "close":
            send({"close": int(value) if value else True})
        elif name == "both":
            send({"accept": True, "text": "a", "bytes": b"b"})
        elif name == "unknown":
            send({"unknown": 1})
        elif name == "acceptclose":
            send({"accept": True, "text": "bye", "close": int(value)})


def receive(message: dict[str, Any], send: Callable[[dict[str, Any]], None]) -> None:
    text = message.get("text")
    if text is not None and text.startswith("close"):
        send({"close": int(text[5:]) if text[5:] else True})
    elif text is not None and text.startswith("empty"):
        send({"text": ""})
        send({"text": "after empty"})
    elif text is not None:
        send({"text": f"echo {text}"})
    else:
        send({"bytes": b"echo " + message["bytes"]})


def work() -> None:
    answer = {"http.request": http, "websocket.connect": connect, "websocket.receive": receive}
    with open(os.environ["MESSAGES"], "a", encoding="utf-8", buffering=1) as record:
        while True:
            channel, message = channel_layer.receive_many(CHANNELS, block=False)
            if channel is None:
                time.sleep(0.002)
                continue
            record.write(f"{(channel, message)!r}\n")
            if channel in answer:
                reply_channel = message["reply_channel"]
                try:
                    answer[channel](message, partial(channel_layer.send, reply_channel))
                except Exception as error:  # noqa: BLE001 - a test reads it
                    record.write(f"{('error', {'reply_channel': reply_channel, 'text': repr(error)})!r}\n")


threading.Thread(target=work, daemon=True).start()
