"""A reload of processes that share a Redis: the old ones end by themselves, and no client notices."""

from __future__ import annotations

from pathlib import Path

from tests.soak.load import PATIENCE
from tests.soak.run import Run
from tests.soak.scenarios import OLD_PROCESS, WORKERS, workers_reload
from tests.soak.sites import site

ROUNDS = 2
#: Seconds that the server would give a process to finish; the scenario waits for a tenth of it.
GRACEFUL = 10 * PATIENCE


def test_old_processes_end_as_soon_as_they_have_answered(tmp_path: Path) -> None:
    """With inline workers: a wait for a message of Redis, a WebSocket or an idle connection would keep a process for all of its time."""
    with site("redis") as found:
        found.options += ["--graceful-timeout", f"{GRACEFUL:g}"]
        report = workers_reload(Run(tmp_path, ROUNDS, found))
    assert not report.failures, str(report)
    assert all(report.requests[kind] for kind in ("keep-alive", "new", "upload", "stream", "websocket", "http2")), str(report)
    assert len(report.times[OLD_PROCESS]) == ROUNDS * WORKERS, str(report)
