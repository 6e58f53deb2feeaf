"""Applications behind WSGI and ASGI: what both families have in common."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import partial
from typing import Final, NamedTuple

from . import environment
from .environment import bound_to
from .family import Plan, Sample, Trial
from .http1 import requests
from .load import warm_up
from .servers import Command, running
from .websocket import echo

CONNECTIONS: Final = 64
WEBSOCKETS: Final = 32

#: Makes the command line of a server from an application's name.
Commands = Mapping[str, Callable[[str], Command]]


class Application(NamedTuple):
    """A case: the application's name, its servers, and the size of a WebSocket's message, 0 for HTTP."""

    name: str
    servers: tuple[str, ...]
    message: int = 0
    #: Whether each request has a header section that is new.
    fresh: bool = False


def _run(
    name: str, command: Callable[[str], Command], application: Application, cases: Sequence[str], plan: Plan
) -> Iterator[tuple[str, Sample]]:
    core = environment.cores().client
    for case in cases:
        with running(name, command(application.name)) as server:
            if application.message:
                with bound_to(core):
                    yield case, echo(server, application.message, WEBSOCKETS, plan.seconds)
            else:
                warm_up(server.port, core)
                yield case, requests(server, CONNECTIONS, plan.seconds, fresh=application.fresh).sample


def trials(cases: Mapping[str, Application], commands: Commands) -> list[Trial]:
    """A trial for each server of each case; HTTP and WebSockets are different tables."""
    return [
        Trial("echo" if application.message else "http", server, (case,), partial(_run, server, commands[server], application))
        for case, application in cases.items()
        for server in application.servers
    ]
