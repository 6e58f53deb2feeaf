"""A WSGI application whose requests run asyncio code of all kinds: ``/KIND/NUMBER`` answers with the number, ``/NUMBER`` at once."""

from __future__ import annotations

from typing import Any

import gevent

from tests.modern import mixed

KINDS = {kind.__name__: kind for kind in mixed.KINDS}


def app(environ: dict[str, Any], start_response: Any) -> list[bytes]:
    if not mixed.ADDRESS:
        mixed.ADDRESS.append(f"http://{environ['HTTP_HOST']}")
    kind, _, number = environ["PATH_INFO"].removeprefix("/").rpartition("/")
    if kind:
        number = str(KINDS[kind](int(number)))
    else:
        gevent.sleep(0.0005)
    start_response("200 OK", [("Content-Type", "text/plain")])
    return [number.encode()]
