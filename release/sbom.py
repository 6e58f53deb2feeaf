"""Write a CycloneDX bill of materials of the wheel with its extras: ``make sbom``, and a part of ``make dist``.

It lists the packages of constraints.txt, with which the server was tested, and their licenses.
"""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
from pathlib import Path

from release.environments import ROOT, make, pip, say

#: The extras that a server of today has; channels1 holds asgiref back.
LISTED = "acme,metrics,redis"


def write(wheel: Path, directory: Path, time: int) -> Path:
    """Install ``wheel`` into an environment of its own, list what is there, and return the file."""
    say("writing the bill of materials")
    target = directory / f"{'-'.join(wheel.name.split('-')[:2])}.cdx.json"
    with tempfile.TemporaryDirectory(prefix="greendaphne-") as temporary:
        python = make(Path(temporary, "environment"), Path(sys.executable))
        # The wheel first as a name from a directory: an address of a file would stand in the list.
        pip(
            python,
            "install",
            "--constraint",
            str(ROOT / "constraints.txt"),
            "--find-links",
            str(directory),
            f"greendaphne[{LISTED}]=={version(wheel)}",
        )
        pip(python, "uninstall", "--yes", "pip", "setuptools")
        subprocess.run(
            [sys.executable, "-m", "cyclonedx_py", "environment", "--pyproject", ROOT / "pyproject.toml", "--mc-type", "application",
             "--output-reproducible", "--gather-license-texts", "--output-format", "JSON", "--output-file", target, python],
            check=True,
            env={**os.environ, "SOURCE_DATE_EPOCH": str(time)},
        )  # fmt: skip
    return target


def version(wheel: Path) -> str:
    return wheel.name.split("-")[1]


def main() -> None:
    directory = ROOT / "dist"
    wheels = list(directory.glob("greendaphne-*.whl"))
    if len(wheels) != 1:
        raise SystemExit("dist has no wheel: make dist")
    print(write(wheels[0], directory, int(wheels[0].stat().st_mtime)))


if __name__ == "__main__":
    main()
