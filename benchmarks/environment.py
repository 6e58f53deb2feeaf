"""What the benchmarks need of the machine: programs of the system, room for file descriptors, two cores, and what it is."""

from __future__ import annotations

import os
import platform
import resource
import shutil
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from importlib import metadata
from pathlib import Path
from typing import NamedTuple

CHECKOUT = Path(__file__).resolve().parent.parent
CACHE = CHECKOUT / ".cache" / "bench"


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


def tool(name: str, package: str) -> str:
    """The path of the program ``name``, which Debian's ``package`` has; it is installed where apt-get may.

    :raises BenchmarkError: where it is missing and cannot be installed.
    """
    # Debian has nginx where users do not look.
    path = f"{os.environ.get('PATH', os.defpath)}:/usr/sbin"
    found = shutil.which(name, path=path)
    if found is None and os.geteuid() == 0 and shutil.which("apt-get"):
        progress(f"installing {package} with apt-get (once)")
        install = ["apt-get", "install", "-y", "-qq", "--no-install-recommends", package]
        # A daemon that its package would start is of no use here (invoke-rc.d(8)).
        variables = dict(os.environ, DEBIAN_FRONTEND="noninteractive", RUNLEVEL="1")
        if subprocess.run(install, check=False, capture_output=True, env=variables).returncode != 0:
            subprocess.run(["apt-get", "update", "-qq"], check=False, capture_output=True)
            subprocess.run(install, check=False, capture_output=True, env=variables)
        found = shutil.which(name, path=path)
    if found is None:
        raise BenchmarkError(f"{name} is missing: apt-get install {package}")
    return found


def wrk() -> str | None:
    """The path of wrk; ``None`` means: use the generator in ``load``."""
    try:
        return tool("wrk", "wrk")
    except BenchmarkError:
        return None


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
        "memory": f"{os.sysconf('SC_PHYS_PAGES') * os.sysconf('SC_PAGE_SIZE') / 2**30:.0f} GiB",
        "kernel": f"{platform.system()} {platform.release()}",
        "Python": f"{platform.python_implementation()} {platform.python_version()}",
    }


def versions() -> str:
    """What greendaphne runs on in this interpreter: packages with their versions, in one line."""
    return ", ".join(f"{name} {metadata.version(name)}" for name in ("gevent", "greenlet", "httptools", "h2", "pyOpenSSL", "redis"))


def load_average() -> list[float]:
    """Processes that ran or waited for a core, on average over the last 1, 5 and 15 minutes."""
    return [round(value, 2) for value in os.getloadavg()]


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
