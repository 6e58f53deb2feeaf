"""Keeps the certificates of one directory: a greenlet checks the directory every second and does the tasks that are due.

The due tasks follow from the files, the clock and the state stored in the directory.  So any of several processes can do them: the one that
gets the directory's lock.  The others detect the new file.  A failure does not affect connections: the certificate in service stays
in service, the reason is logged, and a later attempt follows (:func:`.schedule.retry_delay`).
"""

from __future__ import annotations

import logging
import os
import random
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from typing import Final, Protocol

import gevent

from . import due, schedule
from .authority import Authority, AuthorityError
from .challenges import Challenges
from .issuing import Refused, obtain
from .options import AcmeError, AcmeOptions
from .reports import Reports
from .status import HostStatus, date, duration, in_danger, statuses
from .store import Entry, Record, Snapshot, State, Store
from .threads import NativeThread

logger = logging.getLogger(__name__)

#: Seconds between two checks of the directory.
WATCH_INTERVAL: Final = 1.0
#: The largest share of the time for checks; a directory with many thousand files is checked less often.
_SHARE: Final = 1 / 200

#: Seconds to wait after an unexpected error.
_PAUSE: Final = 60.0

#: The key for notices not tied to a host.
_NOTICE: Final = "\0"


class Served(Protocol):
    """Serves the certificates; :class:`.contexts.AcmeContexts` implements it."""

    def refresh(self, host: str) -> None:
        """Reload the file of ``host``."""


