"""Which endpoints a configuration stands for."""

from __future__ import annotations

from collections.abc import Sequence

from ...config import DEFAULT_HOST, DEFAULT_PORT, Config, Listening
from . import PROXY_PROTOCOL, ListeningOptions, build_endpoint_description_strings, systemd


def descriptions(config: Config) -> list[str]:
    """Return the strings of the endpoints that ``config`` names, with duplicates, as daphne did; none where it names none.

    Where :class:`~greendaphne.config.Listening` names any they are sorted, otherwise in the order of :attr:`Config.endpoints`.  A file
    descriptor 0 and a port 0 count as given; daphne listened on its default address as well, or instead.
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

    Where no option names any, they are the sockets that systemd handed down, and only without those the default address.

    :param opened: the endpoints that this worker's master opened; with :attr:`~greendaphne.config.Monitoring.metrics` its own comes last.
    """
    given = descriptions(config)
    if given:
        return sorted(given)
    if opened:
        return [*opened[:-1]] if config.monitoring.metrics is not None else [*opened]
    return systemd.descriptions() or build_endpoint_description_strings(DEFAULT_HOST, DEFAULT_PORT)


def listening_options(listening: Listening) -> ListeningOptions:
    """Return what holds for all endpoints that do not say it themselves."""
    return ListeningOptions(listening.backlog, listening.reuse_port, PROXY_PROTOCOL[listening.proxy_protocol])
