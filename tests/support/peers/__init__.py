"""Clients in Node.js, each a script beside this file that is handed one JSON value and prints one.

What they need is installed by npm into ``.cache/peers``, once, as the lock file states it.  A machine without Node.js or npm fails these
tests with a line that says so.
"""

from __future__ import annotations

import fcntl
import json
import os
import shutil
import subprocess
from pathlib import Path
from typing import Any

HERE = Path(__file__).resolve().parent
CACHE = HERE.parent.parent / ".cache" / "peers"
#: Seconds for a script, and for npm.
PATIENCE = 60.0
INSTALLATION = 120.0
#: What decides what is installed.
MANIFESTS = ("package.json", "package-lock.json")


class PeerError(AssertionError):
    """A client program is missing or failed; the text says which and why."""


def program(name: str, package: str) -> str:
    """The path of a program that is to be installed."""
    path = shutil.which(name)
    if path is None:
        raise PeerError(f"{name} is not installed; on Debian: apt-get install {package}")
    return path


def install() -> None:
    """Have npm install what the scripts need, unless it is there."""
    npm = program("npm", "npm")
    wanted = "".join((HERE / name).read_text() for name in MANIFESTS)
    CACHE.mkdir(parents=True, exist_ok=True)
    with (CACHE / "lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        stamp = CACHE / "installed"
        if stamp.exists() and stamp.read_text() == wanted:
            return
        for name in MANIFESTS:
            shutil.copy(HERE / name, CACHE)
        command = [npm, "ci", "--ignore-scripts", "--no-audit", "--no-fund", "--loglevel=error"]
        done = subprocess.run(command, cwd=CACHE, capture_output=True, text=True, timeout=INSTALLATION, check=False)
        if done.returncode != 0:
            raise PeerError(f"npm could not install what the clients in Node.js need: {done.stderr.strip()}")
        stamp.write_text(wanted)


def run(script: str, plan: object, authority: Path | None = None) -> Any:
    """Run the client ``script`` with ``plan`` and return its report.

    :param authority: PEM file with the certificate that the client trusts besides the public ones.
    """
    node = program("node", "nodejs")
    env = {**os.environ, "NODE_PATH": str(CACHE / "node_modules")}
    if authority is not None:
        env["NODE_EXTRA_CA_CERTS"] = str(authority)
    command = [node, str(HERE / script), json.dumps(plan)]
    done = subprocess.run(command, env=env, capture_output=True, text=True, timeout=PATIENCE, check=False)
    if done.returncode != 0:
        raise PeerError(f"{script} failed: {done.stderr.strip()}")
    return json.loads(done.stdout)
