"""What is done to a server while clients ask it; each returns what they met."""

from __future__ import annotations

import random
import signal
import time
from collections.abc import Callable
from pathlib import Path

from . import managers, redis
from .load import PATIENCE, Report, load, wait_until

REPLACED = "All workers are replaced"
SERVES = "Worker .* serves"


def workers_reload(directory: Path, rounds: int) -> Report:
    """SIGHUP to a master: all of its workers are replaced, one after the other."""
    with managers.workers(directory) as (master, target), load(target) as report:
        for number in range(1, rounds + 1):
            master.send(signal.SIGHUP)
            master.until(lambda: master.count(REPLACED) >= number, f"reload {number}")  # noqa: B023 - called within the round
            report.event("reloads")
            time.sleep(0.2)
    return report


def workers_end(directory: Path, rounds: int) -> Report:
    """SIGTERM to one of a master's workers, which is replaced."""
    with managers.workers(directory) as (master, target), load(target) as report:
        for number in range(1, rounds + 1):
            serving = master.count(SERVES)
            # To one that drains already it would be the second signal.
            master.until(lambda: len(managers.children(master.pid)) == 2, f"end {number - 1}")
            managers.signal_of(random.choice(managers.children(master.pid)), signal.SIGTERM)
            master.until(lambda: master.count(SERVES) > serving, f"replacement {number}")  # noqa: B023 - called within the round
            report.event("workers ended")
            time.sleep(0.5)
    return report


def workers_recycle(directory: Path, rounds: int) -> Report:
    """Workers that are replaced after a number of requests."""
    with (
        managers.workers(directory, 2, "--max-requests", "400", "--max-requests-jitter", "200") as (master, target),
        load(target) as report,
    ):
        master.until(lambda: master.count(SERVES) >= 2 + rounds, f"{rounds} replacements", PATIENCE + 10 * rounds)
        report.events["workers replaced"] = master.count(SERVES) - 2
    return report


def held_socket(directory: Path, rounds: int) -> Report:
    """SIGTERM at random moments to a process whose socket stays open; the next one starts when it has ended."""
    held = managers.Held(directory)
    process = held.start()
    try:
        process.find("Listening on channels")
        with load(held.target) as report:
            for number in range(rounds):
                # In its start every fourth time, and while it serves otherwise.
                if number % 4:
                    process.find("Listening on channels")
                time.sleep(random.random())
                process.send(signal.SIGTERM)
                code = process.wait()
                # One that has not begun to serve has no handler for it yet, and nothing to lose.
                if code not in (0, -signal.SIGTERM):
                    report.failure("server", f"exit code {code}\n{process.log}")
                report.event(f"servers ended with exit code {code}")
                process.end()
                process = held.start()
            process.find("Listening on channels")
    finally:
        process.end()
        held.close()
    return report


def systemd_reload(directory: Path, rounds: int) -> Report:
    """SIGHUP to a master with the sockets of systemd-socket-activate."""
    with managers.socket_activated(directory, "-w", "2") as (process, target, notifications), load(target) as report:
        for _ in range(rounds):
            process.send(signal.SIGHUP)
            notifications.wait_for(RELOADING=1)
            notifications.wait_for(READY=1)
            report.event("reloads")
            time.sleep(0.2)
    return report


def systemd_restart(directory: Path, rounds: int) -> Report:
    """SIGTERM to a server with the sockets of systemd-socket-activate, which is started again on them."""
    with managers.socket_activated(directory, held=True) as (process, target, notifications), load(target) as report:
        for _ in range(rounds):
            time.sleep(random.random())
            managers.signal_of(managers.children(process.pid)[0], signal.SIGTERM)
            notifications.wait_for(STOPPING=1)
            notifications.wait_for(READY=1)
            report.event("restarts")
    return report


def _circus(*commands: tuple[str, ...]) -> Callable[[Path, int], Report]:
    """One of ``commands`` to Circus in each round, one after the other."""

    def run(directory: Path, rounds: int) -> Report:
        with managers.circus(directory) as (_, circus), load(circus.target()) as report:
            for number in range(rounds):
                before = set(circus.pids())
                command = commands[number % len(commands)]
                circus.control(*command)
                # The first word says enough for the report.
                report.event(f"circusctl {command[0]}")
                wait_until(lambda: set(circus.pids()) != before, f"other processes behind circusctl {command}")  # noqa: B023 - called within the round
                time.sleep(0.2)
        return report

    return run


SCENARIOS: dict[str, Callable[[Path, int], Report]] = {
    "workers-reload": workers_reload,
    "workers-end": workers_end,
    "workers-recycle": workers_recycle,
    "sigterm": held_socket,
    "systemd-reload": systemd_reload,
    "systemd-restart": systemd_restart,
    "circus-reload": _circus(("reload", "web", "--waiting"), ("reload", "web", "--sequential", "--waiting")),
    "circus-restart": _circus(("restart", "web", "--waiting")),
    "circus-kill": _circus(("kill", "web")),
    "circus-number": _circus(("incr", "web", "--waiting"), ("decr", "web", "--waiting")),
    **redis.SCENARIOS,
}
