"""Tells that two sites share a prefix on one Redis, where each takes messages that are meant for the other.

Every server writes the name of its site to one key and keeps it alive; a server that finds another name there says so.  The key is of no
channel, because names of channels do not begin with a colon.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

from .calls import Call
from .lanes import Lane
from .scripts import pack

#: Seconds for which the name is kept after the last server of the site has ended.
SITE_EXPIRY: Final = 180


def site_key(prefix: str) -> str:
    """The key that holds the name of the site."""
    return f"{prefix}:site"


def claim_site(lanes: Sequence[Lane], prefix: str, name: str) -> str | None:
    """Write ``name`` where no name stands, and keep it alive where it does; returns the name of another site, ``None`` where there is none.

    :param lanes: those of all servers of the ring.
    :raises LayerUnavailable: where a server is out of reach.
    """
    key = site_key(prefix)
    for lane in lanes:
        commands = pack("SET", key, name, "NX", "EX", SITE_EXPIRY) + pack("GET", key)
        [[_, found]] = lane.run([Call(commands, replies=2)])
        if found == name.encode():
            lane.run([Call(pack("EXPIRE", key, SITE_EXPIRY))])
        elif isinstance(found, bytes):
            return found.decode("utf-8", "replace")
    return None