class Manager:
    """One directory and the authority that fills it.

    :param store: the directory.
    :param url: the authority's directory URL.
    :param served: the endpoints that serve from the directory.
    :param kinds: the challenges that the server can answer, in order of preference.
    :param clock: seconds since the epoch.
    :param interval: seconds between two checks, by default :data:`WATCH_INTERVAL`.
    """

    def __init__(
        self,
        store: Store,
        url: str,
        options: AcmeOptions,
        served: Sequence[Served] = (),
        kinds: Sequence[str] = (),
        *,
        clock: Callable[[], float] = time.time,
        interval: float | None = None,
    ) -> None:
        self.store = store
        self.url = url
        #: Certificates that this process has obtained, and failed attempts.
        self.issued = 0
        self.failed = 0
        self._options = options
        self._served = served
        self._kinds = tuple(kinds)
        self._clock = clock
        self._interval = WATCH_INTERVAL if interval is None else interval
        self._challenges = Challenges(store)
        self._snapshot = Snapshot({}, {})
        self._state = State()
        # Whether this process has recorded its authority as the one that fills the directory.
        self._claimed = False
        # Whether nothing has been tried yet.  An operator who restarts the server may have corrected a fault between it and the authority.
        self._first = True
        # Whether postponed attempts have been logged.
        self._postponed_logged = False
        # Certificates that could not be written, with the time of their issue; authorities allow few duplicates a week.
        self._unwritten: dict[str, tuple[float, bytes]] = {}
        # Lines that are reported once a day, and whose times are not stored in the directory.
        self._reports = Reports(clock)
        self._run: NativeThread | None = None
        self._authority: Authority | None = None
        self._greenlet: gevent.Greenlet[..., None] | None = None

    def start(self) -> None:
        """Start, in a greenlet of this thread's hub."""
        self._greenlet = gevent.spawn(self._watch)

    def end(self) -> gevent.Greenlet[..., None] | None:
        """Start to stop: a running order is abandoned, and open challenges are withdrawn.

        :returns: the greenlet to wait for, ``None`` where there is none.
        """
        greenlet, self._greenlet = self._greenlet, None
        if greenlet is not None:
            greenlet.kill(block=False)
        return greenlet

    def _watch(self) -> None:
        try:
            while True:
                started = time.monotonic()
                worked = False
                try:
                    worked = self.look()
                except AcmeError as error:
                    self._reports.add(_NOTICE, str(error))
                except Exception:
                    logger.exception("Error in the management of certificates in %s", self.store.path)
                    gevent.sleep(_PAUSE)
                gevent.sleep(self._interval if worked else max(self._interval, (time.monotonic() - started) / _SHARE))
        finally:
            self.close()

    def close(self) -> None:
        """End the native thread; for callers of :meth:`look` without :meth:`start`."""
        run, self._run = self._run, None
        authority, self._authority = self._authority, None
        if run is not None:
            run.close(None if authority is None else authority.close)

    @property
    def run(self) -> NativeThread:
        """The native thread for blocking calls."""
        if self._run is None:
            self._run = NativeThread()
        return self._run

    def look(self) -> bool:
        """Check the directory once and do the tasks that are due; returns whether there were any.

        :raises AcmeError: where the directory is unusable.
        """
        if missing := [host for host in self._options.domains if host not in self._snapshot.entries]:
            self.run(self.store.ensure, missing)
        snapshot, state = self.run(self._scan)
        self._state = state
        self._notice_changes(snapshot)
        self._report_files(snapshot)
        now = self._clock()
        if not self._postponed_logged:
            self._postponed_logged = True
            self._log_postponed(snapshot, state, now)
        tasks = {due.task(entry, state, now, self.url, first=self._first) for entry in snapshot.entries.values()} - {""}
        if not tasks:
            self._first = False
            return False
        if not self._options.agree_tos:
            self._report_all_danger(snapshot, state, now)
            if "issue" in tasks:
                self._reports.add(
                    _NOTICE,
                    f"Certificates in {self.store.path} are due, and none is issued: agree to the terms of service of {self.url} with "
                    "--acme-agree-tos",
                )
            return False
        if self._claimed and state.authority not in ("", self.url):
            # Otherwise each process would replace the other's certificates without end.
            self._reports.add(
                _NOTICE, f"Certificates in {self.store.path} come from {state.authority} now; this process obtains none for it any more"
            )
            return False
        try:
            with self.store.lock() as locked:
                if locked:
                    self._work(now)
                    self._first = False
            return locked
        except AcmeError:
            self._report_all_danger(snapshot, state, now)
            raise

    def _scan(self) -> tuple[Snapshot, State]:
        return self.store.scan(), self.store.state()

    def _notice_changes(self, snapshot: Snapshot) -> None:
        """Serve files that have become usable, without waiting for a change of their signature, because chmod does not change it."""
        before, self._snapshot = self._snapshot, snapshot
        for host, entry in snapshot.entries.items():
            old = before.entries.get(host)
            if old is not None and old.problem is not None and entry.certificate is not None:
                self._refresh(host)

    def _log_postponed(self, snapshot: Snapshot, state: State, now: float) -> None:
        """Log postponed attempts at start-up; otherwise the log would not mention them for hours."""
        for entry in snapshot.entries.values():
            record = state.records.get(entry.host) or Record()
            if schedule.is_ahead(record.retry_at, now) and not due.task(entry, state, now, self.url, first=self._first):
                logger.warning(
                    "%s is tried again in %s%s: %s",
                    entry.host,
                    duration(record.retry_at - now),
                    "" if record.limited else f", or once {entry.path} is touched",
                    record.reason,
                )

    def _refresh(self, host: str) -> None:
        for contexts in self._served:
            contexts.refresh(host)

    def _report_files(self, snapshot: Snapshot) -> None:
        for name, line in snapshot.refused.items():
            self._reports.add(name, f"No certificate can be obtained: {line}")
        for entry in snapshot.entries.values():
            if entry.problem is not None:
                self._reports.add(
                    f"file {entry.host}",
                    f"{entry.problem}; it is left as it is and not renewed, correct it or empty it to have a new certificate issued",
                )

    # Work under the lock.

    def _work(self, now: float) -> None:
        snapshot, state = self.run(self._scan)
        self._snapshot, self._state = snapshot, state
        self._claimed, state.authority = True, self.url
        # For the operator's commands, which contact the same authority.
        state.ca = "" if self._options.ca is None else os.path.abspath(self._options.ca)
        for host, entry in snapshot.entries.items():
            record = state.records.get(host)
            if record is not None and record.begun:
                self._record_interrupted(entry, record, now)
        tasks = {
            host: task for host, entry in snapshot.entries.items() if (task := due.task(entry, state, now, self.url, first=self._first))
        }

        def urgency(host: str) -> tuple[bool, float]:
            # Hosts without a certificate come first, then those with the least time left.  Hosts that failed last come after the
            # others, so that they do not delay them.
            certificate = snapshot.entries[host].certificate
            return bool(state.of(host).reason), 0.0 if certificate is None else certificate.not_after

        order = sorted(tasks, key=urgency)
        self._challenges.clear()
        self.store.clear()
        for host in order:
            entry, record, task = snapshot.entries[host], state.of(host), tasks[host]
            if task != "report":
                try:
                    authority = self._authority or self._connect(state)
                    if task == "issue":
                        self._issue(authority, entry, record, state)
                        entry, record, task = self._snapshot.entries.get(host, entry), state.of(host), "ask"
                    self._ask(authority, entry, record)
                    if tasks[host] == "issue":
                        self._reached(state)
                except AcmeError as error:
                    self._failure(error, entry, record, state, task)
                    if isinstance(error, AuthorityError) and error.outage:
                        # The outage concerns all hosts, but their danger must still be reported.
                        for other in order[order.index(host) :]:
                            self._report_danger(snapshot.entries[other], state.of(other))
                        break
                    if isinstance(error, AuthorityError):
                        self._reached(state)
            self._report_danger(entry, record)
        else:
            if self._authority is not None:
                self._reached(state)
        self._disconnect()
        for host in set(state.records) - set(snapshot.entries) - {due.AUTHORITY}:
            del state.records[host]
        self._save(state)

    def _connect(self, state: State) -> Authority:
        key = self.run(self.store.account_key)
        authority = self._authority = Authority(self.url, key, self._options)
        try:
            self.run(authority.connect)
        except AuthorityError:
            self._disconnect()
            raise
        return authority

    def _reached(self, state: State) -> None:
        """Reset the authority's record after a success."""
        record = state.of(due.AUTHORITY)
        if record.failures:
            logger.info("%s can be reached again", self.url)
            record.failures, record.retry_at, record.limited, record.reason = 0, 0.0, False, ""

    def _save(self, state: State) -> None:
        """Store ``state``; on failure only this process knows it, and another one may repeat an attempt."""
        try:
            self.run(self.store.save, state)
        except AcmeError as error:
            self._reports.add(_NOTICE, str(error))

    def _disconnect(self) -> None:
        authority, self._authority = self._authority, None
        if authority is not None:
            self.run(authority.close)

    def _issue(self, authority: Authority, entry: Entry, record: Record, state: State) -> None:
        host = entry.host
        obtained, data = self._unwritten.pop(host, (0.0, b""))
        if not schedule.is_ahead(obtained + schedule.DAY, self._clock()):
            data = self._try(authority, entry, record, state)
            obtained = self._clock()
        try:
            self.run(self.store.put, host, data)
        except AcmeError:
            self._unwritten[host] = obtained, data
            raise
        self._refresh(host)
        self.issued += 1
        now = self._clock()
        record = state.records[host] = Record(authority=self.url, issued_at=now, ask_at=now)
        self._snapshot = self.run(self.store.scan)
        new = self._snapshot.entries.get(host)
        until = ""
        if new is not None and new.certificate is not None:
            record.serial = f"{new.certificate.serial:x}"
            until = f", valid until {date(new.certificate.not_after)}"
        logger.info("A new certificate for %s is in service%s", host, until)
        self._save(state)

    def _try(self, authority: Authority, entry: Entry, record: Record, state: State) -> bytes:
        """Obtain a certificate; the attempt is recorded before it begins.

        Otherwise a process that is killed each time, or a full disk, could exhaust the authority's limits.
        """
        record.begun = self._clock()
        try:
            self.run(self.store.save, state)
            return self._obtain(authority, entry, record, state)
        except gevent.GreenletExit:
            # A graceful end: the next process may continue at once.
            record.begun = 0.0
            with suppress(AcmeError):
                self.store.save(state)
            raise

    def _record_interrupted(self, entry: Entry, record: Record, now: float) -> None:
        """Record an attempt whose process ended during it, as a failure like others."""
        record.begun = 0.0
        record.failures += 1
        left = None if entry.certificate is None else entry.certificate.not_after - now
        delay = schedule.retry_delay(record.failures, False, None, left, random.random())
        record.retry_at, record.limited, record.failed = now + delay, False, list(entry.signature or ())
        record.reason = "the last attempt did not finish: the process was killed or failed during it"
        self.failed += 1
        logger.warning("No certificate for %s from %s: %s; trying again in %s", entry.host, self.url, record.reason, duration(delay))

    def _obtain(self, authority: Authority, entry: Entry, record: Record, state: State) -> bytes:
        host = entry.host
        logger.info("Obtaining a certificate for %s from %s", host, self.url)
        try:
            account = self.run(authority.sign_in, state.account)
            if account is not state.account:
                terms = f", whose terms of service are {authority.terms_of_service}" if authority.terms_of_service else ""
                logger.info("Using the account %s at %s%s", account["url"], self.url, terms)
                state.account = account
        except AuthorityError as error:
            # The failure concerns every host.
            error.outage = True
            raise
        replaces = entry.certificate.certificate if entry.certificate is not None and record.authority == self.url else None
        kinds = self._kinds
        if record.challenge and len(kinds) > 1:
            # The last attempt failed with this challenge, as it does behind a proxy; another kind may succeed.
            kinds = tuple(sorted(kinds, key=lambda kind: kind == record.challenge))
        try:
            return obtain(self.run, authority, self._challenges, host, kinds, replaces)
        except AuthorityError as error:
            if error.code != "accountDoesNotExist" or not state.account:
                raise
            # The authority does not know the account any more.
            state.account = self.run(authority.sign_in, {})
            return obtain(self.run, authority, self._challenges, host, kinds, replaces)

    def _ask(self, authority: Authority, entry: Entry, record: Record) -> None:
        """Ask the authority for the suggested renewal time."""
        now = self._clock()
        record.ask_at = now + schedule.ARI_MAX
        if entry.certificate is None or entry.certificate.not_after <= now:
            return
        try:
            renewal = self.run(authority.renewal, entry.certificate.certificate)
        except AuthorityError as error:
            # The suggestion is optional: the certificate is renewed without it, too.
            logger.info("Cannot ask when to renew the certificate for %s: %s", entry.host, error)
            record.ask_at = now + min(max(schedule.ARI_DEFAULT, error.retry_after or 0.0), schedule.ARI_MAX)
            return
        if renewal is None:
            record.suggested = None
            return
        wait = schedule.ARI_DEFAULT if renewal.ask_again is None else renewal.ask_again
        record.ask_at = now + min(max(wait, schedule.ARI_MIN), schedule.ARI_MAX)
        serial = f"{entry.certificate.serial:x}"
        suggested = schedule.pick(renewal.start, renewal.end, entry.certificate.serial)
        if (record.serial, record.suggested) != (serial, suggested):
            record.serial, record.suggested = serial, suggested
            why = f" ({renewal.explanation})" if renewal.explanation else ""
            logger.info("%s suggests to renew the certificate for %s on %s%s", self.url, entry.host, date(suggested), why)

    def _failure(self, error: AcmeError, entry: Entry, record: Record, state: State, task: str) -> None:
        """Record a failure and the time of the next attempt: for the host after a refusal, for all hosts after an outage."""
        now = self._clock()
        outage = isinstance(error, AuthorityError) and error.outage
        wait = error.retry_after if isinstance(error, AuthorityError) else None
        left = None if entry.certificate is None else entry.certificate.not_after - now
        where = state.of(due.AUTHORITY) if outage else record
        record.begun = 0.0
        where.failures += 1
        delay = schedule.retry_delay(where.failures, outage, wait, left, random.random())
        where.retry_at = now + delay
        where.reason = str(error)
        record.reason = str(error)
        where.limited = wait is not None
        record.failed = list(entry.signature or ())
        if task == "ask":
            logger.warning("%s; trying again in %s", error, duration(delay))
            return
        self.failed += 1
        if isinstance(error, Refused):
            record.challenge = error.challenge
        level = logging.ERROR if entry.certificate is None else logging.WARNING
        kept = "" if entry.certificate is None else "; the present certificate stays in service"
        text = "No certificate for %s from %s: %s%s; trying again in %s"
        logger.log(level, text, entry.host, self.url, error, kept, duration(delay))

    def _report_danger(self, entry: Entry, record: Record) -> None:
        now = self._clock()
        if due.is_to_report(entry, record, now):
            record.reported_at = now
            logger.error("%s", due.danger_text(entry, record, now))

    def _report_all_danger(self, snapshot: Snapshot, state: State, now: float) -> None:
        for entry in snapshot.entries.values():
            if in_danger(entry, now):
                self._reports.add(f"danger {entry.host}", due.danger_text(entry, state.records.get(entry.host) or Record(), now))

    def statuses(self) -> list[HostStatus]:
        """The states of the hosts at the last check, for metrics."""
        return statuses(self._snapshot, self._state, self._clock())

    @property
    def outages(self) -> int:
        """The number of times in a row that the authority was unreachable."""
        record = self._state.records.get(due.AUTHORITY)
        return 0 if record is None else record.failures
