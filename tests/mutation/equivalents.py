"""Mutants that behave like the original, each with the reason.

An entry names a mutant by its module, the text of its line, and the code before and after: when the line changes, the entry no longer
applies, and the next run says so.
"""

from __future__ import annotations

from typing import NamedTuple

from .mutants import Mutant


class Key(NamedTuple):
    module: str
    text: str
    before: str
    after: str


def key(module: str, mutant: Mutant) -> Key:
    return Key(module, mutant.text, mutant.before, mutant.after)


EQUIVALENT: dict[Key, str] = {}
