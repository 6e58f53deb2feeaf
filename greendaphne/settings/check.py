"""Checks of options: ``--check-config``, which shows what is in force, and contradictions between options.

What ``--check-config`` prints is a configuration file with everything written out, and where each value is from.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager

from ..config import HEALTH_PATH, METRICS_PATH, Config, ConfigurationError
from ..core.forwarded import FORWARDED
from .option import Option
from .options import GROUPS, OPTIONS
from .sources import CHANNEL_LAYER, Setting, default_text, key

#: What stands for a value that must not be shown.
_HIDDEN = '"..."'
_DEFAULT = "default"


def effective(settings: Mapping[str, Setting]) -> str:
    """Return the text of a configuration file with every option as it is in force.

    :param settings: by key, those that are set.
    """
    lines = [_entry(CHANNEL_LAYER, settings)]
    for group in GROUPS:
        items = [item for item in OPTIONS if item.group == group and not item.command_line_only]
        if items:
            lines += ["", f"# {group}", *(_entry(item, settings) for item in items)]
    config = settings.get("config")
    if config is not None:
        lines[:0] = [f"# Configuration file: {config.value} ({config.origin})"]
    return "\n".join(lines)


def _entry(item: Option, settings: Mapping[str, Setting]) -> str:
    setting = settings.get(key(item))
    if setting is not None:
        text, origin = _HIDDEN if item.secret else setting.text, setting.origin
    else:
        text, origin = default_text(item), _DEFAULT
    return f"{key(item)} = {text}  # {origin}" if text else f"# {key(item)} is not set"


@contextmanager
def no_new_file(path: str | None) -> Iterator[None]:
    """Remove ``path`` again where the block made it: whoever checks may be another user than the server, which could not write to it."""
    made = path is not None and not os.path.lexists(path)
    try:
        yield
    finally:
        if made and path is not None and os.path.lexists(path):
            os.unlink(path)


def check_options(config: Config) -> None:
    """Refuse options that contradict each other.

    :raises ConfigurationError: for the first contradiction.
    """
    proxies, tls, monitoring = config.proxies, config.tls, config.monitoring
    if proxies.forwarded_headers.address == FORWARDED and proxies.forwarded_allow_ips is None:
        raise ConfigurationError("--forwarded-headers=forwarded needs --forwarded-allow-ips, the proxies that are believed.")
    if config.limits.connections_per_address and proxies.headers and proxies.forwarded_allow_ips is None:
        raise ConfigurationError(
            "--limit-connections-per-address with --proxy-headers needs --forwarded-allow-ips: a proxy has the connections of all clients."
        )
    if monitoring.metrics is not None or monitoring.metrics_path is not None:
        health = monitoring.health_path or (HEALTH_PATH if monitoring.metrics is not None else None)
        if health == (monitoring.metrics_path or METRICS_PATH):
            raise ConfigurationError(f"{health} cannot answer both health checks and Prometheus.")
    if tls.keyfile is not None and tls.certfile is None:
        raise ConfigurationError("--keyfile needs --certfile, the certificate that it belongs to.")


def spelled(error: ConfigurationError) -> str:
    """Return the text of ``error`` with the name of the option that sets the wrong value, where it is about one value."""
    for item in OPTIONS:
        if error.target and item.to == error.target:
            return f"{item.name} {error.text}."
    return str(error)
