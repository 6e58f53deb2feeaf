"""The metrics of a channel-layer application at the moment of a scrape."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING, Protocol

from ...layers.tally import REPLY, Tally
from ...monitoring.families import Family, counter, counters, gauge
from ...serving.spool import BODIES, REPLIES

if TYPE_CHECKING:
    from .bodies import Bodies
    from .meter import LayerMeter
    from .notifier import Notifier
    from .router import ReplyRouter
    from .supervisor import Supervisor
    from .watch import LayerWatch


class Parts(Protocol):
    """What the metrics show; :class:`~greendaphne.applications.channels.application.ChannelLayerApplication` has it."""

    bodies: Bodies
    meter: LayerMeter | None
    notifier: Notifier
    router: ReplyRouter
    supervisor: Supervisor
    tally: Tally
    watch: LayerWatch


def families(application: Parts) -> Iterable[Family]:
    """Everything that monitoring shows about ``application``."""
    if application.meter is not None:
        yield from application.meter.families()
    watch = application.watch
    yield gauge("greendaphne_layer_up", "1 while the channel layer is in reach, as far as traffic has shown.", watch.reachable)
    yield counter("greendaphne_layer_outages", "Times that the channel layer went out of reach.", watch.outages)
    yield counter("greendaphne_layer_losses", "Times that messages and groups may have been lost.", watch.losses)
    tally = application.tally
    yield counters("greendaphne_layer_bad_messages", "Messages that cannot be used and were dropped.", ("channel",), _kinds(tally.bad))
    yield counters("greendaphne_layer_dropped", "Messages to groups that a member had no room for.", ("channel",), _kinds(tally.dropped))
    restarts = {(name.replace(" ", "-").lower(),): number for name, number in application.supervisor.restarts.items()}
    yield counters("greendaphne_part_failures", "Times that a part of the server ended by itself or failed.", ("part",), restarts)
    yield from _waiting(application)


def _waiting(application: Parts) -> Iterable[Family]:
    clients = list(application.router.clients.values())
    yield gauge("greendaphne_reply_channels", "Clients that wait for replies of the application.", len(clients))
    held = [client.held for client in clients]
    yield gauge("greendaphne_replies_waiting_bytes", "Memory of replies that wait for their clients.", sum(held))
    yield gauge("greendaphne_replies_waiting_max_bytes", "Memory of the replies that wait for one client, at most.", max(held, default=0))
    spool = application.bodies.spool
    yield gauge("greendaphne_replies_disk_bytes", "Disk of replies that wait for slow clients.", spool.held[REPLIES])
    yield gauge("greendaphne_disconnects_waiting", "Disconnect messages that the layer has not taken yet.", len(application.notifier))
    bodies = application.bodies.memory
    yield gauge("greendaphne_bodies_memory_bytes", "Memory that request bodies hold.", bodies.held)
    yield gauge("greendaphne_bodies_memory_limit_bytes", "Memory that they may hold before they are stored on disk.", bodies.size)
    yield gauge("greendaphne_bodies_disk_bytes", "Disk that request bodies hold.", spool.held[BODIES])
    yield gauge("greendaphne_bodies_disk_limit_bytes", "Disk that bodies and replies may hold.", spool.allowance.size)


def _kinds(numbers: Mapping[str, int]) -> dict[tuple[str], int]:
    """Numbers by kind of channel; those of replies are there from the start, since a counter that appears shows no increase."""
    return {(kind,): number for kind, number in {REPLY: 0, **numbers}.items()}
