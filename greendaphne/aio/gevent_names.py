"""Every private name of gevent that :mod:`greendaphne.aio` uses, and those of the tables here and in :mod:`.private` that are missing."""

from __future__ import annotations

from collections.abc import Callable
from types import ModuleType
from typing import Any, Final

from gevent import _hub_local

#: Names of gevent.  ``Hub.switch`` is public, but that code compiled by Cython calls its override is not promised.
GEVENT: Final = {
    "gevent._hub_local": ("get_hub_if_exists", "get_hub_class", "set_default_hub_class", "set_hub"),
    "gevent.hub": ("Hub.switch",),
}

#: What the interpreter and gevent do not have of the names that :mod:`.hub` needs; empty on a version that is supported.
MISSING: Final[list[str]] = []


def find(module: ModuleType, name: str) -> Any:
    """Return an attribute of ``module``; where there is none, remember that, so that the self-test can say it."""
    value = getattr(module, name, None)
    if value is None:
        MISSING.append(f"{module.__name__}.{name}")
    return value


#: Return the hub of this thread, or ``None``; creates no hub.
get_hub_if_exists: Callable[[], Any] = find(_hub_local, "get_hub_if_exists")
#: Make a hub the one of this thread.
set_hub: Callable[[Any], None] = find(_hub_local, "set_hub")
#: Return the class of this thread's next hub; gevent keeps the answer of the first call for the thread.
get_hub_class: Callable[[], type] = find(_hub_local, "get_hub_class")
#: Set the class of the hubs of all threads that have asked for none yet.
set_default_hub_class: Callable[[type], None] = find(_hub_local, "set_default_hub_class")
