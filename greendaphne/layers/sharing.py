"""Which channel layers connect processes, and which exist in each process anew."""

from __future__ import annotations

from typing import Any, Final

_LOCAL_LAYERS: Final = ("greendaphne.layers.memory", "asgiref.inmemory")


def is_local(channel_layer: Any) -> bool:
    """Whether other processes see nothing of what is sent to ``channel_layer``, which may be in the wrapper of Channels."""
    inner = getattr(channel_layer, "channel_layer", channel_layer)
    return any(base.__module__ in _LOCAL_LAYERS for base in type(inner).__mro__)
