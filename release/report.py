"""The table at the end of a run on several versions of Python."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple


class Row(NamedTuple):
    """A version of Python, what came of it, whether that is in order, and the seconds it took."""

    version: str
    result: str
    passed: bool
    seconds: float = 0.0


def report(rows: Sequence[Row]) -> int:
    """Print the table and return the exit code: 1 where a version failed, or where none was tried."""
    width = max([6, *(len(row.result) for row in rows)])
    print(f"\nPython   {'Result':{width}}  Seconds")
    for row in rows:
        print(f"{row.version:7}  {row.result:{width}}  {row.seconds:7.0f}")
    tried = [row for row in rows if row.seconds]
    return int(not tried or any(not row.passed for row in rows))
