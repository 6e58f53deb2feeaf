"""The real daphne 1.4.2 on today's Twisted, in an environment of its own, for comparisons."""

from __future__ import annotations

import fcntl
import subprocess
import sys
from pathlib import Path

CACHE = Path(__file__).resolve().parents[2] / ".cache"
ENVIRONMENT = CACHE / f"daphne-1.4.2-py{sys.version_info.major}{sys.version_info.minor}"
#: daphne asks for asgiref 1.1, whose in-memory layer is served on both sides; setuptools has the pkg_resources that asgiref imports.
PACKAGES = ("daphne==1.4.2", "asgiref==1.1.2", "Twisted==26.*", "autobahn", "setuptools<81")
#: Seconds for installing them.
INSTALLATION = 300


def command() -> tuple[str, ...]:
    """``daphne`` of the environment, which is made once."""
    CACHE.mkdir(exist_ok=True)
    python = ENVIRONMENT / "bin" / "python"
    with (CACHE / "daphne.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        stamp = ENVIRONMENT / "complete"
        if not stamp.exists() or stamp.read_text() != "\n".join(PACKAGES):
            subprocess.run([sys.executable, "-m", "venv", "--clear", str(ENVIRONMENT)], check=True, timeout=INSTALLATION)
            install = [str(python), "-m", "pip", "install", "--quiet", "--disable-pip-version-check", *PACKAGES]
            subprocess.run(install, check=True, timeout=INSTALLATION)
            stamp.write_text("\n".join(PACKAGES))
    return (str(python), "-W", "ignore", str(ENVIRONMENT / "bin" / "daphne"))
