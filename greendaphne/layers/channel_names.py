"""Names of channels and groups: checks, stricter than asgiref's, whose ``\\d`` and ``$`` let other digits and a final newline pass."""

from __future__ import annotations

import re
from typing import Any, Final

#: Names are shorter than this (specification).
NAME_LENGTH: Final = 100

# Group 1 is the part of a process-specific name that readers listen on; of other names they use the whole.
_send_name = re.compile(r"([A-Za-z0-9\-_.]+!)[A-Za-z0-9\-_.]*|[A-Za-z0-9\-_.]+(?:\?[A-Za-z0-9\-_.]+)?").fullmatch
_receive_name = re.compile(r"[A-Za-z0-9\-_.]+(?:!|\?[A-Za-z0-9\-_.]+)?").fullmatch
_group_name = re.compile(r"[A-Za-z0-9\-_.]+").fullmatch
_NAME_RULE: Final = "under 100 ASCII letters, digits, '-', '_' and '.', with at most one '!', or one '?' that is not the last"


def reader_name(channel: Any) -> str:
    """The part of ``channel``, a name to send to, that readers listen on.

    :raises TypeError: for anything that is not such a name.
    """
    if isinstance(channel, str) and len(channel) < NAME_LENGTH:
        match = _send_name(channel)
        if match is not None:
            return match[1] or channel
    raise TypeError(f"not a channel name: {channel!r:.120} ({_NAME_RULE})")


def check_receive_name(name: object) -> None:
    """Return for a name to receive on.

    :raises TypeError: for anything else.
    """
    if not isinstance(name, str) or len(name) >= NAME_LENGTH or _receive_name(name) is None:
        raise TypeError(f"not a channel name to receive on: {name!r:.120} ({_NAME_RULE}; a process-specific name ends at its '!')")


def check_group_name(name: object) -> None:
    """Return for the name of a group.

    :raises TypeError: for anything else.
    """
    if not isinstance(name, str) or len(name) >= NAME_LENGTH or _group_name(name) is None:
        raise TypeError(f"not a group name: {name!r:.120} (under 100 ASCII letters, digits, '-', '_' and '.')")
