"""The commands that stand in the documentation, and a machine of its own for each page that they are run on.

The machine is a set of Linux namespaces: its own ``/etc``, ``/srv``, ``/run``, ``/var/lib`` and ``/var/log``, which are empty or copies,
its own loopback interface and its own processes.  So the commands are run as they are written, users and paths included, and nothing of
it is left.
"""

from __future__ import annotations

import os
import re
import shlex
import shutil
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Final

import docutils.core
import docutils.nodes

ROOT: Final = Path(__file__).resolve().parents[2]
DOCS: Final = ROOT / "docs"
#: Seconds for all commands of a page.
PATIENCE: Final = 240
#: Where a line of a page's output begins.
_MARK: Final = "@@@"

# Only in its own namespaces: /etc is a copy, what is written to is empty.  The checkout cannot be changed, and is where every user can read
# it, as is what the tests have installed.
_MACHINE = """
set -e
mount -t tmpfs tmpfs /mnt
mkdir /mnt/etc /mnt/packages /mnt/checkout /mnt/python /mnt/bin
cp -a /etc/. /mnt/etc
mount --bind /mnt/etc /etc
mount --bind {packages} /mnt/packages
# The interpreter may be in root's own directory.
mount --bind {base} /mnt/python
# It may have no name without its version.  An environment that a link made would look for the library beside the link.
if [ ! -e /mnt/python/bin/python3 ]; then
    printf '%s\\n' '#!/bin/sh' 'exec /mnt/python/bin/python{version} "$@"' > /mnt/bin/python3
    chmod 755 /mnt/bin/python3
fi
mount --bind {root} /mnt/checkout
mount -o remount,bind,ro /mnt/checkout
for directory in /srv /run /var/lib /var/log; do mount -t tmpfs -o mode=755 tmpfs $directory; done
{python} -c 'import fcntl, socket, struct
with socket.socket() as sock:
    fcntl.ioctl(sock, 0x8914, struct.pack("16sH14s", b"lo", 0x49, b""))'
install_here() {{
    # In the place of pip, which needs the network: what the tests have installed.
    echo /mnt/packages > "$1"/lib/python{version}/site-packages/here.pth
    echo /mnt/checkout >> "$1"/lib/python{version}/site-packages/here.pth
    for program in greendaphne circusd circusctl supervisord supervisorctl; do
        if [ -e {scripts}/$program ]; then
            sed "1s|.*|#!$1/bin/python|" {scripts}/$program > "$1"/bin/$program
            chmod 755 "$1"/bin/$program
        fi
    done
}}
eventually() {{
    # Start-up takes a moment that a person at a terminal does not notice.
    for _ in $(seq 100); do
        if "$@"; then return 0; fi
        sleep 0.2
    done
    return 1
}}
cd /mnt/checkout
"""


def literal_blocks(text: str) -> list[str]:
    """The literal blocks of the page ``text`` that are shell commands, in order: those without a language, or with ``sh``."""
    document = docutils.core.publish_doctree(text, settings_overrides={"report_level": 5})
    found = []
    for block in document.findall(docutils.nodes.literal_block):
        languages = set(block["classes"]) - {"code"}
        if not languages or languages & {"sh", "shell", "console"}:
            found.append(block.astext())
    return found


def commands(text: str) -> list[str]:
    """The commands of the page ``text``; those of several lines, by a backslash or within quotes, are one."""
    found: list[str] = []
    begun = ""
    for line in "\n".join(literal_blocks(text)).replace("\\\n", " ").split("\n"):
        begun = f"{begun}\n{line}" if begun else line.strip()
        try:
            shlex.split(begun, comments=True)
        except ValueError:
            # A quotation is open.  Output of programs, which is no command, may have an apostrophe.
            if begun.count("\n") < 5:
                continue
        if begun:
            found.append(re.sub(" +", " ", begun))
        begun = ""
    return found


def why_no_machine() -> str:
    """Why there can be no such machine here, empty where there can."""
    if os.geteuid() != 0:
        return "other users cannot be had without being root"
    program = shutil.which("unshare")
    if program is None:
        return "there is no unshare"
    probe = [program, "--mount", "--net", "--pid", "--fork", "sh", "-c", "mount -t tmpfs tmpfs /srv"]
    return "" if subprocess.run(probe, capture_output=True, check=False, timeout=20).returncode == 0 else "namespaces are not allowed here"


def run_on_a_machine(lines: list[str], environment: Mapping[str, str] = {}) -> subprocess.CompletedProcess[str]:
    """Run ``lines`` in one shell, as root on a machine of their own, in a copy of the checkout; the first that fails ends it.

    Each line is printed before it is run.  Processes that are left in the background are ended.
    """
    prefix = Path(sys.prefix)
    version = f"{sys.version_info.major}.{sys.version_info.minor}"
    machine = _MACHINE.format(
        root=shlex.quote(str(ROOT)),
        packages=shlex.quote(str(prefix / "lib" / f"python{version}" / "site-packages")),
        scripts=shlex.quote(str(prefix / "bin")),
        python=shlex.quote(sys.executable),
        base=shlex.quote(sys.base_prefix),
        version=version,
    )
    script = machine + "\n".join(f"echo {shlex.quote(_MARK + line)}\n{line}" for line in lines) + "\n"
    unshare = ["unshare", "--mount", "--net", "--pid", "--fork", "--kill-child", "--mount-proc", "bash", "-c", script]
    path = "/mnt/bin:/mnt/python/bin:/usr/sbin:/usr/bin:/sbin:/bin"
    result = subprocess.run(
        unshare,
        capture_output=True,
        text=True,
        timeout=PATIENCE,
        check=False,
        stdin=subprocess.DEVNULL,
        # The interpreter finds its library where it was built otherwise, which other users may not enter.
        env={
            "LD_LIBRARY_PATH": "/mnt/python/lib",
            "PATH": path,
            "HOME": "/root",
            "LANG": "C.UTF-8",
            "PYTHONDONTWRITEBYTECODE": "1",
            **environment,
        },
    )
    assert result.returncode == 0, f"{result.stdout[-4000:]}\n{result.stderr[-4000:]}"
    return result


def output_of(result: subprocess.CompletedProcess[str], command: str) -> str:
    """What the first run of ``command`` printed on standard output."""
    match = re.search(rf"^{re.escape(_MARK + command)}\n(.*?)(?=^{_MARK}|\Z)", result.stdout, re.MULTILINE | re.DOTALL)
    assert match is not None, result.stdout
    return match[1]
