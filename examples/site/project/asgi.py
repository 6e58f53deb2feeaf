"""A site without a framework, for testing a deployment: every answer contains the release and the process id."""

import os

from greendaphne.layers.redis import RedisChannelLayer

RELEASE = "release 1"


def index(message):
    """Answer any request."""
    text = f"{RELEASE}, process {os.getpid()}\n"
    message.reply({"status": 200, "headers": [(b"Content-Type", b"text/plain")], "content": text.encode()})


channel_layer = RedisChannelLayer(
    hosts=[os.environ.get("MYSITE_REDIS", "redis://127.0.0.1:6379/0")],
    # Different for each site: sites with the same prefix on one Redis take each other's messages.
    prefix="mysite:",
)
channel_layer.routes = {"http.request": index}
