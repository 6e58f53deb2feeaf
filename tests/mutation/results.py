"""The verdicts of a run in a file, a line each, so that a run that was stopped goes on where it was."""

from __future__ import annotations

import json
from pathlib import Path
from typing import NamedTuple

from .mutants import Mutant


class Result(NamedTuple):
    """What became of one mutant.

    ``verdict`` is "noticed", "hung" or "survived"; ``test`` is the one that noticed, or an empty string; ``seconds`` is the time it took.
    """

    module: str
    line: int
    scope: str
    text: str
    number: int
    before: str
    after: str
    verdict: str
    test: str
    seconds: float


class Results:
    """Results by mutant; without a path they are kept in memory."""

    def __init__(self, path: Path | None) -> None:
        self._path = path
        self._found: dict[tuple[str, Mutant], Result] = {}
        if path is not None and path.exists():
            for line in path.read_text(encoding="utf-8").splitlines():
                result = Result(**json.loads(line))
                self._found[result.module, Mutant(*result[1:7])] = result

    def find(self, module: str, mutant: Mutant) -> Result | None:
        return self._found.get((module, mutant))

    def add(self, module: str, mutant: Mutant, verdict: str, test: str, seconds: float) -> Result:
        result = Result(module, *mutant, verdict, test, round(seconds, 1))
        self._found[module, mutant] = result
        if self._path is not None:
            with self._path.open("a", encoding="utf-8") as stream:
                print(json.dumps(result._asdict()), file=stream)
        return result
