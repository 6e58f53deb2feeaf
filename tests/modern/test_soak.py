"""Short forms of the soak tests with applications of today: reloads under load."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.soak.run import Run
from tests.soak.scenarios import workers_end, workers_reload
from tests.soak.sites import APPLICATIONS, lifespans, site


@pytest.mark.parametrize("name", APPLICATIONS)
def test_reloads_under_load(tmp_path: Path, name: str) -> None:
    with site(name) as found:
        report = workers_reload(Run(tmp_path, 2, found))
        assert not report.failures, str(report)
        for kind in ("keep-alive", "new", "upload", "stream", "websocket", "http2"):
            assert report.requests[kind] > 0, str(report)
        assert report.events["WebSockets closed with 1012"] > 0
        started, ended = lifespans(found)
        assert started == ended
        assert len(started) == (6 if name == "starlette" else 0)


def test_ends_of_workers_under_load(tmp_path: Path) -> None:
    with site("starlette") as found:
        report = workers_end(Run(tmp_path, 2, found))
        assert not report.failures, str(report)
        started, ended = lifespans(found)
        assert started == ended
