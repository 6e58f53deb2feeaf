"""The exception that applications get where there is no client left, and how it is told from errors of the application's own."""

from __future__ import annotations


class ClientGone(OSError):
    """What ``send()`` raises once the client has left (ASGI 2.4, "disconnected client"); quiet where the application lets it escape."""

    def __init__(self) -> None:
        super().__init__("the client has left")


def is_quiet(error: BaseException | None) -> bool:
    """Whether ``error`` only says that the client has left: :class:`ClientGone`, what was raised because of it, or a group of such."""
    seen = set()
    while error is not None and id(error) not in seen:
        seen.add(id(error))
        if isinstance(error, ClientGone):
            return True
        group = getattr(error, "exceptions", None)
        if isinstance(group, (tuple, list)) and group:
            return all(is_quiet(each) for each in group)
        error = error.__cause__ if error.__cause__ is not None else error.__context__
    return False
