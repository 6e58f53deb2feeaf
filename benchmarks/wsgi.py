"""WSGI applications and their WebSockets."""

from __future__ import annotations

from functools import partial
from typing import Final

from . import peers
from .applications import CONNECTIONS, WEBSOCKETS, Application, Commands, trials
from .family import Family, Layout, Plan, Trial
from .http1 import MEASURES
from .peers import TODAY
from .servers import Command
from .websocket import ECHO_MEASURES

_OURS, _GUNICORN, _WORKER, _PYWSGI, _WAITRESS = "greendaphne", "gunicorn, gevent", "GeventWebSocketWorker", "pywsgi", "waitress"
_MODULE: Final = "benchmarks.apps.wsgi"

_CASES: Final = {
    "hello": Application("hello", (_OURS, _GUNICORN, _PYWSGI, _WAITRESS)),
    "Flask hello": Application("flask_application", (_OURS, _GUNICORN, _PYWSGI, _WAITRESS)),
    "Django hello": Application("django_application", (_OURS, _GUNICORN, _PYWSGI, _WAITRESS)),
    "16 B": Application("echo", (_OURS, _WORKER), 16),
    "1 KiB": Application("echo", (_OURS, _WORKER), 1024),
}


def _ours(application: str) -> Command:
    line = (peers.python(TODAY), "-m", "greendaphne", "--wsgi", "-v", "0", "-b", "127.0.0.1", "-p", "{port}")
    return Command((*line, f"{_MODULE}:{application}"))


def _gunicorn(worker: str, application: str) -> Command:
    line = (peers.program(TODAY, "gunicorn"), "-k", worker, "-w", "1", "--worker-connections", "2000", "-b", "127.0.0.1:{port}")
    return Command((*line, "--log-level", "error", f"{_MODULE}:{application}"))


def _pywsgi(application: str) -> Command:
    return Command((peers.python(TODAY), "-m", _MODULE, "{port}", application))


def _waitress(application: str) -> Command:
    return Command((peers.program(TODAY, "waitress-serve"), "--listen=127.0.0.1:{port}", "--threads=4", f"{_MODULE}:{application}"))


_COMMANDS: Final[Commands] = {
    _OURS: _ours,
    _GUNICORN: partial(_gunicorn, "gevent"),
    _WORKER: partial(_gunicorn, "geventwebsocket.gunicorn.workers.GeventWebSocketWorker"),
    _PYWSGI: _pywsgi,
    _WAITRESS: _waitress,
}


def _trials(plan: Plan) -> list[Trial]:
    return trials(_CASES, _COMMANDS)


FAMILY: Final = Family(
    "wsgi",
    "WSGI",
    f"The same application in each server, with one process: {CONNECTIONS} connections of wrk, or {WEBSOCKETS} WebSockets with one message "
    "in flight over each. gunicorn has its gevent worker or that of gevent-websocket, waitress four threads.",
    (Layout("http", "WSGI applications", MEASURES), Layout("echo", "WebSocket echo through WSGI", ECHO_MEASURES)),
    _trials,
)
