"""Decides which task is due for the certificate of a host, from its file, the stored state and the clock; changes nothing."""

from __future__ import annotations

from typing import Final

from . import schedule
from .status import date, duration, in_danger, renewal_time
from .store import Entry, Record, State

#: The key of the authority's own record.
AUTHORITY: Final = ""


def task(entry: Entry, state: State, now: float, url: str, *, first: bool) -> str:
    """The task that is due for a host: ``issue``, ``ask`` (the authority for a renewal time), ``report``, or ``""``.

    :param url: the directory URL of the authority.
    :param first: whether this process has tried nothing yet.  It then does not wait for the end of an outage: an operator who restarts the
        server may have corrected a fault between it and the authority.
    """
    if entry.problem is not None:
        return ""
    record = state.records.get(entry.host) or Record()
    authority = state.records.get(AUTHORITY) or Record()
    waiting = schedule.is_ahead(authority.retry_at, now) and (authority.limited or not first)
    if schedule.is_ahead(record.retry_at, now) and (record.limited or record.failed == list(entry.signature or ())):
        waiting = True
    if not waiting:
        if _is_to_issue(entry, record, now, url):
            return "issue"
        if entry.certificate is not None and record.authority == url and not schedule.is_ahead(record.ask_at, now):
            return "ask"
    return "report" if is_to_report(entry, record, now) else ""


def is_to_report(entry: Entry, record: Record, now: float) -> bool:
    """Whether a line about a certificate in danger is due."""
    certificate = entry.certificate
    if certificate is None or not in_danger(entry, now):
        return False
    if record.reported_at < certificate.not_after <= now:
        # It expired after the last line, which announced the end only.
        return True
    return not schedule.is_ahead(record.reported_at + schedule.REPORT_INTERVAL, now)


def _is_to_issue(entry: Entry, record: Record, now: float, url: str) -> bool:
    certificate = entry.certificate
    if certificate is None or entry.wanted:
        return True
    if record.authority and record.authority != url:
        # Usually from a test authority; an operator who changes the endpoint wants certificates from the new one.
        return True
    if renewal_time(entry, record) > now:
        return False
    # The limit also holds for expired certificates: to a wrong clock every new certificate may look expired.
    own = record.serial == f"{certificate.serial:x}"
    earliest = schedule.earliest_renewal(certificate.not_before, certificate.not_after, record.issued_at)
    return not (own and 0 < record.issued_at <= now < earliest)


def danger_text(entry: Entry, record: Record, now: float) -> str:
    """The line about a certificate in danger."""
    assert entry.certificate is not None
    left = entry.certificate.not_after - now
    when = f"expires in {duration(left)}" if left > 0 else f"expired on {date(entry.certificate.not_after)}"
    return f"The certificate for {entry.host} {when} and could not be renewed: {record.reason or 'no attempt was made'}"
