"""Runs tests in a copy of the tree, in processes that are all gone afterwards."""

from __future__ import annotations

import ctypes
import os
import re
import shutil
import signal
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

_PR_SET_CHILD_SUBREAPER = 36


def adopt_orphans() -> None:
    """Make this process the parent of what its children leave behind (Linux), so that :func:`run` finds all of it."""
    ctypes.CDLL(None, use_errno=True).prctl(_PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0)


def copy_tree(source: Path, target: Path) -> None:
    """Copy the files of ``source`` that Git knows or would add to ``target``, and link the environments that tests have made there."""
    command = ["git", "-C", str(source), "ls-files", "-z", "--cached", "--others", "--exclude-standard"]
    listed = subprocess.run(command, capture_output=True, check=True).stdout
    for name in filter(None, listed.decode().split("\0")):
        origin = source / name
        if origin.is_file():
            copy = target / name
            copy.parent.mkdir(parents=True, exist_ok=True)
            shutil.copy2(origin, copy)
    for environment in (source / ".cache").glob("*/pyvenv.cfg"):
        (target / ".cache").mkdir(exist_ok=True)
        (target / ".cache" / environment.parent.name).symlink_to(environment.parent)


class Run(NamedTuple):
    """pytest's exit code, None after the time was over; what it printed; and the test that failed, or an empty string."""

    code: int | None
    output: str
    failed: str


def run(tree: Path, tests: Sequence[str], timeout: float, temporary: Path, hang: int) -> Run:
    """Run ``tests`` in ``tree`` until the first failure.

    :param timeout: seconds for all of them.
    :param hang: seconds for one of them.
    """
    environment = {**os.environ, "PYTHONPATH": str(tree), "TMPDIR": str(temporary)}
    # What is compiled stays beside the copies.
    environment.pop("PYTHONDONTWRITEBYTECODE", None)
    quiet = ["-x", "-q", "-p", "no:xdist", "-p", "no:cacheprovider", "-o", f"faulthandler_timeout={hang}"]
    command = [sys.executable, "-m", "pytest", *quiet, *tests]
    output = temporary / "output"
    with output.open("wb") as stream:
        process = subprocess.Popen(command, cwd=tree, env=environment, stdin=subprocess.DEVNULL, stdout=stream, stderr=subprocess.STDOUT)
        code: int | None
        try:
            code = process.wait(timeout)
        except subprocess.TimeoutExpired:
            code = None
        finally:
            kill_descendants()
    text = output.read_text(errors="replace")
    found = re.search(r"^(?:FAILED|ERROR) (\S+::.+?)(?: - .*)?$", text, re.MULTILINE)
    return Run(code, text, found[1] if found else "")


def kill_descendants() -> None:
    """Kill all processes below this one, those that left their session included, and reap them."""
    while below := _descendants():
        for pid in below:
            try:
                os.kill(pid, signal.SIGKILL)
            except ProcessLookupError:
                pass
        try:
            os.waitpid(-1, 0)
        except ChildProcessError:
            return


def _descendants() -> list[int]:
    children: dict[int, list[int]] = {}
    for entry in os.listdir("/proc"):
        if entry.isdigit():
            try:
                stat = Path("/proc", entry, "stat").read_text()
            except (FileNotFoundError, ProcessLookupError):
                continue
            children.setdefault(int(stat.rpartition(")")[2].split()[1]), []).append(int(entry))
    found: list[int] = []
    waiting = [os.getpid()]
    while waiting:
        below = children.get(waiting.pop(), [])
        found += below
        waiting += below
    return found
