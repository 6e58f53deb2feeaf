"""The temporary directory at the start: full, read-only, and passed over by Python."""

from __future__ import annotations

import logging
import os
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

import pytest

from greendaphne.running.tempdir import temporary_directory_problem
from tests.support.server import serve


@pytest.fixture
def chosen(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    """A temporary directory that Python has chosen."""
    place = tmp_path / "chosen"
    place.mkdir()
    monkeypatch.setenv("TMPDIR", str(place))
    monkeypatch.setattr(tempfile, "tempdir", None)
    assert tempfile.gettempdir() == str(place)
    return place


def test_nothing_is_said_of_one_that_works_and_nothing_is_left_there(chosen: Path) -> None:
    assert temporary_directory_problem() is None
    assert not list(chosen.iterdir())


def test_one_that_vanished(chosen: Path, caplog: pytest.LogCaptureFixture) -> None:
    chosen.rmdir()
    with serve(), serve():
        pass
    lines = [record for record in caplog.records if record.levelno == logging.WARNING]
    # Two servers, two lines; one server has one.
    assert len(lines) == 2
    assert f"the temporary directory {chosen} cannot be written to (No such file or directory)" in lines[0].getMessage()


def test_one_that_python_passes_over(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    monkeypatch.setenv("TMPDIR", str(tmp_path / "nosuch"))
    problem = temporary_directory_problem()
    assert problem is not None
    assert problem.startswith(f"TMPDIR is {tmp_path / 'nosuch'}, which cannot be written to (No such file or directory)")
    assert problem.endswith(f" are stored in {tmp_path}")


def test_no_directory_at_all(monkeypatch: pytest.MonkeyPatch) -> None:
    def nowhere() -> str:
        raise FileNotFoundError(2, "No usable temporary directory found")

    monkeypatch.setattr(tempfile, "gettempdir", nowhere)
    assert "cannot be stored: No usable temporary directory found" in str(temporary_directory_problem())


_FULL = """
import sys, tempfile
from pathlib import Path
from greendaphne.running.tempdir import temporary_directory_problem
place = Path(sys.argv[1])
tempfile.tempdir = str(place)
print(temporary_directory_problem())
with open(place / "filler", "wb", buffering=0) as file:
    try:
        while file.write(bytes(4096)):
            pass
    except OSError:
        pass
print(temporary_directory_problem())
"""


def test_one_that_is_full(tmp_path: Path) -> None:
    """On a file system of 4 MiB, in a mount namespace of its own."""
    unshare = shutil.which("unshare")
    place = tmp_path / "small"
    place.mkdir()
    script = f'mount -t tmpfs -o size=4m tmpfs {place} && exec "$0" -c "$1" {place}'
    command = [str(unshare), "--mount", "--map-root-user", "sh", "-c", script, sys.executable, _FULL]
    if unshare is None or subprocess.run([*command[:3], "true"], capture_output=True, check=False, timeout=20).returncode:
        pytest.skip("mount namespaces are not allowed here")
    environment = {name: value for name, value in os.environ.items() if name != "TMPDIR"}
    result = subprocess.run(command, capture_output=True, text=True, check=False, timeout=60, env=environment)
    if "mount" in result.stderr:
        pytest.skip("file systems cannot be mounted here")
    assert result.returncode == 0, result.stderr
    before, after = result.stdout.splitlines()
    assert before == "None"
    assert f"the temporary directory {place} cannot be written to (No space left on device)" in after
