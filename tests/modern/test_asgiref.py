"""asgiref's own tests of its bridges between synchronous and asynchronous code pass in a patched process with AsyncioHub.

They come with asgiref's source distribution, of the version that is installed: the Makefile lays it into the environment.
"""

from __future__ import annotations

import importlib.metadata
import os
import re
import subprocess
import sys
import tarfile
from pathlib import Path

import pytest

from tests.support.scripts import PATIENCE, ROOT

MODULES = ("test_sync", "test_sync_contextvars", "test_sync_executor_context_scenario", "test_sync_thread_sensitive_context", "test_local")

_WAITS = "waits for an event or a process of multiprocessing, which gevent does not patch: the process waits for itself"
_SPAWNS = "tests a process of its own, which is not patched; Process.join may return early in a patched one"
#: Name of the test: why it is left out.
EXCEPTIONS = {
    "test_multiprocessing": _WAITS,
    "test_sync_to_async_with_blocker_thread_sensitive": _WAITS,
    "test_sync_to_async_with_blocker_non_thread_sensitive": _WAITS,
    "test_thread_sensitive_context_exit_does_not_block_event_loop": _SPAWNS,
    "test_thread_sensitive_context_exit_does_not_starve_default_executor": _SPAWNS,
    "test_force_new_context_keeps_executor_bindings_local_to_each_task": _SPAWNS,
    "test_executor_context_across_bridges": _SPAWNS,
}
RUN = """
import sys
from gevent import monkey; monkey.patch_all()
from greendaphne.aio.hub import install
assert install()
import pytest
sys.exit(pytest.main(sys.argv[1:]))
"""


@pytest.fixture
def source(tmp_path: Path) -> Path:
    """The source distribution of the installed version."""
    version = importlib.metadata.version("asgiref")
    archive = Path(sys.prefix) / "src" / f"asgiref-{version}.tar.gz"
    if not archive.exists():
        pytest.fail(f"{archive} is missing: make test-modern lays it there")
    with tarfile.open(archive) as file:
        file.extractall(tmp_path, filter="data") if hasattr(tarfile, "data_filter") else file.extractall(tmp_path)
    return tmp_path / f"asgiref-{version}"


def test_asgirefs_tests_pass(source: Path) -> None:
    command = [
        sys.executable,
        "-c",
        RUN,
        "-q",
        "-p",
        "no:cacheprovider",
        "-p",
        "no:greendaphne",
        "-c",
        "setup.cfg",
        "-o",
        "faulthandler_timeout=120",
    ]
    command += [f"tests/{name}.py" for name in MODULES if (source / "tests" / f"{name}.py").exists()]
    command += ["-k", " and ".join(f"not {name}" for name in EXCEPTIONS)]
    done = subprocess.run(
        command, cwd=source, env={**os.environ, "PYTHONPATH": str(ROOT)}, capture_output=True, text=True, timeout=6 * PATIENCE, check=False
    )
    assert done.returncode == 0, done.stdout + done.stderr
    passed = re.search(r"(\d+) passed", done.stdout)
    assert passed is not None
    assert int(passed[1]) >= 60
