"""Channel layers whose ``receive(block=True)`` waits instead of polling, and the error that they raise when they cannot be reached."""

from __future__ import annotations


class LayerUnavailable(Exception):
    """The channel layer cannot be reached, or refuses to store anything.

    A layer never sends a message again by itself (at-most-once delivery).  ``maybe_stored`` tells the caller whether sending again would be
    safe: ``False`` if the message certainly was not stored, ``True``, the default, if it may have been.  The text is for logs: it can name
    hosts and must not reach a client.
    """

    def __init__(self, text: str = "", *, maybe_stored: bool = True) -> None:
        super().__init__(text)
        self.maybe_stored = maybe_stored
