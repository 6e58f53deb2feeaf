"""The tests of the loop, its tasks and its selector, once more in a process that is patched as the command patches it."""

from __future__ import annotations

import os
import subprocess
import sys

from tests.support.scripts import PATIENCE, ROOT

MODULES = ("test_selector.py", "test_loop.py", "test_tasks.py")
#: tests/aio/conftest.py installs the hub: pytest wants to import the package itself.
RUN = "from gevent import monkey; monkey.patch_all(); import pytest, sys; sys.exit(pytest.main(sys.argv[1:]))"


def test_everything_in_a_patched_process() -> None:
    command = [sys.executable, "-c", RUN, "-q", "-n", "0", "-p", "no:cacheprovider", *(f"tests/aio/{module}" for module in MODULES)]
    done = subprocess.run(command, cwd=ROOT, env=dict(os.environ), capture_output=True, text=True, timeout=4 * PATIENCE, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    assert " passed" in done.stdout
