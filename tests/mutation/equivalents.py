"""Mutants that behave like the original: module, code before, code after, and the reason."""

from __future__ import annotations

EQUIVALENT: dict[tuple[str, str, str], str] = {}
