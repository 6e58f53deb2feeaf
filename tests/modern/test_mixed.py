"""Asyncio code of all kinds in the greenlets of one process at once."""

from __future__ import annotations

import subprocess
import sys

from tests.modern.support import PATIENCE, ROOT

#: Enough for two requests of each kind to meet in every way.
CALLS = 10_000


def test_ten_thousand_mixed_calls_without_a_failure() -> None:
    command = [sys.executable, "-W", "error", "-m", "tests.modern.mixed", str(CALLS)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=10 * PATIENCE, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    assert not done.stderr
    assert done.stdout.startswith(f"{CALLS} calls, 0 failures")
