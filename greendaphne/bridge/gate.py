"""Sending to the channel layer, with its failures told apart: full, too large, out of reach.

A layer may fail with any exception at all.  Whatever is not one of its own two counts as being out of reach and is logged once when it
begins and once when it ends, not once for every client.
"""

from __future__ import annotations

import logging
from typing import Any

logger = logging.getLogger("daphne.server")


class LayerDown(Exception):
    """The channel layer could not be reached."""


class Gate:
    """Sends through one channel layer.

    :param layer: the channel layer; ``ChannelFull`` and ``MessageTooLarge`` are taken from it.
    """

    __slots__ = ("_send", "channel_full", "down", "message_too_large")

    def __init__(self, layer: Any) -> None:
        self._send = layer.send
        self.channel_full: type[Exception] = layer.ChannelFull
        self.message_too_large: type[Exception] = layer.MessageTooLarge
        #: Whether the last attempt found the layer out of reach.
        self.down = False

    def send(self, channel: str, message: dict[str, Any]) -> None:
        """Send one message.

        :raises: the layer's ``ChannelFull`` and ``MessageTooLarge``, otherwise :class:`LayerDown`.
        """
        try:
            self._send(channel, message)
        except (self.channel_full, self.message_too_large):
            raise
        except Exception as error:
            if not self.down:
                self.down = True
                logger.error("Error trying to send messages: %s", error)
            raise LayerDown from error
        if self.down:
            self.down = False
            logger.info("Sending messages again")

    def try_send(self, channel: str, message: dict[str, Any]) -> bool:
        """Send one message or give it up; whether it was sent."""
        try:
            self.send(channel, message)
        except (self.channel_full, self.message_too_large, LayerDown):
            return False
        return True
