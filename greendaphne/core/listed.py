"""The base of lists that options contain as text."""

from __future__ import annotations


class Listed:
    """A value that an option lists as text: shown, compared and hashed by that text.

    :param text: the list as the user wrote it.
    """

    __slots__ = ("_text",)

    def __init__(self, text: str) -> None:
        self._text = text

    def __str__(self) -> str:
        return self._text

    def __repr__(self) -> str:
        return f"{type(self).__name__}({self._text!r})"

    def __eq__(self, other: object) -> bool:
        return isinstance(other, type(self)) and self._text == other._text

    def __hash__(self) -> int:
        return hash(self._text)
