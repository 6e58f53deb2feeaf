"""Tells a message that cannot be read from a channel layer that cannot be reached, by what the layer's ``receive`` raised.

The layers of this package drop a message that they cannot read by themselves.  Others raise what their decoder raises, after the message
is gone from the channel: asgi_redis does so for a value that is no message.  Taken for an outage, one such message would close every
WebSocket.
"""

from __future__ import annotations

from typing import Final

#: What decoders raise, and code that takes a value for another type.
_DECODER_ERRORS: Final = (TypeError, ValueError, LookupError, AttributeError, RecursionError)
#: Packages whose own exceptions say that a value cannot be read.
_DECODERS: Final = frozenset(("msgpack", "cryptography"))

#: Such errors in a row, without any message or an empty wait between them, after which the layer itself counts as broken.
LIMIT: Final = 1000


def is_unreadable(error: Exception) -> bool:
    """Whether ``error``, raised by a layer's ``receive``, says that one message cannot be read."""
    return isinstance(error, _DECODER_ERRORS) or type(error).__module__.partition(".")[0] in _DECODERS


def describe(error: Exception) -> str:
    """``error`` for the log: its type alone, since its text may quote the message."""
    return f"the channel layer raised {type(error).__name__}"
