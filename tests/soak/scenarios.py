"""What is done to a server while clients ask it; each scenario returns what they met."""

from __future__ import annotations

import random
import re
import signal
import time
from collections.abc import Iterable
from datetime import datetime
from typing import Final

from . import managers, redis
from .load import Report, load, wait_until
from .managers import children
from .run import Run, Scenario
from .sites import APPLICATIONS, EXTERNAL, LEGACY, MEMORY, SITES, Site, lifespans

REPLACED: Final = "All workers are replaced"
SERVES: Final = "Worker .* serves"
#: What a report calls the time of a process that is replaced.
OLD_PROCESS: Final = "old process, from the signal that stops it to its end"
#: A master's line about one process.
_LIFE: Final = re.compile(r"(?P<time>\S+ \S+) .*\(process (?P<process>\d+)\) (?P<event>stops|ended|was ended)\b")
#: Workers of a master, and servers of Circus.
WORKERS: Final = 2


class Generations:
    """The processes of a server whose old ones end while new ones start.

    :param parent: their parent.
    """

    def __init__(self, report: Report, parent: int) -> None:
        self._report = report
        self._parent = parent
        self._old: set[int] = set()
        self._begun = 0.0

    def begin(self) -> None:
        """The processes of now are to be replaced."""
        self._old = set(children(self._parent))
        self._begun = time.monotonic()

    def look(self) -> bool:
        """Count the processes; more than the old and the new ones are a failure.  Whether all old ones have ended."""
        living = set(children(self._parent))
        if len(living) > 2 * WORKERS:
            self._report.failure("processes", f"{len(living)} live: {sorted(living)}")
        return not living & self._old

    def done(self, what: str) -> None:
        """Note how long ``what`` has taken."""
        self._report.took(what, self._begun)

    def wait(self) -> None:
        """Wait until all old processes have ended."""
        wait_until(self.look, "the end of the old processes")
        self.done("reload, to the end of the last old process")


def workers_reload(run: Run) -> Report:
    """SIGHUP to a master: all of its workers are replaced."""
    with managers.workers(run.site, run.directory) as (master, target), load(target) as report:
        processes = Generations(report, master.pid)
        for number in run.each(report):
            processes.begin()
            master.send(signal.SIGHUP)
            master.until(lambda: (processes.look(), master.count(REPLACED) >= number)[1], f"reload {number}")  # noqa: B023 - called within the round
            processes.done("reload, to the last new process")
            processes.wait()
            report.event("reloads")
            time.sleep(0.2)
    _look_for_cuts(report, master)
    _note_ends(report, master)
    _look_for_lifespans(report, run.site)
    return report


def workers_storm(run: Run) -> Report:
    """SIGHUP to a master at any moment, whatever it is at."""
    with managers.workers(run.site, run.directory) as (master, target), load(target) as report:
        processes = Generations(report, master.pid)
        for _ in run.each(report):
            end = time.monotonic() + random.choice((0, 0.1, 0.5, 1.5)) * random.random()
            master.send(signal.SIGHUP)
            report.event("SIGHUP")
            while time.monotonic() < end:
                processes.look()
                time.sleep(0.02)
        replaced = master.count(REPLACED)
        processes.begin()
        master.send(signal.SIGHUP)
        master.until(lambda: (processes.look(), master.count(REPLACED) > replaced)[1], "the last reload")
        processes.wait()
    _look_for_cuts(report, master)
    return report


def workers_end(run: Run) -> Report:
    """SIGTERM to one of a master's workers, which is replaced."""
    with managers.workers(run.site, run.directory) as (master, target), load(target) as report:
        for number in run.each(report):
            serving = master.count(SERVES)
            # To one that drains already it would be the second signal.
            master.until(lambda: len(children(master.pid)) == WORKERS, f"end {number - 1}")
            managers.signal_of(random.choice(children(master.pid)), signal.SIGTERM)
            master.until(lambda: master.count(SERVES) > serving, f"replacement {number}")  # noqa: B023 - called within the round
            report.event("workers ended")
            time.sleep(0.5)
    _look_for_cuts(report, master)
    return report


def workers_recycle(run: Run) -> Report:
    """Workers that are replaced after a number of requests."""
    options = ("--max-requests", "400", "--max-requests-jitter", "200")
    with managers.workers(run.site, run.directory, WORKERS, *options) as (master, target), load(target) as report:
        for number in run.each(report):
            master.until(lambda: master.count(SERVES) >= WORKERS + number, f"replacement {number}")  # noqa: B023 - called within the round
        report.events["workers replaced"] = master.count(SERVES) - WORKERS
    _look_for_cuts(report, master)
    return report


def _look_for_cuts(report: Report, server: managers.Process) -> None:
    """No process was in need of its graceful time limit."""
    for line in list(server.lines):
        if "cut short" in line or "did not end" in line or "has not ended" in line:
            report.failure("server", line)


def _note_ends(report: Report, master: managers.Process) -> None:
    """Note how long each process took that the master replaced: from the signal that stops it to its end, by the master's log."""
    stopped: dict[str, datetime] = {}
    for line in list(master.lines):
        if (found := _LIFE.match(line)) is None:
            continue
        at = datetime.strptime(found["time"], "%Y-%m-%d %H:%M:%S,%f")
        if found["event"] == "stops":
            stopped[found["process"]] = at
        elif found["process"] in stopped:
            report.lasted(OLD_PROCESS, (at - stopped.pop(found["process"])).total_seconds())


