"""The mutation tester, on a small tree of its own."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.mutation.mutants import mutants, mutated

ROOT = Path(__file__).resolve().parents[2]
PATIENCE = 200.0

MODULE = "def larger(a, b):\n    return a if a > b else b\n"
WEAK = "from greendaphne.core.toy import larger\n\n\ndef test_larger():\n    larger(1, 2)\n"
STRONG = "from greendaphne.core.toy import larger\n\n\ndef test_larger():\n    assert (larger(1, 2), larger(2, 1)) == (2, 2)\n"
# Unchanged, the process that the test leaves behind ends with the test; a mutant waits for ever, beside a process in another session.
HANGS = """
import os, subprocess, sys
from greendaphne.core.toy import larger

def test_larger():
    if larger(1, 2) != 2:
        child = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(1000)"], start_new_session=True)
        open(os.environ["LEFT"], "a").write(f"{child.pid}\\n")
        child.wait()
"""


def tree(path: Path, test: str) -> Path:
    package = path / "greendaphne" / "core"
    package.mkdir(parents=True)
    (path / "greendaphne" / "__init__.py").touch()
    (package / "__init__.py").touch()
    (package / "toy.py").write_text(MODULE)
    (path / "test_toy.py").write_text(test)
    subprocess.run(["git", "init", "-q", str(path)], check=True)
    return path


def mutation(path: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    command = [
        sys.executable,
        "-m",
        "tests.mutation",
        "--root",
        str(path),
        "--tests",
        "test_toy.py",
        "--only",
        "greendaphne/core/toy.py",
        *arguments,
    ]
    return subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=PATIENCE, check=False)


@pytest.mark.parametrize(("test", "noticed"), [(STRONG, "2 of 3"), (WEAK, "0 of 3")])
def test_mutants_are_noticed_by_tests_that_look(tmp_path: Path, test: str, noticed: str) -> None:
    path = tree(tmp_path, test)
    run = mutation(path)
    assert run.returncode == 0, run.stderr
    # No test can tell > from >= here.
    assert f"{noticed} mutants noticed" in run.stdout
    assert (path / "greendaphne" / "core" / "toy.py").read_text() == MODULE


def test_mutants_that_hang_are_noticed_and_nothing_of_them_stays(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tree(tmp_path, HANGS)
    left = tmp_path / "left"
    monkeypatch.setenv("LEFT", str(left))
    run = mutation(path, "--limit", "1")
    assert run.returncode == 0, run.stderr
    assert "noticed (hung)" in run.stderr
    processes = [int(line) for line in left.read_text().split()]
    assert processes
    for process in processes:
        with pytest.raises(ProcessLookupError):
            os.kill(process, 0)


def test_tests_that_fail_without_a_change_say_nothing(tmp_path: Path) -> None:
    run = mutation(tree(tmp_path, "def test_wrong():\n    assert False\n"))
    assert run.returncode == 0, run.stderr
    assert "test_wrong fails without any change; it is left out" in run.stderr
    assert "0 of 3 mutants noticed" in run.stdout


def test_tests_that_are_not_found_say_nothing(tmp_path: Path) -> None:
    run = mutation(tree(tmp_path, "import a_module_that_is_missing\n"))
    assert run.returncode == 2
    assert "without any change" in run.stderr


def test_a_sample_is_that_of_its_seed(tmp_path: Path) -> None:
    path = tree(tmp_path, STRONG)
    first, second = (mutation(path, "--sample", "1", "--seed", "7").stderr for _ in range(2))
    assert first.partition(" s: ")[2] == second.partition(" s: ")[2] != ""


def test_what_has_no_effect_is_not_mutated() -> None:
    source = '''"""Text."""
from typing import TYPE_CHECKING
if TYPE_CHECKING:
    from a import b
__slots__ = ("a",)
def f(a: int | None) -> "str":
    """Text 1."""
    log.info("started %d", 1 + 1)
    raise ValueError("a text for people")
'''
    assert mutants(source) == []


def test_a_mutant_changes_one_thing() -> None:
    found = mutants(MODULE)
    assert [(mutant.before, mutant.after) for mutant in found] == [
        ("return a if a > b else b", "return None"),
        ("a > b", "not (a > b)"),
        (">", ">="),
    ]
    assert mutated(MODULE, 2) == MODULE.replace(">", ">=")


def test_logs_texts_and_boundaries_in_time_are_not_mutated() -> None:
    source = """
def f(self, now):
    self._log(1 + 1)
    if now < self.end:
        raise ValueError("wrong")
def _log(self):
    return 1
"""
    assert [(mutant.before, mutant.after) for mutant in mutants(source)] == [("now < self.end", "not (now < self.end)")]


def test_false_values_become_others() -> None:
    assert [(mutant.before, mutant.after) for mutant in mutants("a = 0\nb = 0.0\nc = ''\n")] == [("0", "1"), ("0.0", "1.0"), ("''", "'XX'")]


def test_a_run_that_was_stopped_goes_on_where_it_was(tmp_path: Path) -> None:
    path = tree(tmp_path, STRONG)
    results = tmp_path / "results"
    whole = mutation(path, "--results", str(results))
    lines = results.read_text().splitlines()
    assert [json.loads(line)["verdict"] for line in lines].count("noticed") == 2
    assert json.loads(lines[0])["test"] in ("test_toy.py::test_larger", "")
    results.write_text("\n".join(lines[:2]) + "\n")
    again = mutation(path, "--results", str(results))
    assert again.stdout == whole.stdout
    assert len(results.read_text().splitlines()) == 3
    # The mutants that were there need no test.
    (path / "test_toy.py").unlink()
    assert mutation(path, "--results", str(results)).stdout == whole.stdout


# Fails once, as a test does on a busy machine; the second time it passes.
FLICKERS = """
import json
import os
from greendaphne.core.toy import larger

def test_larger():
    if larger(1, 2) != 2 and not os.path.exists(os.environ["SEEN"]):
        open(os.environ["SEEN"], "w").close()
        assert False
"""


def test_a_failure_that_does_not_come_again_does_not_count(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SEEN", str(tmp_path / "seen"))
    run = mutation(tree(tmp_path, FLICKERS))
    assert "0 of 3 mutants noticed" in run.stdout
    assert (tmp_path / "seen").exists()
