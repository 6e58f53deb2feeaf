"""How the hosts of a directory stand: for metrics, for the operator, and for what the manager does next."""

from __future__ import annotations

from datetime import datetime, timezone
from typing import NamedTuple

from . import schedule
from .store import Entry, Record, Snapshot, State


class HostStatus(NamedTuple):
    """How one host stands.  Times are seconds since the epoch, ``None`` where there is no certificate.

    ``danger`` is true once the certificate should have been renewed long ago, and where there is none although there should be.
    ``failures`` counts those since the last success, ``reason`` is that of the last one, or what is wrong with the file, and ``retry``
    when the next try is.
    """

    host: str
    expires: float | None
    renews: float | None
    danger: bool
    failures: int
    reason: str
    retry: float | None = None


def statuses(snapshot: Snapshot, state: State, now: float) -> list[HostStatus]:
    """How the hosts stand, in alphabetical order."""
    found = []
    for host, entry in sorted(snapshot.entries.items()):
        record = state.records.get(host) or Record()
        expires = None if entry.certificate is None else entry.certificate.not_after
        renews = None if entry.certificate is None else renewal_time(entry, record)
        danger = entry.certificate is None or in_danger(entry, now)
        retry = record.retry_at if entry.problem is None and schedule.is_ahead(record.retry_at, now) else None
        found.append(HostStatus(host, expires, renews, danger, record.failures, entry.problem or record.reason, retry))
    return found


def renewal_time(entry: Entry, record: Record) -> float:
    """When the certificate of ``entry`` is renewed; a suggestion counts only for the certificate that it was made for."""
    assert entry.certificate is not None
    suggested = record.suggested if record.serial == f"{entry.certificate.serial:x}" else None
    return schedule.renewal_time(entry.certificate.not_before, entry.certificate.not_after, entry.certificate.serial, suggested)


def in_danger(entry: Entry, now: float) -> bool:
    """Whether the certificate of ``entry`` should have been renewed long ago."""
    certificate = entry.certificate
    return certificate is not None and now >= schedule.panic_time(certificate.not_before, certificate.not_after)


def date(timestamp: float) -> str:
    """A time as an operator reads it."""
    return f"{datetime.fromtimestamp(timestamp, timezone.utc):%Y-%m-%d %H:%M} UTC"


def duration(seconds: float) -> str:
    """A duration as people say it."""
    for unit, name in ((schedule.DAY, "days"), (schedule.HOUR, "hours"), (schedule.MINUTE, "minutes")):
        if seconds >= 2 * unit:
            return f"{seconds / unit:.0f} {name}"
    return f"{seconds:.0f} seconds"
