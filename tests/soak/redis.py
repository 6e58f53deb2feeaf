"""What is done to Redis under a server with clients that never give up; what does not hold afterwards is an error."""

from __future__ import annotations

from tests.support import outages
from tests.support.redis_load import Load
from tests.support.redis_server import redis_server

from .load import Report
from .run import Run, Scenario

#: Seconds between two crashes, and of one hang.
CRASH_EVERY = 2.0
HANG = 10.0
#: Outages before the first look at what a server's process holds, and by how many bytes its memory may grow behind it.
WARM_UP = 5
GROWTH = 16 * 1024 * 1024


def _report(load: Load, event: str, number: int) -> Report:
    report = Report()
    report.requests.update({f"answered {status}": count for status, count in load.statuses.items()})
    report.requests.update({f"handshake {status}": count for status, count in load.handshakes.items()})
    report.requests["echoes"] = load.echoes
    report.events[event] = number
    return report


def crashes(run: Run) -> Report:
    """kill -9 to Redis and a new start, every two seconds by the clock."""
    with redis_server() as redis_process, outages.recorded_load(redis_process) as load:
        outages.crash_every(load, CRASH_EVERY, run.rounds)
    return _report(load, "crashes", run.rounds)


def hangs(run: Run) -> Report:
    """SIGSTOP to Redis, for ten seconds each time."""
    with redis_server() as redis_process, outages.recorded_load(redis_process) as load:
        for _ in range(run.rounds):
            outages.hang(load, HANG)
            load.wait_for_service()
    return _report(load, "hangs", run.rounds)


def leaks(run: Run) -> Report:
    """Outages of every kind; afterwards the server's process holds no more than before."""
    report = Report()
    with redis_server() as redis_process:
        server = outages.ServerProcess(run.directory, redis_process)
        try:
            before = outages.outages(server, redis_process, WARM_UP)
            after = outages.outages(server, redis_process, run.rounds)
        finally:
            server.process.stop()
    report.events["outages"] = run.rounds * len(outages.OUTAGES)
    report.events["KiB more"] = (after.memory - before.memory) // 1024
    if after.is_more(before, GROWTH):
        report.failure("leak", f"{before} became {after}")
    return report


SCENARIOS: dict[str, Scenario] = {"redis-crash": crashes, "redis-hang": hangs, "redis-leak": leaks}
