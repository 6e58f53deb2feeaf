"""Logs certificates that are about to expire or have expired.

A certificate in service gets a WARNING each day from 30 days before its end, or from the last third of a shorter lifetime, and an ERROR at
its end and each day after it.  :class:`ValidityLog` decides which line is due; :class:`ValidityWatch` asks it periodically, because
certificates expire on idle servers too.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Sequence
from datetime import datetime, timezone
from typing import TYPE_CHECKING, Final, NamedTuple, Protocol

import gevent

if TYPE_CHECKING:
    from cryptography import x509

logger = logging.getLogger(__name__)

DAY: Final = 86400.0
#: Certificates are reported this many seconds before their end, or within :data:`SHARE` of their lifetime if that is shorter.  30 days
#: is the usual renewal time of certificates of 90 days, and enough for a certificate that is ordered by hand.
PERIOD: Final = 30 * DAY
SHARE: Final = 1 / 3
#: Seconds between two lines about one certificate.
INTERVAL: Final = DAY
#: The most seconds between two checks of all certificates.
LOOK: Final = 3600.0

_EARLY, _ENDING, _EXPIRED = range(3)


class _Report(NamedTuple):
    state: int
    at: float


class ValidityLog:
    """Decides which lines about certificates are due, and remembers those it has returned.

    :param clock: seconds since the epoch.
    :param silent: return no lines, because another process logs them.
    """

    def __init__(self, clock: Callable[[], float] = time.time, *, silent: bool = False) -> None:
        self._clock = clock
        self.silent = silent
        # By file and serial number, because endpoints detect a new file at different times.
        self._reports: dict[tuple[str, int], _Report] = {}

    def line(self, certificate: x509.Certificate, path: str) -> tuple[int, str] | None:
        """The level and the text of the line that is due about the certificate in ``path``, ``None`` for none."""
        if self.silent:
            return None
        now = self._clock()
        begin, end = certificate.not_valid_before_utc, certificate.not_valid_after_utc
        left = end.timestamp() - now
        if left <= 0:
            state = _EXPIRED
        elif begin.timestamp() > now:
            state = _EARLY
        elif left <= min(PERIOD, (end - begin).total_seconds() * SHARE):
            state = _ENDING
        else:
            return None
        key = path, certificate.serial_number
        last = self._reports.get(key)
        if last is not None and last.state == state and last.at <= now < last.at + INTERVAL:
            return None
        # Old reports are about certificates that are no longer in service.
        self._reports = {each: report for each, report in self._reports.items() if now < report.at + 2 * INTERVAL}
        self._reports[key] = _Report(state, now)
        if state == _EXPIRED:
            return logging.ERROR, f"The certificate in {path} expired on {_date(end)}; clients refuse it, replace the file"
        if state == _EARLY:
            return logging.WARNING, f"The certificate in {path} is not valid before {_date(begin)}"
        return logging.WARNING, f"The certificate in {path} expires in {_left(left)}, on {_date(end)}; replace the file"

    def next_look(self, certificates: Sequence[x509.Certificate]) -> float:
        """Seconds until a line may be due: :data:`LOOK`, or the time to the end of the first certificate that expires."""
        now = self._clock()
        left = (certificate.not_valid_after_utc.timestamp() - now for certificate in certificates)
        # A second more, because certificates are valid to the end of their last second (RFC 5280 section 4.1.2.5).
        return min((seconds + 1 for seconds in left if seconds > 0), default=LOOK) if certificates else LOOK


class Certified(Protocol):
    """The certificates of one endpoint; :class:`~greendaphne.net.tls.contexts.Contexts` has them."""

    validity: ValidityLog

    def report_validity(self) -> list[x509.Certificate]:
        """Log the certificates that are about to expire or have expired, where a line is due; returns those in service."""


class ValidityWatch:
    """Logs the lines of a :class:`ValidityLog` about the certificates of several endpoints, in a greenlet.

    :param contexts: the contexts of the endpoints; they share one log, so that a file on two endpoints has one line.
    :param silent: as for :class:`ValidityLog`.
    """

    def __init__(self, contexts: Sequence[Certified], *, silent: bool = False) -> None:
        self._contexts = contexts
        self._log = ValidityLog(silent=silent)
        self._greenlet: gevent.Greenlet[..., None] | None = None
        for each in contexts:
            each.validity = self._log

    def start(self) -> None:
        """Start a greenlet in this thread's hub."""
        if self._log.silent:
            return
        self._greenlet = gevent.spawn(self._run)

    def stop(self) -> None:
        """Stop; idempotent."""
        greenlet, self._greenlet = self._greenlet, None
        if greenlet is not None:
            greenlet.kill(block=False)

    def _run(self) -> None:
        while True:
            gevent.sleep(min(LOOK, self.look()))

    def look(self) -> float:
        """Log the lines that are due; returns the seconds until the next check."""
        found = []
        for each in self._contexts:
            try:
                found += each.report_validity()
            except Exception:
                # Keep the greenlet running; the next check may succeed.
                logger.exception("Error in the check of certificates")
        return self._log.next_look(found)


def _date(when: datetime) -> str:
    return f"{when.astimezone(timezone.utc):%Y-%m-%d %H:%M} UTC"


def _left(seconds: float) -> str:
    """A duration, rounded down, so that "1 day" is never less than a day."""
    for unit, name in ((DAY, "day"), (3600.0, "hour"), (60.0, "minute")):
        if seconds >= unit:
            number = int(seconds // unit)
            return f"{number} {name}{'' if number == 1 else 's'}"
    return "less than a minute"
