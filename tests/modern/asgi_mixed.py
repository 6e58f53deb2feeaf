"""Django by WSGI, its Channels consumers by ASGI, and a plain ASGI application, in one process."""

from __future__ import annotations

from typing import Any

from django.core.wsgi import get_wsgi_application

from tests.modern.asgi_sites import django_site

asgi = django_site()
wsgi = get_wsgi_application()


async def plain(scope: Any, receive: Any, send: Any) -> None:
    assert scope["type"] == "http"
    body = f"{scope['root_path']} {scope['path']}".encode()
    await send({"type": "http.response.start", "status": 200})
    await send({"type": "http.response.body", "body": body})
