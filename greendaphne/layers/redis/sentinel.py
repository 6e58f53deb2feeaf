"""The channel layer on servers that Redis Sentinel watches: every new connection asks the sentinels for the master first."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import redis.connection

from ..groups import GROUP_HEADROOM
from .connection import LinkError, Target, make_target
from .extensions import BaseRedisChannelLayer
from .hubs import current_hub
from .reliable import LEASE
from .resp import Reply
from .scripts import pack

#: Options of the connection to a master that also hold for the sentinels, unless ``sentinel_kwargs`` are given (as in redis-py).
_SENTINEL_OPTIONS = "socket_"


def ask(sentinel: Target, cooperative: bool, *command: str) -> Reply:
    """Put one question to ``sentinel``, on a connection of its own.

    :raises LinkError: when it does not answer.
    """
    connection = sentinel.new_connection(cooperative)
    try:
        connection.connect()
        connection.send_packed_command([pack(*command)])
        reply: Reply = connection.read_response(disable_decoding=True)
        return reply
    except (redis.exceptions.RedisError, OSError) as error:
        raise LinkError(f"sentinel {sentinel.name}: {error}") from None
    finally:
        connection.disconnect()


class SentinelAddress:
    """The address of a service's master, asked of the sentinels in turn."""

    def __init__(self, service: str, sentinels: Sequence[Target], kind: type[Any], options: Mapping[str, Any]) -> None:
        self.name = service
        self._sentinels = list(sentinels)
        self._kind = kind
        self._options = dict(options)

    def find(self, cooperative: bool) -> Target:
        reasons = []
        for sentinel in list(self._sentinels):
            try:
                reply = ask(sentinel, cooperative, "SENTINEL", "GET-MASTER-ADDR-BY-NAME", self.name)
            except LinkError as error:
                reasons.append(str(error))
                continue
            if isinstance(reply, list) and len(reply) == 2:
                # The one that answered is asked first the next time.
                self._sentinels.sort(key=lambda other: other is not sentinel)
                host, port = (part.decode() if isinstance(part, bytes) else str(part) for part in reply)
                return make_target({**self._options, "host": host, "port": int(port)}, self._kind)
            reasons.append(f"sentinel {sentinel.name} knows no such service")
        raise LinkError("; ".join(reasons))


class RedisSentinelChannelLayer(BaseRedisChannelLayer):
    """A channel layer on the masters of one or several services of one group of sentinels; the services are the ring."""

    def __init__(
        self,
        expiry: int = 60,
        hosts: Iterable[tuple[str, int]] | None = None,
        prefix: str = "asgi:",
        group_expiry: int = 86400,
        capacity: int = 100,
        channel_capacity: Mapping[Any, int] | None = None,
        symmetric_encryption_keys: Iterable[str | bytes] | None = None,
        stats_prefix: str = "asgi-meta:",
        connection_kwargs: Mapping[str, Any] | None = None,
        services: Iterable[str] | None = None,
        sentinel_refresh_interval: float = 0,
        group_headroom: int = GROUP_HEADROOM,
        reliable: bool = False,
        lease: float = LEASE,
    ) -> None:
        """
        Parameters as for :class:`~greendaphne.layers.redis.RedisChannelLayer`, except:

        :param hosts: ``(host, port)`` of the sentinels, by default one on this machine.
        :param connection_kwargs: options for the connections to the masters; ``ssl=True`` for TLS.  Under ``sentinel_kwargs``
            options for those to the sentinels, by default the ``socket_…`` ones of the masters.
        :param services: names of the services, in the same order for all processes; by default all that the sentinels know.
        :param sentinel_refresh_interval: seconds after which an open connection is given up for a new look at the sentinels.
            0 leaves it open until the master fails or is demoted.
        :raises ValueError: for hosts, services or options that make no sense.
        :raises LayerUnavailable: when the services were left out and no sentinel tells them.
        """
        options = dict(connection_kwargs or {})
        options.pop("min_other_sentinels", None)
        self._sentinel_options: Mapping[str, Any] | None = options.pop("sentinel_kwargs", None)
        self._kind = redis.connection.SSLConnection if options.pop("ssl", False) else redis.connection.Connection
        if isinstance(services, str):
            raise ValueError("Sentinel service types must be specified as an iterable list of strings")
        self.services = list(services or ())
        self.sentinel_refresh_interval = self._link_life = sentinel_refresh_interval
        super().__init__(
            expiry,
            hosts,
            prefix,
            group_expiry,
            capacity,
            channel_capacity,
            symmetric_encryption_keys,
            stats_prefix,
            options,
            group_headroom,
            reliable,
            lease,
        )

    def _addresses(self, hosts: Iterable[tuple[str, int]] | None) -> list[SentinelAddress]:
        options = self._sentinel_options
        if options is None:
            options = {name: value for name, value in self._options.items() if name.startswith(_SENTINEL_OPTIONS)}
        sentinels = [make_target({**options, "host": host, "port": port}) for host, port in _sentinel_hosts(hosts)]
        self.services = self.services or self._ask_for_services(sentinels)
        if not all(isinstance(service, str) for service in self.services):
            raise ValueError("Sentinel service types must be specified as strings.")
        make_target(self._options, self._kind).new_connection(False)
        return [SentinelAddress(service, sentinels, self._kind, self._options) for service in self.services]

    def _ask_for_services(self, sentinels: Iterable[Target]) -> list[str]:
        reasons = []
        for sentinel in sentinels:
            try:
                reply = ask(sentinel, current_hub() is not None, "SENTINEL", "MASTERS")
            except LinkError as error:
                reasons.append(str(error))
                continue
            if isinstance(reply, list):
                return [_name_of(master) for master in reply]
        raise self.LayerUnavailable("; ".join(reasons))

    def __str__(self) -> str:
        return f"{type(self).__name__}(services={self.services})"


def _name_of(master: Reply) -> str:
    """The service's name in one entry of ``SENTINEL MASTERS``, a flat list of names and values."""
    assert isinstance(master, list)
    value = master[master.index(b"name") + 1]
    assert isinstance(value, bytes)
    return value.decode()


def _sentinel_hosts(hosts: Iterable[tuple[str, int]] | None) -> list[tuple[str, int]]:
    if isinstance(hosts, str):
        raise ValueError("ASGI Redis hosts must be specified as an iterable list of hosts.")
    found = list(hosts or [("localhost", 26379)])
    if any(isinstance(entry, str) for entry in found):
        raise ValueError("Sentinel Redis host entries must be specified as tuples, not strings.")
    return [(host, port) for host, port in found]
