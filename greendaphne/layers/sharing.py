"""Which channel layers connect processes, and which exist in each process anew."""

from __future__ import annotations

import sys
from typing import Any, Final

_LOCAL_LAYERS: Final = ("greendaphne.layers.memory", "asgiref.inmemory")


def is_local(channel_layer: Any) -> bool:
    """Whether other processes see nothing of what is sent to ``channel_layer``, which may be in the wrapper of Channels."""
    inner = getattr(channel_layer, "channel_layer", channel_layer)
    return any(base.__module__ in _LOCAL_LAYERS for base in type(inner).__mro__)


def tell_channels() -> None:
    """Have ``manage.py runworker`` refuse a layer that other processes do not see; Channels 1 knows its own by their module's name.

    Does nothing in a process that has not imported Channels 1.
    """
    wrapper = getattr(sys.modules.get("channels.asgi"), "ChannelLayerWrapper", None)
    if wrapper is not None:
        wrapper.local_only = lambda layer: is_local(layer.channel_layer)
