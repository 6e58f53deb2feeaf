"""The base class of the project's channel layers, with or without asgiref's class of the same name.

asgiref 1 defines the channel-layer interface and a base class for layers; later versions define another interface and have none.  If
asgiref 1 is installed, :class:`BaseChannelLayer` is a subclass of that class, so that ``isinstance`` and its exceptions work.  Otherwise it
has no base.  Its behaviour is the same in both cases.
"""

from __future__ import annotations

import fnmatch
import re
import warnings
from collections.abc import Mapping, Sequence
from typing import Any, ClassVar

_CHANNEL = re.compile(r"[a-zA-Z\d\-_.]+((\?|!)[\d\w\-_.]*)?")
_GROUP = re.compile(r"[a-zA-Z\d\-_.]+")
#: Names are shorter than this (specification).
_NAME_LENGTH = 100


class _ChannelFull(Exception):
    """A channel has its maximum number of messages."""


class _MessageTooLarge(Exception):
    """A message is larger than the layer accepts."""


def _asgiref_class() -> Any:
    try:
        from asgiref import base_layer
    except ImportError:
        return object
    return base_layer.BaseChannelLayer


_Base: Any = _asgiref_class()


class BaseChannelLayer(_Base):  # type: ignore[misc]
    """Settings, capacities and names of a channel layer.

    :param expiry: seconds after which a message that no reader has taken is dropped.
    :param group_expiry: seconds after which a channel leaves a group unless it is added again.
    :param capacity: the maximum number of messages that wait in a channel.
    :param channel_capacity: other capacities by channel name, a dict of globs or compiled expressions; the first match counts.
    """

    #: Names of the optional parts of the interface that the layer has.
    extensions: ClassVar[list[str]] = []

    #: Raised by ``send``.  The classes are asgiref's where asgiref 1 is installed.
    ChannelFull: type[Exception] = getattr(_Base, "ChannelFull", _ChannelFull)
    MessageTooLarge: type[Exception] = getattr(_Base, "MessageTooLarge", _MessageTooLarge)

    def __init__(
        self,
        expiry: float = 60,
        group_expiry: float = 86400,
        capacity: int = 100,
        channel_capacity: Mapping[Any, int] | None = None,
    ) -> None:
        self.expiry = expiry
        self.group_expiry = group_expiry
        self.capacity = capacity
        self.channel_capacity = self.compile_capacities(channel_capacity or {})

    def receive(self, channels: Sequence[str], block: bool = False) -> tuple[str | None, Any]:
        """Take a message from one of ``channels``."""
        raise NotImplementedError

    def receive_many(self, channels: Sequence[str], block: bool = False) -> tuple[str | None, Any]:
        """:meth:`receive` under its name in the first versions of the interface."""
        warnings.warn("receive_many is deprecated; please use receive", DeprecationWarning, stacklevel=2)
        return self.receive(channels, block)

    def compile_capacities(self, channel_capacity: Mapping[Any, int]) -> list[tuple[re.Pattern[str], int]]:
        """Return pairs of a compiled expression and a capacity for globs or compiled expressions."""
        return [
            (name if hasattr(name, "match") else re.compile(fnmatch.translate(name)), limit) for name, limit in channel_capacity.items()
        ]

    def get_capacity(self, channel: str) -> int:
        """Return the maximum number of messages that wait in ``channel``."""
        for pattern, capacity in self.channel_capacity:
            if pattern.match(channel):
                return capacity
        return self.capacity

    def match_type_and_length(self, name: object) -> bool:
        """Return whether ``name`` is a string of a valid length for names."""
        return isinstance(name, str) and len(name) < _NAME_LENGTH

    def valid_channel_name(self, name: object, receive: bool = False) -> bool:
        """Return true for the name of a channel.

        :param receive: the name is one to receive from.
        :raises TypeError: for any other value.
        """
        if isinstance(name, str) and len(name) < _NAME_LENGTH and _CHANNEL.fullmatch(name):
            if name.endswith("?"):
                raise TypeError("Single-reader channel names must not end with ?")
            if receive and "!" in name and not name.endswith("!"):
                raise TypeError("Process-local channel names in receive() must end at the !")
            return True
        raise TypeError(f"Channel name must be a string of ASCII letters, digits, hyphens, underscores and periods, not {name!r}.")

    def valid_channel_names(self, names: object, receive: bool = False) -> bool:
        """Return true for a list of channel names that is not empty.

        :raises AssertionError: for another type or an empty list.
        :raises TypeError: for a name that is not valid.
        """
        if not isinstance(names, list) or not names:
            raise AssertionError("names must be a non-empty list")
        return all(self.valid_channel_name(name, receive) for name in names)

    def valid_group_name(self, name: object) -> bool:
        """Return true for the name of a group.

        :raises TypeError: for any other value.
        """
        if isinstance(name, str) and len(name) < _NAME_LENGTH and _GROUP.fullmatch(name):
            return True
        raise TypeError(f"Group name must be a string of ASCII letters, digits, hyphens, underscores and periods, not {name!r}.")

    def non_local_name(self, name: str) -> str:
        """Return the part of a channel's name that readers listen on: up to the ``!`` of a process-specific name, otherwise all of it."""
        head, mark, _ = name.partition("!")
        return head + mark
