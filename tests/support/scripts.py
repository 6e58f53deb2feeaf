"""Programs in processes of their own, patched as the ``greendaphne`` command patches its process."""

from __future__ import annotations

import os
import subprocess
import sys
import textwrap
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
#: Seconds after which a test's own waiting is an error.
PATIENCE = 60.0
PATCH = "from greendaphne.cli import patch; patch()\n"


def run_script(source: str, *options: str, patched: bool = True, limit: float = 4 * PATIENCE, directory: Path = ROOT) -> str:
    """Run ``source`` in a process, in which warnings are errors, and return what it prints; what it logs is an error.

    :param options: for the interpreter.
    :param patched: patch the process first.
    """
    code = (PATCH if patched else "") + textwrap.dedent(source)
    done = subprocess.run(
        [sys.executable, "-W", "error", *options, "-c", code],
        cwd=directory,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        timeout=limit,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert not done.stderr, done.stderr
    return done.stdout.strip()
