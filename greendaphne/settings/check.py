"""Checks of options: the output of ``--check-config``, and contradictions between options.

``--check-config`` prints a configuration file with every option and the origin of each value.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from urllib.parse import unquote

from ..config import HEALTH_PATH, METRICS_PATH, Channels, Config, ConfigurationError
from ..core.forwarded import FORWARDED
from ..core.interfaces import CHANNELS
from .option import Option
from .options import GROUPS, OPTIONS
from .sources import CHANNEL_LAYER, Setting, default_text, key

#: Replaces a value that must not be shown.
_HIDDEN = '"..."'
_DEFAULT = "default"


def effective(settings: Mapping[str, Setting]) -> str:
    """Return the text of a configuration file with the effective value of every option.

    :param settings: the options that are set, by key.
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
    """Remove ``path`` if the block created it: another user may run the check, and the server could not write to that user's file."""
    path = None if path is None else os.path.abspath(path)
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
        raise ConfigurationError("--forwarded-headers=forwarded needs --forwarded-allow-ips, the list of trusted proxies.")
    if config.limits.connections_per_address and proxies.headers and proxies.forwarded_allow_ips is None:
        raise ConfigurationError(
            "--limit-connections-per-address with --proxy-headers needs --forwarded-allow-ips: a proxy has the connections of all clients."
        )
    if monitoring.metrics is not None or monitoring.metrics_path is not None:
        health = monitoring.health_path or (HEALTH_PATH if monitoring.metrics is not None else None)
        if health == (monitoring.metrics_path or METRICS_PATH):
            raise ConfigurationError(f"{health} cannot answer both health checks and Prometheus.")
    application = config.application
    said = [f"--interface={application.interface}"] if application.interface != "auto" else []
    said += [f"--{name}" for name in ("wsgi", "asgi") if getattr(application, name)]
    if len(said) > 1:
        raise ConfigurationError(f"{' and '.join(said)} contradict each other.")
    points = [unquote(path) for path, _, _ in application.mounts]
    for point in points:
        if points.count(point) > 1:
            raise ConfigurationError(f"--mount names several applications for {point}.")
    if application.patch and application.no_patch:
        raise ConfigurationError("--patch and --no-patch contradict each other.")
    if tls.keyfile is not None and tls.certfile is None:
        raise ConfigurationError("--keyfile needs --certfile, the certificate that it belongs to.")


def check_interface(config: Config, interface: str) -> None:
    """Refuse options that neither an application of this interface nor those mounted with it use.

    :raises ConfigurationError: for the first of them.
    """
    if interface == CHANNELS or any(said in (CHANNELS, "auto") for _, _, said in config.application.mounts):
        return
    default = Channels()
    for item in OPTIONS:
        group, _, name = item.to.rpartition(".")
        if group == "channels" and getattr(config.channels, name) != getattr(default, name):
            raise ConfigurationError(f"{item.name} is for channel layers, and the application is {interface}.")


def spelled(error: ConfigurationError) -> str:
    """Return the text of ``error`` with the name of the option that sets the wrong value, where the error names one value."""
    for item in OPTIONS:
        if error.target and item.to == error.target:
            return f"{item.name} {error.text}."
    return str(error)
