"""asgi_redis and asgi_ipc with the redis-py and msgpack of their time, which cannot share an environment with today's: one of their own."""

from __future__ import annotations

import fcntl
import subprocess
import sys
import sysconfig
from pathlib import Path

CACHE = Path(__file__).resolve().parent.parent / ".cache"
ENVIRONMENT = CACHE / f"asgi_redis-1.4.3-py{sys.version_info.major}{sys.version_info.minor}"
#: With the only versions of its requirements that asgi_redis works with.
PACKAGES = ("asgi_redis==1.4.3", "redis==2.10.6", "msgpack-python==0.5.6", "asgi_ipc==1.4.2", "cryptography", "setuptools")
#: Seconds for installing them.
INSTALLATION = 300

# Everything but the packages above comes from this environment: it is looked at last.
_RUN = """
import runpy, sys
sys.path.append({packages!r})
sys.argv = sys.argv[1:]
{run}
"""


def interpreter() -> Path:
    """The interpreter of the environment, which is made once."""
    CACHE.mkdir(exist_ok=True)
    python = ENVIRONMENT / "bin" / "python"
    with (CACHE / "asgi_redis.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        stamp = ENVIRONMENT / "complete"
        if not stamp.exists() or stamp.read_text() != "\n".join(PACKAGES):
            subprocess.run([sys.executable, "-m", "venv", "--clear", str(ENVIRONMENT)], check=True, timeout=INSTALLATION)
            install = [str(python), "-m", "pip", "install", "--quiet", "--disable-pip-version-check", *PACKAGES]
            subprocess.run(install, check=True, timeout=INSTALLATION)
            stamp.write_text("\n".join(PACKAGES))
    return python


def command(*arguments: str) -> tuple[str, ...]:
    """``python -m module …`` or ``python script …`` in an environment that has asgi_redis and everything that is installed here."""
    if arguments[0] == "-m":
        run, arguments = "runpy.run_module(sys.argv[0], run_name='__main__', alter_sys=True)", arguments[1:]
    else:
        run = "sys.path.insert(0, '.')\nrunpy.run_path(sys.argv[0], run_name='__main__')"
    code = _RUN.format(packages=sysconfig.get_path("purelib"), run=run)
    return (str(interpreter()), "-W", "ignore", "-c", code, *arguments)
