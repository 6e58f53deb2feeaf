"""Try the built wheel as a user meets it, on each Python of this machine: ``make dist-check``.

A new environment gets the wheel with all extras for users.  In an empty directory, :mod:`release.served` then serves a WSGI
application, an ASGI application and a channel layer over HTTP/1.1, HTTP/2 and WSS, with ``-W error``.  All dependencies come as wheels:
nothing is compiled.
"""

from __future__ import annotations

import argparse
import os
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from release import bounds
from release.environments import EXTRAS, ROOT, VERSIONS, interpreters, make, pip, say
from release.report import Row, report

#: Seconds for one Python to serve all.
SERVING = 600.0


def check(version: str, interpreter: Path, wheel: Path, constraints: Path | None) -> tuple[int, list[str]]:
    """Install and serve; return the exit code and the installed versions, as ``name==version``."""
    with tempfile.TemporaryDirectory(prefix="greendaphne-") as temporary:
        directory = Path(temporary, "empty")
        directory.mkdir()
        python = make(Path(temporary, "environment"), interpreter)
        limits = ["--constraint", str(constraints)] if constraints else []
        pip(python, "install", "--only-binary", ":all:", *limits, f"{wheel}[{','.join(EXTRAS)}]", directory=directory)
        shutil.copy(ROOT / "release" / "served.py", directory)
        clean = {name: value for name, value in os.environ.items() if not name.startswith(("PYTHON", "GREENDAPHNE"))}
        done = subprocess.run([python, "-W", "error", "served.py"], cwd=directory, env=clean, timeout=SERVING, check=False)
        frozen = subprocess.run([python, "-m", "pip", "--disable-pip-version-check", "freeze"], capture_output=True, text=True, check=True)
        return done.returncode, [line for line in frozen.stdout.splitlines() if "==" in line]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--python", action="append", choices=VERSIONS, help="only this version; may be repeated")
    parser.add_argument("--required", action="store_true", help="fail for a version that is not on this machine")
    parser.add_argument(
        "--write-constraints", action="store_true", help="take the newest versions, and write them to constraints.txt if all pass"
    )
    arguments = parser.parse_args()
    wheels = list((ROOT / "dist").glob("greendaphne-*.whl"))
    if len(wheels) != 1:
        raise SystemExit("dist has no wheel: make dist")
    rows, frozen = [], {}
    for version, interpreter in interpreters(arguments.python or VERSIONS).items():
        if interpreter is None:
            rows.append(Row(version, "not on this machine", not arguments.required))
            continue
        say(f"Python {version}: installing {wheels[0].name} with its extras, and serving")
        started = time.monotonic()
        code, frozen[version] = check(version, interpreter, wheels[0], None if arguments.write_constraints else ROOT / "constraints.txt")
        rows.append(Row(version, "passed" if code == 0 else f"failed, exit code {code}", code == 0, time.monotonic() - started))
    failed = report(rows)
    if arguments.write_constraints and not failed:
        (ROOT / "constraints.txt").write_text(bounds.constraints(frozen))
    sys.exit(failed)


if __name__ == "__main__":
    main()
