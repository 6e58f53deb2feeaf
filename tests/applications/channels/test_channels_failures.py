"""Channels' own workers inside the server: odd messages do not end them, and a client of a consumer that fails is told at once."""

from __future__ import annotations

import subprocess
import sys
import textwrap
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[3]

PROJECT = """
    import sys
    if sys.argv[1] == "patched":
        from gevent import monkey
        monkey.patch_all()
    import gevent
    import django
    from django.conf import settings

    def before(message):
        raise RuntimeError("before")

    def within(message):
        message.reply_channel.send({"status": 200, "content": b"begun", "more_content": True})
        raise RuntimeError("within")

    def after(message):
        message.reply_channel.send({"status": 200, "content": b"whole"})
        raise RuntimeError("after")

    def leave(message):
        message.reply_channel.send({"status": 200, "content": b"left"})
        sys.exit(3)

    from channels.exceptions import ConsumeLater
    late = []

    def later(message):
        late.append(1)
        if len(late) < 3:
            raise ConsumeLater
        message.reply_channel.send({"status": 200, "content": b"later"})

    def surrogate(message):
        message.reply_channel.send({"status": 200, "headers": [["a", "\\ud800"]], "content": b"unsent"})

    def odd(message):
        message.reply_channel.send({"status": 200, "content": b"begun", "more_content": True})
        message.reply_channel.send({"content": object()})
        message.reply_channel.send({"content": b"unsent"})

    def elsewhere(message):
        from channels import Channel
        Channel("no name").send({})

    from channels.exceptions import DenyConnection, WebsocketCloseException

    def deny(message):
        raise DenyConnection

    def close(message):
        raise WebsocketCloseException(4000)

    def refuse(message):
        raise RuntimeError("refused")

    requests = (before, within, after, leave, later, deny, close, surrogate, odd, elsewhere)

    from channels.routing import include, route
    settings.configure(
        LOGGING_CONFIG=None, SECRET_KEY="x", ROOT_URLCONF=__name__, ALLOWED_HOSTS=["*"],
        DATABASES={"default": {"ENGINE": "django.db.backends.sqlite3", "NAME": ":memory:"}},
        CHANNEL_LAYERS={"default": {
            "BACKEND": "greendaphne.layers.memory.MemoryChannelLayer",
            "ROUTING": [route("http.request", each, path="^/" + each.__name__) for each in requests]
            + [route(channel, consumer, path="^/" + consumer.__name__) for channel in ("websocket.connect", "websocket.receive")
               for consumer in (deny, close, refuse)],
        }},
    )
    django.setup()
    urlpatterns = []

    from channels.asgi import channel_layers, get_channel_layer
    from greendaphne.applications.channels.inline import start_workers, stop_workers
    from greendaphne.layers import memory
    memory.BLOCK_LIMIT = 0.1
    layer = get_channel_layer()
    workers = start_workers(layer, 1)

    def ask(**message):
        message = {"reply_channel": "r!1", "method": "GET", "headers": [], "body": b"", **message}
        layer._put("http.request", "http.request", message, 0)

    def replies(number):
        with gevent.Timeout(60):
            while number:
                [(_, reply)] = layer.receive_batch(["r!"], 1, None)
                number -= 1
                print(reply["status"] if "abort" not in reply else "abort", reply["content"].decode())

    layer._put("http.request", "http.request", [1], 0)
    layer._put("http.request", "http.request", "text", 0)
    ask(path=1)
    ask(path="/after", reply_channel=[1])
    ask(path="/after", reply_channel={})
    ask(path="/after", __retries__="x")
    ask(path="/after", __retries__=2**64 - 1)
    ask(path="/after", reply_channel=b"\\xff!")
    deep = []
    for _ in range(100000):
        deep = [deep]
    ask(path="/after", deep=deep)
    for path, number in (("/before", 1), ("/within", 2), ("/after", 2), ("/leave", 2), ("/later", 1)):
        ask(path=path)
        replies(number)

    def websocket(channel, path, reply_channel="r!1"):
        layer._put(channel, channel, {"reply_channel": reply_channel, "path": path, "headers": [], "order": 0, "text": "x"}, 0)

    for path, number in (("/deny", 1), ("/close", 1), ("/surrogate", 1), ("/odd", 2), ("/elsewhere", 1)):
        ask(path=path)
        replies(number)
    for path in ("/deny", "/close", "/refuse"):
        for channel in ("websocket.receive", "websocket.connect"):
            websocket(channel, path)
            websocket(channel, path, None)
            websocket(channel, path, "no name")
        with gevent.Timeout(60):
            [(_, reply)] = layer.receive_batch(["r!"], 1, None)
        print(path, reply)
    ask(path="/after")
    replies(2)
    print("bad:", sum(layer.tally.bad.values()), "deaths:", workers[0].deaths)
    stop_workers(workers, timeout=30)
"""


@pytest.mark.skipif(sys.version_info >= (3, 12), reason="Django 2.2 and Channels 1 end with Python 3.11")
@pytest.mark.parametrize("argument", ["patched", "unpatched"])
def test_channels_workers(argument: str) -> None:
    output = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(PROJECT), argument], capture_output=True, text=True, timeout=120, cwd=ROOT, check=False
    )
    assert output.stdout.splitlines() == [
        "abort Internal Server Error",
        "200 begun",
        "abort Internal Server Error",
        "200 whole",
        "abort Internal Server Error",
        "200 left",
        "abort Internal Server Error",
        "200 later",
        "abort Internal Server Error",
        "abort Internal Server Error",
        "abort Internal Server Error",
        "200 begun",
        "abort Internal Server Error",
        "abort Internal Server Error",
        "/deny {'close': True}",
        "/close {'accept': False}",
        "/refuse {'accept': False}",
        "200 whole",
        "abort Internal Server Error",
        "bad: 9 deaths: 0",
    ], output.stderr
    assert "RuntimeError: within" in output.stderr
