"""Channel layers whose ``receive(block=True)`` really waits, and the error they raise when they cannot be reached."""

from __future__ import annotations


class LayerUnavailable(Exception):
    """The channel layer cannot be reached, or refuses to store anything.

    Whether a message was stored before the failure is not known; a layer never sends it again by itself (at-most-once delivery).
    The text is for logs: it can name hosts and must not reach a client.
    """
