"""CPython's own tests of asyncio pass with HubLoop as the event loop.

:data:`EXCEPTIONS` lists the tests that need not pass, each with the reason.  A test of the list that passes is no error: some depend on the
version.
"""

from __future__ import annotations

import importlib.util
import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path

import pytest

from tests.support.scripts import PATIENCE, ROOT

MODULES = ("test_events", "test_base_events", "test_tasks", "test_streams")
#: The fewest tests of each module in Python 3.10 to 3.14, so that a run of nothing does not count.
FEWEST = {"test_events": 150, "test_base_events": 90, "test_tasks": 500, "test_streams": 50}

#: Name of the test without ``test.test_asyncio.``: why it need not pass.
EXCEPTIONS: dict[str, str] = {}

needs_tests = pytest.mark.skipif(importlib.util.find_spec("test.test_asyncio") is None, reason="the interpreter comes without its tests")


@needs_tests
@pytest.mark.parametrize("module", MODULES)
def test_cpythons_tests_pass(module: str, tmp_path: Path) -> None:
    output = tmp_path / "result.json"
    command = [sys.executable, "-m", "tests.aio.cpython_tests", str(output), module]
    # Some tests make Unix sockets, whose paths are short; a tmp_path may be too long.
    with tempfile.TemporaryDirectory() as directory:
        variables = {**os.environ, "TMPDIR": directory}
        done = subprocess.run(command, cwd=ROOT, env=variables, capture_output=True, text=True, timeout=5 * PATIENCE, check=False)
    assert output.exists(), done.stdout + done.stderr
    result = json.loads(output.read_text())
    failed = {name: text for name, text in result["failed"].items() if name not in EXCEPTIONS}
    assert not failed, "\n".join(f"{name}\n{text}" for name, text in failed.items())
    assert result["run"] - result["skipped"] >= FEWEST[module]
    # The tests do use the loop.
    assert result["loops"] > 20
