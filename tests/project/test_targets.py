"""What contributors run: the targets of the Makefile, the map of the tests, and the command that starts a named test soon."""

from __future__ import annotations

import re
import subprocess
from pathlib import Path

import pytest

from release.report import Row, report
from tests import run

ROOT = Path(__file__).resolve().parents[2]


def test_help_names_each_target() -> None:
    text = (ROOT / "Makefile").read_text(encoding="utf-8")
    targets = set(re.findall(r"^\.PHONY: (.*)", text, re.MULTILINE)[0].split())
    shown = subprocess.run(["make", "help"], cwd=ROOT, capture_output=True, text=True, check=True, timeout=60).stdout
    assert set(re.findall(r"^make (\S+)", shown, re.MULTILINE)) == targets - {"help"}
    assert max(len(line) for line in shown.splitlines()) <= 80


def test_missing_packages_are_named(tmp_path: Path) -> None:
    """One that is missing from Debian's Python too; without apt-get on the PATH nothing is installed."""
    python = tmp_path / "python"
    python.write_text("#!/bin/sh\necho libpython3.9-testsuite\n")
    python.chmod(0o700)
    command = ["/bin/sh", str(ROOT / ".ci" / "packages"), str(python)]
    # The tests run all the same, and those that need a package fail.
    done = subprocess.run(command, env={"PATH": str(tmp_path)}, capture_output=True, text=True, timeout=60, check=True)
    assert re.search(r"these packages are missing, .*: apt-get install .*\bcurl\b.* libpython3\.9-testsuite$", done.stderr.strip())


def test_the_map_of_the_tests_has_each_folder() -> None:
    text = (ROOT / "tests" / "README.rst").read_text(encoding="utf-8")
    folders = {path.parent.name for path in (ROOT / "tests").glob("*/__init__.py")}
    assert set(re.findall(r"^``(\w+)``  ", text, re.MULTILINE)) == folders - {"support"}


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        # A name that one module has.
        (["-k", "test_help_names_each_target"], ["-p", "no:xdist", "-k", "test_help_names_each_target", "tests/project/test_targets.py"]),
        (["-k=map_of_the_tests and folder", "-x"], ["-p", "no:xdist", "-k=map_of_the_tests and folder", "-x"]),
        # What is named is left as it is.
        (["tests/project/test_targets.py::test_x"], ["-p", "no:xdist", "tests/project/test_targets.py::test_x"]),
        (["tests/project"], [*run.PARALLEL, "tests/project"]),
        (["-n", "1", "tests/project"], ["-n", "1", "tests/project"]),
        # All modules may have what the expression wants.
        (["-k", "not redis"], [*run.PARALLEL, "-k", "not redis"]),
        ([], run.PARALLEL),
    ],
)
def test_what_pytest_is_given(arguments: list[str], expected: list[str]) -> None:
    found = run.command(arguments)
    if arguments[:1] == ["-k=map_of_the_tests and folder"]:
        # Any module that has one of the names, this one among them.
        assert "tests/project/test_targets.py" in found
        assert set(arguments) <= set(found)
    else:
        assert found == expected


def test_a_name_that_no_module_contains_is_looked_for_in_all() -> None:
    name = "x" * 40
    assert run.command(["-k", name]) == [*run.PARALLEL, "-k", name]


def test_the_table_of_a_run_and_its_exit_code(capsys: pytest.CaptureFixture[str]) -> None:
    passed, absent, failed = Row("3.11", "passed", True, 61), Row("3.14", "not on this machine", True), Row("3.12", "failed", False, 2)
    assert report([passed, absent]) == 0
    assert report([passed, failed]) == 1
    assert report([absent]) == 1
    assert "3.14     not on this machine" in capsys.readouterr().out
