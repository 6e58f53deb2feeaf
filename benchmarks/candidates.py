"""The servers that are compared, and how each is started."""

from __future__ import annotations

import sys

from . import environment
from .environment import CHECKOUT, daphne_home
from .servers import Candidate

#: Worker greenlets in greendaphne's process; daphne's application has one thread in daphne's process.
INLINE_WORKERS = 4

GREENDAPHNE = "greendaphne"
DAPHNE = "daphne 1.4.2"


def greendaphne() -> Candidate:
    """The checkout, run by the interpreter that runs the benchmarks."""
    command = (sys.executable, str(CHECKOUT / "bin" / "greendaphne"), "--inline-workers", str(INLINE_WORKERS))
    return Candidate(GREENDAPHNE, command, "benchmarks.apps.on_greendaphne:channel_layer")


def daphne() -> Candidate:
    """daphne 1.4.2 in an environment of its own."""
    return Candidate(DAPHNE, (str(daphne_home() / "bin" / "daphne"),), "benchmarks.apps.on_daphne:channel_layer")


def versions() -> dict[str, str]:
    """What :func:`both` consist of."""
    ours = environment.versions(sys.executable, ("gevent", "httptools"))
    theirs = environment.versions(str(environment.daphne_home() / "bin" / "python"), ("daphne", "Twisted", "autobahn"))
    return {"greendaphne": environment.revision(), **ours, **theirs}


def both() -> list[Candidate]:
    """Ours first: the ratios of the tables are ours to the other's."""
    return [greendaphne(), daphne()]
