"""Distinguishes an unreadable message from an unreachable channel layer, by the exception of the layer's ``receive``.

The layers of this package drop unreadable messages themselves.  Others raise the exception of their decoder after they have removed the
message from the channel, as asgi_redis does for a value that is not a message.  If that counted as an outage, one such message would close
every WebSocket.
"""

from __future__ import annotations

from typing import Final

#: The exceptions of decoders, and of code that gets a value of another type.
_DECODER_ERRORS: Final = (TypeError, ValueError, LookupError, AttributeError, RecursionError)
#: Packages whose own exceptions mean that a value cannot be read.
_DECODERS: Final = frozenset(("msgpack", "cryptography"))

#: The number of such errors in a row, without a message or an empty wait between them, after which the layer itself counts as broken.
LIMIT: Final = 1000


def is_unreadable(error: Exception) -> bool:
    """Whether ``error``, raised by a layer's ``receive``, says that one message cannot be read."""
    return isinstance(error, _DECODER_ERRORS) or type(error).__module__.partition(".")[0] in _DECODERS


def describe(error: Exception) -> str:
    """``error`` for the log: only its type, because its text may quote the message."""
    return f"the channel layer raised {type(error).__name__}"
