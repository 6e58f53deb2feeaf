"""Finds configurations in which no worker can ever answer."""

from __future__ import annotations

from typing import Any

from ...config import Config
from ...layers.sharing import is_local


def unanswered(channel_layer: Any, config: Config) -> str:
    """Return a warning where the layer exists in this process only and no worker does, and ``""`` otherwise.

    A module that has started workers of its own has them read the in-memory layer by now.
    """
    if config.channels.inline_workers or channel_layer is None or not is_local(channel_layer):
        return ""
    inner = getattr(channel_layer, "channel_layer", channel_layer)
    if not getattr(inner, "unserved", True):
        return ""
    return (
        "No worker can answer requests: the channel layer is in this process' own memory, which workers in other processes do not see. "
        "Run workers inside the server (--inline-workers), or use a layer between processes, such as Redis."
    )
