"""Run the tests, starting soon: ``python -m tests.run ARGUMENTS``, which ``make test`` uses.

pytest imports all test modules to find out which tests ``-k`` means; that takes longer than most tests.  This command gives pytest only the
modules that contain one of the names in the expression, and the processes that the modules are worth.  It leaves the choice to pytest where
the arguments name paths, or the expression negates, or no module contains the names.

A name that a test gets from its parameters need not stand in its module.  Such a test is missed if another module contains the name;
``python -m pytest -k NAME`` looks at everything.
"""

from __future__ import annotations

import os
import re
import sys
from collections.abc import Sequence
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
#: Names in an expression that are operators.
OPERATORS = {"and", "or"}
#: Up to this number of modules, starting more processes takes longer than they save.
FEW = 3
#: For the whole: most tests wait.
PARALLEL = ["--numprocesses=auto", "--maxprocesses=4"]


def expression(arguments: Sequence[str]) -> str:
    """The value of ``-k``, or an empty string."""
    for index, argument in enumerate(arguments):
        if argument == "-k" and index + 1 < len(arguments):
            return arguments[index + 1]
        if argument.startswith("-k"):
            return argument[2:].removeprefix("=")
    return ""


def names(expression: str) -> list[str]:
    """The names that the tests of an expression have, in lower case; none if it negates."""
    words = re.findall(r"[^\s()]+", expression.lower())
    return [] if "not" in words else [word for word in words if word not in OPERATORS]


def modules(wanted: Sequence[str]) -> list[str]:
    """The test modules that contain one of the names, in their text or their path."""
    found = []
    for path in sorted((ROOT / "tests").rglob("test_*.py")):
        name = path.relative_to(ROOT).as_posix()
        if name.startswith("tests/modern/"):
            continue
        text = f"{name}\n{path.read_text(encoding='utf-8')}".lower()
        if any(word in text for word in wanted):
            found.append(name)
    return found


def paths(arguments: Sequence[str]) -> list[str]:
    """The arguments that are paths or identifiers of tests."""
    return [argument for argument in arguments if not argument.startswith("-") and Path(argument.partition("::")[0]).exists()]


def command(arguments: Sequence[str]) -> list[str]:
    """The arguments of pytest."""
    chosen = paths(arguments)
    added = [] if chosen else modules(names(expression(arguments)))
    if any(re.match(r"-n|--numprocesses|--dist|--pdb|-p$|-p=?no:xdist", argument) for argument in arguments):
        return [*arguments, *added]
    files = {path.partition("::")[0] for path in [*chosen, *added]}
    few = files and len(files) <= FEW and all(Path(path).is_file() for path in files)
    return [*(["-p", "no:xdist"] if few else PARALLEL), *arguments, *added]


def main() -> None:
    os.chdir(ROOT)
    os.execv(sys.executable, [sys.executable, "-m", "pytest", *command(sys.argv[1:])])


if __name__ == "__main__":
    main()
