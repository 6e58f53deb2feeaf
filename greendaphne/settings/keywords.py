"""Turns keyword arguments of ``Server`` into values of :class:`greendaphne.config.Config`: daphne's, and those of version 1.0.

``Server`` calls :func:`configuration`.  A missing keyword and ``None`` are the same.  A given keyword takes precedence over the
configuration.  New code uses ``Server(config=Config(...))``, so a new value of the configuration needs no keyword here.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, Final

from ..config import AddressList, Config, ForwardedFields

#: The configuration's value that each keyword sets.  :data:`_CONVERTED` has the keywords that need a conversion.
TARGETS: Final = {
    # daphne's.
    "http_timeout": "timeouts.http",
    "websocket_timeout": "timeouts.websocket",
    "websocket_connect_timeout": "timeouts.websocket_connect",
    "ping_interval": "timeouts.ping_interval",
    "ping_timeout": "timeouts.ping_timeout",
    "root_path": "root_path",
    "force_sync": "channels.force_sync",
    "verbosity": "logging.verbosity",
    # Those of daphne 4 beside them.
    "application_close_timeout": "asgi.close_timeout",
    "websocket_max_message_size": "limits.websocket_message",
    "websocket_max_frame_size": "limits.websocket_frame",
    # Those of version 1.0.
    "limits": "limits",
    "timeouts": "timeouts",
    "stream_request_body": "channels.stream_request_body",
    "server_name": "server_name",
    "inline_workers": "channels.inline_workers",
    "websocket_compression": "websockets.compression",
    "certfile": "tls.certfile",
    "keyfile": "tls.keyfile",
    "tls_dev": "tls.dev",
    "http2_limits": "http2",
    "http2_cleartext": "http2.cleartext",
    "on_layer_loss": "channels.on_layer_loss",
    "reply_channels": "channels.reply_channels",
    "acme": "acme",
    "health_path": "monitoring.health_path",
    "metrics_path": "monitoring.metrics_path",
    "metrics": "monitoring.metrics",
    "watchdog": "monitoring.watchdog",
}

#: Keywords for objects of the calling program, which are not part of the configuration: observers of requests, stages of the server's
#: life, and the function that reopens log files.
OBJECTS: Final = ("observers", "lifecycle", "reopen_logs")

#: Values with an address to listen on, besides ``endpoints``.
_PLACES: Final = ("listening.host", "listening.port", "listening.unix_socket", "listening.file_descriptor")


def _endpoints(given: Any) -> dict[str, Any]:
    # Replaces all addresses of the configuration.
    return {"endpoints": tuple(given), **dict.fromkeys(_PLACES)}


def _protocols(given: Any) -> dict[str, Any]:
    # A plain string is one name, not an iterable of characters.
    return {"websockets.protocols": (given,) if isinstance(given, str) else tuple(given)}


def _address_list(keyword: str, target: str) -> Callable[[Any], dict[str, Any]]:
    def convert(given: Any) -> dict[str, Any]:
        try:
            return {target: AddressList(given) if isinstance(given, str) else given}
        except ValueError as error:
            raise ValueError(f"{keyword} {error}") from None

    return convert


def _tls(given: Any) -> dict[str, Any]:
    return {f"tls.{name}": getattr(given, name) for name in ("alpn", "client_ca", "verify")}


def _listening(given: Any) -> dict[str, Any]:
    versions = given.proxy_protocol
    protocol = "auto" if len(versions) > 1 else f"v{min(versions)}" if versions else "off"
    return {"listening.backlog": given.backlog, "listening.reuse_port": given.reuse_port, "listening.proxy_protocol": protocol}


_CONVERTED: Final[dict[str, Callable[[Any], dict[str, Any]]]] = {
    "endpoints": _endpoints,
    "ws_protocols": _protocols,
    "tls_options": _tls,
    "listening": _listening,
    "proxy_allow_from": _address_list("proxy_allow_from", "proxies.allow_from"),
    "forwarded_allow_ips": _address_list("forwarded_allow_ips", "proxies.forwarded_allow_ips"),
}

#: daphne's names of header fields.  Port and scheme are read only together with the address.
_FORWARDED: Final = ("proxy_forwarded_address_header", "proxy_forwarded_port_header", "proxy_forwarded_proto_header")


def configuration(config: Config | None, keywords: Mapping[str, Any]) -> Config:
    """Return ``config``, or the defaults, changed by ``keywords``.

    :param keywords: daphne's and those of version 1.0, without :data:`OBJECTS`; ``None`` means not given.
    :raises TypeError: for an unknown keyword.
    :raises ValueError: for an invalid value.
    """
    values: dict[str, Any] = {}
    for name in keywords:
        if name not in TARGETS and name not in _CONVERTED and name not in _FORWARDED:
            raise TypeError(_unknown(name))
    given = {name: value for name, value in keywords.items() if value is not None}
    address, port, proto = (given.pop(name, None) for name in _FORWARDED)
    if address:
        values |= {"proxies.headers": True, "proxies.forwarded_headers": ForwardedFields(address, port, proto)}
    for name, value in given.items():
        if name in TARGETS:
            values[TARGETS[name]] = value
        else:
            values |= _CONVERTED[name](value)
    return (config or Config()).changed(values)


def _unknown(name: str) -> str:
    # Imported here, because only mistakes need it.
    import difflib

    known = [*TARGETS, *_CONVERTED, *_FORWARDED, *OBJECTS, "application", "config", "action_logger", "signal_handlers"]
    near = difflib.get_close_matches(name, known, 1)
    return f"Server() got an unexpected keyword argument {name!r}" + (f"; did you mean {near[0]!r}?" if near else "")
