"""A channel layer on Redis for servers and workers, on the wire of asgi_redis 1.4.3.

:class:`RedisChannelLayer` and :class:`RedisSentinelChannelLayer` take asgi_redis' arguments and share its data, so that both can be
mixed in one deployment.  Needs redis-py 5 to 8 and msgpack 1; gevent only where greenlets call it.

From the bottom: ``hubs`` (gevent or threads), ``wire`` (keys and messages), ``scripts`` (Lua, commands), ``resp`` (replies),
``connection`` (one connection), ``shard`` (the state of one server), ``send_commands`` (messages as commands), ``calls`` (pipelines),
``readers``, ``hub_lane``, ``thread_lane`` and ``lanes`` (shared connections), ``taking`` (commands that take), ``exchange`` (one reader's
wait), ``receiving`` (waits on all servers), ``core`` (messages), ``extensions`` (groups, flush, statistics), ``layer`` and ``sentinel``
(where the servers are).
"""

from __future__ import annotations

try:
    import msgpack as _  # type: ignore[import-untyped]  # noqa: F401
    import redis as __  # noqa: F401
except ModuleNotFoundError as error:
    from ...core.configuration import MissingExtra

    raise MissingExtra(
        f"The Redis channel layer needs a package that is not installed, {error.name}: pip install 'greendaphne[redis]'."
    ) from error

from .layer import RedisChannelLayer
from .sentinel import RedisSentinelChannelLayer

__all__ = ["RedisChannelLayer", "RedisSentinelChannelLayer"]
