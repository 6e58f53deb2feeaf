"""What the benchmarks need on the machine: an environment for each peer below ``.cache``, wrk, room for file descriptors, two cores.

Nothing is installed into the environment that runs the benchmarks.
"""

from __future__ import annotations

import os
import platform
import resource
import shutil
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import NamedTuple

CHECKOUT = Path(__file__).resolve().parent.parent
CACHE = CHECKOUT / ".cache" / "bench"
#: The newest set on which daphne 1.4.2 starts, pinned so that figures of different days compare.
DAPHNE_REQUIREMENTS = ("daphne==1.4.2", "Twisted==26.10.0", "autobahn==24.4.2", "asgiref==1.1.2", "setuptools<81")
#: Written last, so that an interrupted installation is begun again.
COMPLETE = "complete"


class BenchmarkError(Exception):
    """The benchmarks cannot run here; one line says why."""


class Cores(NamedTuple):
    """The cores that the server and the load generator are bound to; the same where there is only one."""

    server: int
    client: int


def cores() -> Cores:
    """The first two cores this process may use."""
    usable = sorted(os.sched_getaffinity(0))
    return Cores(usable[0], usable[1 % len(usable)])


@contextmanager
def bound_to(core: int) -> Iterator[None]:
    """Bind this thread, and the processes it starts meanwhile for all their life, to ``core``."""
    usual = os.sched_getaffinity(0)
    os.sched_setaffinity(0, {core})
    try:
        yield
    finally:
        os.sched_setaffinity(0, usual)


def daphne_home() -> Path:
    """daphne's environment, which is made where it is missing."""
    home = CACHE / f"daphne-py{sys.version_info.major}{sys.version_info.minor}"
    python = home / "bin" / "python"
    mark = home / COMPLETE
    wanted = "\n".join(DAPHNE_REQUIREMENTS)
    if not mark.exists() or mark.read_text() != wanted:
        progress(f"preparing daphne 1.4.2 in {home.relative_to(CHECKOUT)} (once)")
        shutil.rmtree(home, ignore_errors=True)
        _run([getattr(sys, "_base_executable", None) or sys.executable, "-m", "venv", str(home)])
        _run([str(python), "-m", "pip", "install", "--quiet", "--disable-pip-version-check", *DAPHNE_REQUIREMENTS])
        mark.write_text(wanted)
    return home


def wrk() -> str | None:
    """The path of wrk, installed from Debian's packages where that is possible; ``None`` means: use the generator in ``load``."""
    found = shutil.which("wrk")
    if found is None and os.geteuid() == 0 and shutil.which("apt-get"):
        progress("installing wrk with apt-get (once)")
        install = ["apt-get", "install", "-y", "-qq", "wrk"]
        if subprocess.run(install, check=False, capture_output=True).returncode != 0:
            subprocess.run(["apt-get", "update", "-qq"], check=False, capture_output=True)
            subprocess.run(install, check=False, capture_output=True)
        found = shutil.which("wrk")
    return found


def allow_open_files(wanted: int) -> int:
    """Raise the soft limit of open files, which the servers inherit, towards ``wanted``; returns what holds now."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft != resource.RLIM_INFINITY and soft < wanted:
        soft = wanted if hard == resource.RLIM_INFINITY else min(wanted, hard)
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
    return wanted if soft == resource.RLIM_INFINITY else soft


def machine() -> dict[str, str]:
    """What the figures were measured on."""
    return {
        "processor": _processor(),
        "cores": str(os.cpu_count()),
        "kernel": platform.release(),
        "python": platform.python_version(),
    }


def versions(python: str, packages: tuple[str, ...]) -> dict[str, str]:
    """The versions of ``packages`` in the environment of ``python``."""
    code = "import sys\nfrom importlib.metadata import version\nfor name in sys.argv[1:]: print(version(name))"
    lines = subprocess.run([python, "-c", code, *packages], capture_output=True, text=True, check=True).stdout.split()
    return dict(zip(packages, lines, strict=True))


def revision() -> str:
    """The checkout's commit, with a mark where it has been changed since; ``unknown`` outside of git."""
    done = subprocess.run(["git", "describe", "--always", "--dirty"], cwd=CHECKOUT, check=False, capture_output=True, text=True)
    return done.stdout.strip() or "unknown"


def progress(text: str) -> None:
    """One line on standard error; standard output carries the results."""
    print(f"-- {text}", file=sys.stderr, flush=True)


def _processor() -> str:
    try:
        for line in Path("/proc/cpuinfo").read_text().splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    except OSError:
        pass
    return platform.processor() or platform.machine()


def _run(command: list[str]) -> None:
    done = subprocess.run(command, check=False, capture_output=True, text=True)
    if done.returncode != 0:
        raise BenchmarkError(f"{' '.join(command)} failed: {(done.stderr or done.stdout).strip()}")
