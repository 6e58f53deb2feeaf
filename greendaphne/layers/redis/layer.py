"""The channel layer on servers at fixed addresses."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from .connection import parse_host
from .extensions import BaseRedisChannelLayer
from .shard import FixedAddress


class RedisChannelLayer(BaseRedisChannelLayer):
    """A channel layer on one Redis server or on a ring of several."""

    def __init__(
        self,
        expiry: int = 60,
        hosts: Iterable[str | tuple[str, int]] | None = None,
        prefix: str = "asgi:",
        group_expiry: int = 86400,
        capacity: int = 100,
        channel_capacity: Mapping[Any, int] | None = None,
        symmetric_encryption_keys: Iterable[str | bytes] | None = None,
        stats_prefix: str = "asgi-meta:",
        connection_kwargs: Mapping[str, Any] | None = None,
    ) -> None:
        """
        :param expiry: life of a message in seconds.
        :param hosts: URLs (``redis://``, ``rediss://``, ``unix://``) or ``(host, port)``; the same in the same order for all
            processes.  By default a server on this machine.
        :param prefix: what the keys begin with.
        :param group_expiry: life of a group's membership in seconds.
        :param capacity: messages that a channel holds.
        :param channel_capacity: patterns (globs or compiled regular expressions) of channel names and their capacities.
        :param symmetric_encryption_keys: passphrases: messages are encrypted under the first and read under any of them.
        :param stats_prefix: what the counters' keys begin with.
        :param connection_kwargs: options for redis-py's connections.  ``socket_timeout`` (default 3 s) and
            ``socket_connect_timeout`` (2 s) bound the time in which an outage is noticed; ``max_connections`` (8) is what plain
            threads share per server.
        :raises ValueError: for hosts or options that make no sense.
        """
        super().__init__(
            expiry=expiry,
            prefix=prefix,
            group_expiry=group_expiry,
            capacity=capacity,
            channel_capacity=channel_capacity,
            symmetric_encryption_keys=symmetric_encryption_keys,
            stats_prefix=stats_prefix,
            connection_kwargs=connection_kwargs,
        )
        if isinstance(hosts, str):
            raise ValueError("ASGI Redis hosts must be specified as an iterable list of hosts.")
        self.hosts = [_host_url(entry) for entry in hosts or [("localhost", 6379)]]
        targets = [parse_host(url, self._options) for url in self.hosts]
        for target in targets:
            target.new_connection(False)
        self._set_shards([FixedAddress(target) for target in targets])

    def __str__(self) -> str:
        return f"{type(self).__name__}(hosts={[shard.name for shard in self._shards]})"


def _host_url(entry: str | tuple[str, int]) -> str:
    if isinstance(entry, str):
        return entry
    host, port = entry
    return f"redis://{f'[{host}]' if ':' in host else host}:{port:d}/0"
