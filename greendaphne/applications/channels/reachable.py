"""Finds configurations in which no worker can ever answer, or a group does not reach everyone."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Any

from ...config import Config
from ...layers.sharing import is_local


def warnings(channel_layers: Iterable[Any], config: Config) -> Iterator[str]:
    """The warnings about layers that exist in each process anew."""
    layers = [*channel_layers]
    workers = config.processes.workers
    if workers > 1 and any(map(is_local, layers)):
        yield (
            f"The channel layer is in each process' own memory: with {workers} workers a message to a group reaches the clients of one "
            "process only"
        )
    # One line for several layers.
    yield from {text: None for layer in layers if (text := unanswered(layer, config))}


def unanswered(channel_layer: Any, config: Config) -> str:
    """Return a warning where the layer exists in this process only and no worker does, and ``""`` otherwise.

    A module that has started workers of its own has them read the in-memory layer by now.
    """
    if config.channels.inline_workers or not is_local(channel_layer):
        return ""
    inner = getattr(channel_layer, "channel_layer", channel_layer)
    if not getattr(inner, "unserved", True):
        return ""
    return (
        "No worker can answer requests: the channel layer is in this process' own memory, which workers in other processes do not see. "
        "Run workers inside the server (--inline-workers), or use a layer between processes, such as Redis."
    )