def _look_for_lifespans(report: Report, site: Site) -> None:
    """The application of each process was told of its end, once the master has ended as well."""
    started, ended = lifespans(site)
    if started:
        report.events["processes with lifespan.startup"], report.events["processes with lifespan.shutdown"] = len(started), len(ended)
    for number in sorted(started ^ ended):
        report.failure("lifespan", f"process {number} has not shut down")


def consumers_restart(run: Run) -> Report:
    """SIGTERM to one of the site's external workers, when another one works in its place."""
    with managers.workers(run.site, run.directory) as (_, target), load(target) as report:
        for _ in run.each(report):
            time.sleep(random.random())
            code = run.site.restart_worker()
            report.event(f"external workers ended with exit code {code}")
    return report


def held_socket(run: Run) -> Report:
    """SIGTERM at random moments to a process whose socket stays open; the next one starts when it has ended."""
    held = managers.Held(run.site, run.directory)
    process = held.start()
    try:
        process.find(managers.STARTED)
        with load(held.target) as report:
            for number in run.each(report):
                # In its start every fourth time, and while it serves otherwise.
                if number % 4:
                    process.find(managers.STARTED)
                time.sleep(random.random())
                process.send(signal.SIGTERM)
                code = process.wait()
                # One that has not begun to serve has no handler for it yet, and nothing to lose.
                if code not in (0, -signal.SIGTERM):
                    report.failure("server", f"exit code {code}\n{process.log}")
                report.event(f"servers ended with exit code {code}")
                process.end()
                process = held.start()
            process.find(managers.STARTED)
    finally:
        process.end()
        held.close()
    return report


def systemd_reload(run: Run) -> Report:
    """SIGHUP to a master with the sockets of systemd-socket-activate."""
    with (
        managers.socket_activated(run.site, run.directory, "-w", str(WORKERS)) as (process, target, notifications),
        load(target) as report,
    ):
        processes = Generations(report, process.pid)
        for _ in run.each(report):
            processes.begin()
            process.send(signal.SIGHUP)
            notifications.wait_for(RELOADING=1)
            notifications.wait_for(READY=1)
            processes.done("reload, to the last new process")
            processes.wait()
            report.event("reloads")
            time.sleep(0.2)
    _look_for_cuts(report, process)
    _note_ends(report, process)
    return report


def systemd_restart(run: Run) -> Report:
    """SIGTERM to a server with the sockets of systemd-socket-activate, which is started again on them."""
    with managers.socket_activated(run.site, run.directory, held=True) as (process, target, notifications), load(target) as report:
        for _ in run.each(report):
            time.sleep(random.random())
            managers.signal_of(children(process.pid)[0], signal.SIGTERM)
            notifications.wait_for(STOPPING=1)
            notifications.wait_for(READY=1)
            report.event("restarts")
    return report


def _circus(commands: Iterable[tuple[str, ...]], *, replaces: bool) -> Scenario:
    """One of ``commands`` to Circus in each round, one after the other.

    :param replaces: whether each of them replaces all processes.
    """
    commands = tuple(commands)

    def scenario(run: Run) -> Report:
        with managers.circus(run.site, run.directory) as (process, circus), load(circus.target()) as report:
            processes = Generations(report, process.pid)
            for number in run.each(report):
                before = set(circus.pids())
                command = commands[number % len(commands)]
                processes.begin()
                circus.control(*command)
                # The first word says enough for the report.
                report.event(f"circusctl {command[0]}")
                if replaces:
                    processes.wait()
                else:
                    wait_until(lambda: set(circus.pids()) != before, f"other processes after circusctl {command}")  # noqa: B023 - called within the round
                time.sleep(0.2)
        _look_for_cuts(report, process)
        return report

    return scenario


SCENARIOS: dict[str, Scenario] = {
    "workers-reload": workers_reload,
    "workers-storm": workers_storm,
    "workers-end": workers_end,
    "workers-recycle": workers_recycle,
    "consumers-restart": consumers_restart,
    "sigterm": held_socket,
    "systemd-reload": systemd_reload,
    "systemd-restart": systemd_restart,
    "circus-reload": _circus([("reload", "web", "--waiting"), ("reload", "web", "--sequential", "--waiting")], replaces=True),
    "circus-restart": _circus([("restart", "web", "--waiting")], replaces=True),
    "circus-kill": _circus([("kill", "web")], replaces=True),
    "circus-number": _circus([("incr", "web", "--waiting"), ("decr", "web", "--waiting")], replaces=False),
    **redis.SCENARIOS,
}

#: The reloads, which run on every site.
_RELOADS: Final = ("workers-reload", "systemd-reload", "circus-reload")


def sites(scenario: str) -> tuple[str, ...]:
    """The sites on which a scenario runs by default."""
    if scenario in redis.SCENARIOS:
        # They have a server of their own.
        return ("redis",)
    if scenario == "consumers-restart":
        # Channels on asgi_redis loses messages when a worker stops.
        return tuple(name for name in EXTERNAL if name != LEGACY)
    if scenario == "workers-reload":
        return (*SITES, *APPLICATIONS)
    return SITES if scenario in _RELOADS else (MEMORY, "redis")
