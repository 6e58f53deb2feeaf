"""The environments of the other servers, which are made below ``.cache/bench`` when they are needed for the first time.

Nothing is installed into the environment that runs the benchmarks.  All requirements are pinned, so that figures of different days compare.
"""

from __future__ import annotations

import fcntl
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Final, NamedTuple

from .environment import CACHE, CHECKOUT, BenchmarkError, progress

#: Written last, so that an interrupted installation is begun again.
_COMPLETE: Final = "complete"


class Environment(NamedTuple):
    """Packages that are installed together, by the name in reports; ``reported`` are the distributions whose versions a report names."""

    name: str
    requirements: tuple[str, ...]
    reported: tuple[str, ...]


#: Servers and frameworks of today.  greendaphne is installed too, because it runs the frameworks' applications as its peers do.
TODAY: Final = Environment(
    "peers",
    (
        "-e",
        f"{CHECKOUT}[redis]",
        "daphne==4.2.3",
        "Django==5.2.19",
        "Flask==3.1.3",
        "gevent-websocket==0.10.1",
        "granian[uvloop]==2.8.9",
        "gunicorn==27.0.1",
        "hypercorn[uvloop]==0.18.0",
        "setuptools<81",
        "starlette==1.10.0",
        "Twisted[tls,http2]==26.10.0",
        "uvicorn[standard]==0.54.0",
        "waitress==3.0.2",
        "websockets==17.4",
    ),
    (
        *("gevent", "httptools", "h2", "uvicorn", "uvloop", "websockets", "granian", "hypercorn", "h11", "daphne", "Twisted", "gunicorn"),
        *("waitress", "gevent-websocket", "Django", "Flask", "starlette"),
    ),
)
#: The newest set on which daphne 1.4.2 runs, with asgi_redis.  HTTP/2 is an extra of Twisted's, which daphne leaves to its users.
CHANNELS1: Final = Environment(
    "peers of Channels 1",
    (
        "daphne==1.4.2",
        "Twisted[tls,http2]==26.10.0",
        "autobahn==24.4.2",
        "asgiref==1.1.2",
        "asgi_redis==1.4.3",
        "redis==2.10.6",
        "msgpack-python==0.5.6",
        "setuptools<81",
    ),
    ("daphne", "Twisted", "autobahn", "asgiref", "asgi_redis"),
)
ENVIRONMENTS: Final = (TODAY, CHANNELS1)

#: What could not be made is not tried again in the same run.
_failed: dict[str, str] = {}
_used: dict[str, str] = {}


def program(environment: Environment, name: str) -> str:
    """The path of a program of ``environment``, which is made where it is missing or has other requirements.

    :raises BenchmarkError: where that fails.
    """
    return f"{_directory(environment)}/bin/{name}"


def python(environment: Environment) -> str:
    """The interpreter of ``environment``, as :func:`program`."""
    return program(environment, "python")


def versions() -> dict[str, str]:
    """For each environment that this process made use of: the packages with their versions, in one line."""
    code = "import sys\nfrom importlib.metadata import version\nprint(', '.join(f'{name} {version(name)}' for name in sys.argv[1:]))"
    found = {}
    for environment in ENVIRONMENTS:
        if environment.name in _used:
            line = [f"{_used[environment.name]}/bin/python", "-c", code, *environment.reported]
            found[environment.name] = subprocess.run(line, capture_output=True, text=True, check=True).stdout.strip()
    return found


def _directory(environment: Environment) -> str:
    if environment.name not in _used:
        if environment.name in _failed:
            raise BenchmarkError(_failed[environment.name])
        try:
            _used[environment.name] = _make(environment)
        except BenchmarkError as error:
            _failed[environment.name] = str(error)
            raise
    return _used[environment.name]


def _make(environment: Environment) -> str:
    home = CACHE / f"{environment.name.replace(' ', '-')}-py{sys.version_info.major}{sys.version_info.minor}"
    CACHE.mkdir(parents=True, exist_ok=True)
    with open(f"{home}.lock", "w", encoding="utf-8") as lock:
        # Another run may be at it.
        fcntl.flock(lock, fcntl.LOCK_EX)
        _install(environment, home)
    return str(home)


def _install(environment: Environment, home: Path) -> None:
    mark = home / _COMPLETE
    wanted = "\n".join(environment.requirements)
    if not mark.exists() or mark.read_text() != wanted:
        progress(f"making {home.relative_to(CHECKOUT)} (once; takes a minute)")
        shutil.rmtree(home, ignore_errors=True)
        _run([getattr(sys, "_base_executable", None) or sys.executable, "-m", "venv", str(home)])
        pip = [str(home / "bin" / "python"), "-m", "pip", "--disable-pip-version-check", "--no-input"]
        _run([*pip, "install", "--progress-bar", "off", *environment.requirements])
        mark.write_text(wanted)


def _run(command: list[str]) -> None:
    """Run ``command``; the packages that pip takes are its progress."""
    lines: list[str] = []
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True) as process:
        assert process.stdout is not None
        for line in process.stdout:
            lines.append(line)
            if line.startswith("Collecting "):
                progress(f"  {line.split()[1]}")
    if process.returncode != 0:
        raise BenchmarkError(f"{' '.join(command[:5])} failed: {''.join(lines[-5:]).strip()}")
