"""Keeps the certificates of one directory: a greenlet that looks every second at what is there and does what is due.

What is due follows from the files, the clock and what is remembered in the directory, so any of several processes may do it, and whoever
has the directory's lock does.  The others notice the new file.  Nothing that goes wrong here reaches the connections: what is in service
stays there, the reason is logged, and it is tried again later (:func:`.schedule.retry_delay`).
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

from . import schedule
from .authority import Authority, AuthorityError
from .challenges import Challenges
from .issuing import Refused, obtain
from .options import AcmeError, AcmeOptions
from .status import HostStatus, date, duration, in_danger, renewal_time, statuses
from .store import Entry, Record, Snapshot, State, Store
from .threads import NativeThread

logger = logging.getLogger(__name__)

#: Seconds between two looks at the directory.
WATCH_INTERVAL: Final = 1.0
#: A look takes this part of the time at most; a directory with many thousand files is looked at less often.
_SHARE: Final = 1 / 200

#: Seconds to wait after an error that nobody has thought of.
_PAUSE: Final = 60.0

#: The record of the authority itself.
_AUTHORITY: Final = ""
#: Reported of nobody in particular.
_NOTICE: Final = "\0"


class Served(Protocol):
    """What serves the certificates; :class:`.contexts.AcmeContexts` does."""

    def refresh(self, host: str) -> None:
        """Serve what is in the file of ``host`` from now on."""


class Manager:
    """One directory and the authority that fills it.

    :param store: the directory.
    :param url: the authority's directory URL.
    :param served: the endpoints that serve from it.
    :param kinds: the challenges that can be answered, the preferred first.
    :param clock: seconds since the epoch.
    :param interval: seconds between two looks, by default :data:`WATCH_INTERVAL`.
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
        #: How many certificates this process has obtained, and how many times it has failed to.
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
        # Whether this process has said that the directory is to be filled by its authority.
        self._claimed = False
        # Whether nothing has been tried yet.  Whoever starts a server again may have corrected what was wrong between it and the authority.
        self._first = True
        # Whether it has been said what is put off.
        self._told = False
        # What was obtained, when, and could not be written; authorities allow only a few of the same in a week.
        self._unwritten: dict[str, tuple[float, bytes]] = {}
        # What was reported when, where that cannot be written to the directory.
        self._reported: dict[str, tuple[str, float]] = {}
        self._run: NativeThread | None = None
        self._authority: Authority | None = None
        self._greenlet: gevent.Greenlet[..., None] | None = None

    def start(self) -> None:
        """Begin, in a greenlet of this thread's hub."""
        self._greenlet = gevent.spawn(self._watch)

    def end(self) -> gevent.Greenlet[..., None] | None:
        """Begin to end: an order that is under way is given up, and open challenges are withdrawn.

        :returns: what remains to be waited for, if anything does.
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
                    self._report(_NOTICE, str(error))
                except Exception:
                    logger.exception("Error in looking after the certificates in %s", self.store.path)
                    gevent.sleep(_PAUSE)
                gevent.sleep(self._interval if worked else max(self._interval, (time.monotonic() - started) / _SHARE))
        finally:
            self.close()

    def close(self) -> None:
        """Let the native thread end; for whoever calls :meth:`look` without :meth:`start`."""
        run, self._run = self._run, None
        authority, self._authority = self._authority, None
        if run is not None:
            run.close(None if authority is None else authority.close)

    @property
    def run(self) -> NativeThread:
        """Where blocking calls are made."""
        if self._run is None:
            self._run = NativeThread()
        return self._run

    def look(self) -> bool:
        """Look at the directory once and do what is due; whether there was anything.

        :raises AcmeError: where the directory cannot be used.
        """
        if missing := [host for host in self._options.domains if host not in self._snapshot.entries]:
            self.run(self.store.ensure, missing)
        snapshot, state = self.run(self._scan)
        self._state = state
        self._notice_changes(snapshot)
        self._report_files(snapshot)
        now = self._clock()
        if not self._told:
            self._told = True
            self._tell_what_waits(snapshot, state, now)
        tasks = {self._tasks(entry, state, now) for entry in snapshot.entries.values()} - {""}
        if not tasks:
            self._first = False
            return False
        if not self._options.agree_tos:
            self._report_all_danger(snapshot, state, now)
            if "issue" in tasks:
                self._report(
                    _NOTICE,
                    f"Certificates in {self.store.path} are due, and none is issued: agree to the terms of service of {self.url} with "
                    "--acme-agree-tos",
                )
            return False
        if self._claimed and state.authority not in ("", self.url):
            # Each would replace the other's certificates for ever.
            self._report(
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
        """A file that could not be used and now can is served without waiting for a sign that it has changed, since chmod gives none."""
        before, self._snapshot = self._snapshot, snapshot
        for host, entry in snapshot.entries.items():
            old = before.entries.get(host)
            if old is not None and old.problem is not None and entry.certificate is not None:
                self._refresh(host)

    def _tell_what_waits(self, snapshot: Snapshot, state: State, now: float) -> None:
        """Say at the start what was put off before it; nothing else would for hours."""
        for entry in snapshot.entries.values():
            record = state.records.get(entry.host) or Record()
            if schedule.is_ahead(record.retry_at, now) and not self._tasks(entry, state, now):
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
            self._report(name, f"No certificate can be obtained: {line}")
        for entry in snapshot.entries.values():
            if entry.problem is not None:
                self._report(
                    f"file {entry.host}",
                    f"{entry.problem}; it is left as it is and not renewed, correct it or empty it to have a new certificate issued",
                )

    def _report(self, key: str, line: str) -> None:
        """Log an ERROR when something is new, and once a day for as long as it stays."""
        now = self._clock()
        last, at = self._reported.get(key, ("", 0.0))
        if line != last or now >= at + schedule.REPORT_INTERVAL:
            self._reported[key] = line, now
            logger.error("%s", line)

    # What is due.

    def _tasks(self, entry: Entry, state: State, now: float) -> str:
        """What there is to do for a host: ``issue``, ``ask`` (the authority when to renew), ``report``, or nothing."""
        if entry.problem is not None:
            return ""
        record = state.records.get(entry.host) or Record()
        authority = state.records.get(_AUTHORITY) or Record()
        waiting = schedule.is_ahead(authority.retry_at, now) and (authority.limited or not self._first)
        if schedule.is_ahead(record.retry_at, now) and (record.limited or record.failed == list(entry.signature or ())):
            waiting = True
        if not waiting:
            if self._is_due(entry, record, now):
                return "issue"
            if entry.certificate is not None and record.authority == self.url and not schedule.is_ahead(record.ask_at, now):
                return "ask"
        return "report" if self._is_to_report(entry, record, now) else ""

    @staticmethod
    def _is_to_report(entry: Entry, record: Record, now: float) -> bool:
        certificate = entry.certificate
        if certificate is None or not in_danger(entry, now):
            return False
        if record.reported_at < certificate.not_after <= now:
            # It expired after the last line, which said only that it would.
            return True
        return not schedule.is_ahead(record.reported_at + schedule.REPORT_INTERVAL, now)

    def _is_due(self, entry: Entry, record: Record, now: float) -> bool:
        certificate = entry.certificate
        if certificate is None or entry.wanted:
            return True
        if record.authority and record.authority != self.url:
            # From a test authority, usually; whoever changes the endpoint wants the other one's.
            return True
        if renewal_time(entry, record) > now:
            return False
        # Also one that has expired by this clock: one that is wrong finds that of every certificate it gets.
        own = record.serial == f"{certificate.serial:x}"
        earliest = schedule.earliest_renewal(certificate.not_before, certificate.not_after, record.issued_at)
        return not (own and 0 < record.issued_at <= now < earliest)

    # What is done, under the lock.

    def _work(self, now: float) -> None:
        snapshot, state = self.run(self._scan)
        self._snapshot, self._state = snapshot, state
        self._claimed, state.authority = True, self.url
        # For commands by hand, which speak with the same authority.
        state.ca = "" if self._options.ca is None else os.path.abspath(self._options.ca)
        for host, entry in snapshot.entries.items():
            record = state.records.get(host)
            if record is not None and record.begun:
                self._was_cut_short(entry, record, now)
        tasks = {host: task for host, entry in snapshot.entries.items() if (task := self._tasks(entry, state, now))}

        def urgency(host: str) -> tuple[bool, float]:
            # A site without a certificate comes first, then whichever has the least time left; those that failed last must not keep the
            # others from their turn.
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
                        # It is the same for the others; that they stand in danger is still to be said.
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
        for host in set(state.records) - set(snapshot.entries) - {_AUTHORITY}:
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
        """The authority does its work again, as far as there was any for it."""
        record = state.of(_AUTHORITY)
        if record.failures:
            logger.info("%s can be reached again", self.url)
            record.failures, record.retry_at, record.limited, record.reason = 0, 0.0, False, ""

    def _save(self, state: State) -> None:
        """Remember ``state``; where that fails this process does, and another one may try something twice."""
        try:
            self.run(self.store.save, state)
        except AcmeError as error:
            self._report(_NOTICE, str(error))

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
        """Obtain a certificate; what is about to be tried is remembered before.

        A process that is killed each time, or a disk that is full, must not use up what the authority allows.
        """
        record.begun = self._clock()
        try:
            self.run(self.store.save, state)
            return self._obtain(authority, entry, record, state)
        except gevent.GreenletExit:
            # An end in good order: whoever comes next may go on at once.
            record.begun = 0.0
            with suppress(AcmeError):
                self.store.save(state)
            raise

    def _was_cut_short(self, entry: Entry, record: Record, now: float) -> None:
        """The process that tried ended in the middle of it: that is a failure like others."""
        record.begun = 0.0
        record.failures += 1
        left = None if entry.certificate is None else entry.certificate.not_after - now
        delay = schedule.retry_delay(record.failures, False, None, left, random.random())
        record.retry_at, record.limited, record.failed = now + delay, False, list(entry.signature or ())
        record.reason = "the last try had no end, the process was killed or failed in the middle of it"
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
            # It is the same for every host.
            error.outage = True
            raise
        replaces = entry.certificate.certificate if entry.certificate is not None and record.authority == self.url else None
        kinds = self._kinds
        if record.challenge and len(kinds) > 1:
            # The last try failed with it, as it does behind a proxy; the other one may get through.
            kinds = tuple(sorted(kinds, key=lambda kind: kind == record.challenge))
        try:
            return obtain(self.run, authority, self._challenges, host, kinds, replaces)
        except AuthorityError as error:
            if error.code != "accountDoesNotExist" or not state.account:
                raise
            # The authority has forgotten it.
            state.account = self.run(authority.sign_in, {})
            return obtain(self.run, authority, self._challenges, host, kinds, replaces)

    def _ask(self, authority: Authority, entry: Entry, record: Record) -> None:
        """Ask the authority when it would have the certificate renewed."""
        now = self._clock()
        record.ask_at = now + schedule.ARI_MAX
        if entry.certificate is None or entry.certificate.not_after <= now:
            return
        try:
            renewal = self.run(authority.renewal, entry.certificate.certificate)
        except AuthorityError as error:
            # Nothing depends on it: a certificate is renewed without, too.
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
        """Remember a failure and when to try again: for the host where it was refused, for all where the authority is out of reach."""
        now = self._clock()
        outage = isinstance(error, AuthorityError) and error.outage
        wait = error.retry_after if isinstance(error, AuthorityError) else None
        left = None if entry.certificate is None else entry.certificate.not_after - now
        where = state.of(_AUTHORITY) if outage else record
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
        kept = "" if entry.certificate is None else "; the present one stays in service"
        text = "No certificate for %s from %s: %s%s; trying again in %s"
        logger.log(level, text, entry.host, self.url, error, kept, duration(delay))

    def _report_danger(self, entry: Entry, record: Record) -> None:
        now = self._clock()
        if self._is_to_report(entry, record, now):
            record.reported_at = now
            logger.error("%s", self._danger_text(entry, record))

    def _report_all_danger(self, snapshot: Snapshot, state: State, now: float) -> None:
        for entry in snapshot.entries.values():
            if in_danger(entry, now):
                self._report(f"danger {entry.host}", self._danger_text(entry, state.records.get(entry.host) or Record()))

    def _danger_text(self, entry: Entry, record: Record) -> str:
        assert entry.certificate is not None
        left = entry.certificate.not_after - self._clock()
        when = f"expires in {duration(left)}" if left > 0 else f"expired on {date(entry.certificate.not_after)}"
        return f"The certificate for {entry.host} {when} and could not be renewed: {record.reason or 'it was not tried'}"

    def statuses(self) -> list[HostStatus]:
        """How the hosts stand by the last look, for metrics."""
        return statuses(self._snapshot, self._state, self._clock())

    @property
    def outages(self) -> int:
        """How many times in a row the authority was out of reach."""
        record = self._state.records.get(_AUTHORITY)
        return 0 if record is None else record.failures
