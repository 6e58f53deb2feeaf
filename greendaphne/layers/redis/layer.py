"""The channel layer on servers at fixed addresses."""

from __future__ import annotations

from collections.abc import Iterable

from .connection import parse_host
from .extensions import BaseRedisChannelLayer
from .shard import FixedAddress


class RedisChannelLayer(BaseRedisChannelLayer):
    """A channel layer on one Redis server or on a ring of several.

    ``hosts`` are URLs (``redis://``, ``rediss://``, ``unix://``) or ``(host, port)``, by default a server on this machine.
    """

    #: As URLs.
    hosts: list[str]

    def _addresses(self, hosts: Iterable[str | tuple[str, int]] | None) -> list[FixedAddress]:
        if isinstance(hosts, str):
            raise ValueError("ASGI Redis hosts must be specified as an iterable list of hosts.")
        self.hosts = [_host_url(entry) for entry in hosts or [("localhost", 6379)]]
        targets = [parse_host(url, self._options) for url in self.hosts]
        for target in targets:
            # Finds what is wrong with the options before anything is to be sent.
            target.new_connection(False)
        return [FixedAddress(target) for target in targets]

    def __str__(self) -> str:
        return f"{type(self).__name__}(hosts={[shard.name for shard in self._shards]})"


def _host_url(entry: str | tuple[str, int]) -> str:
    if isinstance(entry, str):
        return entry
    host, port = entry
    return f"redis://{f'[{host}]' if ':' in host else host}:{port:d}/0"
