"""Suggestions for an option that does not exist: a similar name, or the name that replaces another server's option here."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Final

#: Options of gunicorn, uvicorn, hypercorn, granian and later versions of daphne, and what replaces each here.
FOREIGN: Final[Mapping[str, str]] = {
    "--access-logfile": "--access-log=FILE",
    "--access-logformat": "--access-log-format=FORMAT",
    "--ca-certs": "--tls-client-ca=FILE",
    "--cert-reqs": "--tls-verify=MODE",
    "--daemon": "a service manager, such as systemd",
    "--error-logfile": "standard error, or --log-config=FILE",
    "--host": "--bind=HOST",
    "--keep-alive": "--keep-alive-timeout=SECONDS",
    "--limit-concurrency": "--limit-connections=NUMBER",
    "--limit-max-requests": "--max-requests=NUMBER",
    "--log-file": "standard error, or --log-config=FILE",
    "--no-access-log": "--verbosity=0",
    "--pidfile": "--pid=FILE",
    "--preload": "nothing; every worker imports the application",
    "--processes": "--workers=NUMBER",
    "--socket": "--unix-socket=PATH",
    "--ssl-ca-certs": "--tls-client-ca=FILE",
    "--ssl-certfile": "--certfile=FILE",
    "--ssl-certificate": "--certfile=FILE",
    "--ssl-keyfile": "--keyfile=FILE",
    "--ssl-keyfile-password": "--keyfile-password-file=FILE",
    "--threads": "--inline-workers=NUMBER",
    "--timeout": "--http-timeout=SECONDS",
    "--timeout-graceful-shutdown": "--graceful-timeout=SECONDS",
    "--timeout-keep-alive": "--keep-alive-timeout=SECONDS",
    "--uds": "--unix-socket=PATH",
    "--worker-class": "nothing; workers run in greenlets",
    "--ws-max-size": "--websocket-max-message-size=SIZE",
    "--ws-ping-interval": "--ping-interval=SECONDS",
    "--ws-ping-timeout": "--ping-timeout=SECONDS",
}


def instead(name: str, known: Iterable[str]) -> str:
    """The end of a sentence that refuses the option ``name``; ``""`` if no name is similar.

    :param known: the long names of all options.
    """
    if name in FOREIGN:
        return f"; here it is {FOREIGN[name]}"
    if not name.startswith("--"):
        return ""
    # Imported here, because only mistakes need it.
    import difflib

    near = difflib.get_close_matches(name.replace("_", "-"), known, 1, 0.7)
    return f"; did you mean {near[0]}?" if near else ""
