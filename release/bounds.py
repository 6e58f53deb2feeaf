"""The lower bounds of pyproject.toml, and the versions that were tested.

``python -m release.bounds lowest`` writes the lowest allowed version of each dependency of the server and its extras, for
``make test-lowest``.  ``python -m release.bounds wheels`` checks that each of them has a wheel on each version of Python, so that no
installation compiles; it is a part of ``make dist``.
"""

from __future__ import annotations

import argparse
import platform
import subprocess
import sys
import tempfile
from collections.abc import Iterable, Mapping
from typing import Any, cast

from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

from release.environments import EXTRAS, INSTALLATION, VERSIONS, project, say

#: In constraints.txt both kinds of applications must be possible.
NOT_CONSTRAINED = {
    "asgiref": "1.1.2, the one of Channels 1, and the newest one were tested",
    "greendaphne": "",
}
HEADER = """\
# The newest versions that the wheel was tested with, on Python {versions}:
#
#     pip install -c constraints.txt 'greendaphne[redis,metrics]'
#
# "make constraints" writes this file.
"""


def requirements(extras: Iterable[str]) -> list[Requirement]:
    """The dependencies of the server and of ``extras``."""
    table = cast("dict[str, Any]", project())
    lines = [*table["dependencies"], *(line for extra in extras for line in table["optional-dependencies"][extra])]
    return [Requirement(line) for line in lines]


def lowest(version: str, extras: Iterable[str]) -> dict[str, str]:
    """The lowest allowed version of each dependency on a version of Python, by name.

    :raises SystemExit: a dependency has no lower bound.
    """
    found: dict[str, str] = {}
    for requirement in requirements(extras):
        if requirement.marker and not requirement.marker.evaluate({"python_version": version, "python_full_version": f"{version}.0"}):
            continue
        bounds = [part.version for part in requirement.specifier if part.operator in (">=", "==")]
        if len(bounds) != 1:
            raise SystemExit(f"{requirement} has no lower bound")
        found[requirement.name] = bounds[0]
    return found


def pins(versions: Mapping[str, str]) -> list[str]:
    return [f"{name}=={version}" for name, version in versions.items()]


def check_wheels() -> None:
    """Ask the package index for a wheel of each lowest version, for this machine's kind of processor."""
    tags = [f"{kind}_{platform.machine()}" for kind in ("manylinux2014", "manylinux_2_17", "manylinux_2_28", "manylinux_2_34", "linux")]
    for version in VERSIONS:
        say(f"Python {version}: looking for wheels of the lowest versions")
        with tempfile.TemporaryDirectory(prefix="greendaphne-") as directory:
            subprocess.run(
                [sys.executable, "-m", "pip", "--quiet", "--quiet", "--disable-pip-version-check", "download", "--no-deps",
                 "--only-binary", ":all:", "--python-version", version, *(part for tag in tags for part in ("--platform", tag)),
                 "--dest", directory, *pins(lowest(version, EXTRAS))],
                check=True,
                timeout=INSTALLATION,
            )  # fmt: skip


def constraints(frozen: Mapping[str, Iterable[str]]) -> str:
    """The text of constraints.txt from what ``pip freeze`` printed on each version of Python."""
    table: dict[str, dict[str, str]] = {}
    for version, lines in frozen.items():
        for line in lines:
            name, _, number = line.partition("==")
            table.setdefault(canonicalize_name(name), {})[version] = number
    text = [HEADER.format(versions=", ".join(frozen))]
    for name, numbers in sorted(table.items()):
        if name in NOT_CONSTRAINED:
            text += [f"# {name}: {reason}\n"] if (reason := NOT_CONSTRAINED[name]) else []
        elif len({*numbers.values()}) == 1:
            text.append(f"{name}=={numbers.popitem()[1]}\n")
        else:
            text += [f'{name}=={number}; python_version == "{version}"\n' for version, number in numbers.items()]
    return "".join(text)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("task", choices=("lowest", "wheels"))
    if parser.parse_args().task == "wheels":
        check_wheels()
    else:
        print("\n".join(pins(lowest(f"{sys.version_info[0]}.{sys.version_info[1]}", EXTRAS))))


if __name__ == "__main__":
    main()
