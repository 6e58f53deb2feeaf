"""The endpoints that a configuration names."""

from __future__ import annotations

from collections.abc import Sequence

from ...config import DEFAULT_HOST, DEFAULT_PORT, Config, Listening
from . import PROXY_PROTOCOL, ListeningOptions, build_endpoint_description_strings, systemd


def descriptions(config: Config) -> list[str]:
    """Return the endpoint strings that ``config`` names; like daphne it keeps duplicates.  Empty where it names none.

    The result is sorted where :class:`~greendaphne.config.Listening` names an endpoint; otherwise it has the order of
    :attr:`Config.endpoints`.  Descriptor 0 and port 0 count as given; daphne took them for absent and used its default address.
    """
    listening = config.listening
    host, port = listening.host or None, listening.port
    if host is not None or port is not None:
        host = DEFAULT_HOST if host is None else host
        port = DEFAULT_PORT if port is None else port
    built = build_endpoint_description_strings(host, port, listening.unix_socket or None, listening.file_descriptor)
    return sorted([*config.endpoints, *built]) if built else [*config.endpoints]


def command_descriptions(config: Config, opened: Sequence[str] = ()) -> list[str]:
    """Return the strings of all endpoints that the command listens on, sorted.

    Where no option names an endpoint, these are the sockets from systemd; without such sockets, the default address.

    :param opened: the endpoints that this worker's master opened; with :attr:`~greendaphne.config.Monitoring.metrics`, the last one is
        the master's own.
    """
    given = descriptions(config)
    if given:
        return sorted(given)
    if opened:
        return [*opened[:-1]] if config.monitoring.metrics is not None else [*opened]
    return systemd.descriptions() or build_endpoint_description_strings(DEFAULT_HOST, DEFAULT_PORT)


def listening_options(listening: Listening) -> ListeningOptions:
    """Return the defaults for endpoints whose strings do not set these options."""
    return ListeningOptions(listening.backlog, listening.reuse_port, PROXY_PROTOCOL[listening.proxy_protocol])
