"""The state of the hosts of a directory: for metrics, for the operator, and for the manager."""

from __future__ import annotations

from datetime import datetime, timezone
from typing import NamedTuple

from . import schedule
from .store import Entry, Record, Snapshot, State


class HostStatus(NamedTuple):
    """The state of one host.  Times are seconds since the epoch, ``None`` without a certificate.

    ``danger`` is true when the renewal is overdue, and when the certificate is missing.  ``failures`` counts the failures since the last
    success.  ``reason`` is the reason of the last failure, or the problem of the file.  ``retry`` is the time of the next attempt.
    """

    host: str
    expires: float | None
    renews: float | None
    danger: bool
    failures: int
    reason: str
    retry: float | None = None


def statuses(snapshot: Snapshot, state: State, now: float) -> list[HostStatus]:
    """The states of the hosts, in alphabetical order."""
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
    """The time to renew the certificate of ``entry``; a suggestion for an earlier certificate is ignored."""
    assert entry.certificate is not None
    suggested = record.suggested if record.serial == f"{entry.certificate.serial:x}" else None
    return schedule.renewal_time(entry.certificate.not_before, entry.certificate.not_after, entry.certificate.serial, suggested)


def in_danger(entry: Entry, now: float) -> bool:
    """Whether the renewal of the certificate of ``entry`` is overdue."""
    certificate = entry.certificate
    return certificate is not None and now >= schedule.panic_time(certificate.not_before, certificate.not_after)


def date(timestamp: float) -> str:
    """A time as text for an operator."""
    return f"{datetime.fromtimestamp(timestamp, timezone.utc):%Y-%m-%d %H:%M} UTC"


def duration(seconds: float) -> str:
    """A duration as text, such as "3 days"."""
    for unit, name in ((schedule.DAY, "days"), (schedule.HOUR, "hours"), (schedule.MINUTE, "minutes")):
        if seconds >= 2 * unit:
            return f"{seconds / unit:.0f} {name}"
    return f"{seconds:.0f} seconds"
