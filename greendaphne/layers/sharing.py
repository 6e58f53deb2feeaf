"""Tells channel layers that connect processes from those that exist separately in each process."""

from __future__ import annotations

import sys
from typing import Any, Final

_LOCAL_LAYERS: Final = ("greendaphne.layers.memory", "asgiref.inmemory")


def is_local(channel_layer: Any) -> bool:
    """Whether other processes do not see the messages of ``channel_layer``, which may be in the wrapper of Channels."""
    inner = getattr(channel_layer, "channel_layer", channel_layer)
    return any(base.__module__ in _LOCAL_LAYERS for base in type(inner).__mro__)


def tell_channels() -> None:
    """Make ``manage.py runworker`` refuse a layer that other processes do not see; Channels 1 knows its own by their module's name.

    Does nothing in a process that has not imported Channels 1.
    """
    wrapper = getattr(sys.modules.get("channels.asgi"), "ChannelLayerWrapper", None)
    if wrapper is not None:
        wrapper.local_only = lambda layer: is_local(layer.channel_layer)
