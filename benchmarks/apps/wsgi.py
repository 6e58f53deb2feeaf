"""WSGI applications under measurement: a plain one, Flask, Django, and a WebSocket echo for ``wsgi.websocket``."""

from __future__ import annotations

from typing import Any

BODY = b"Hello, world!"


def hello(environ: dict[str, Any], start_response: Any) -> list[bytes]:
    """The plainest application."""
    start_response("200 OK", [("Content-Type", "text/plain"), ("Content-Length", "13")])
    return [BODY]


def echo(environ: dict[str, Any], start_response: Any) -> list[bytes]:
    """Echoes WebSocket messages; answers anything else as :func:`hello`."""
    websocket = environ.get("wsgi.websocket")
    if websocket is None:
        return hello(environ, start_response)
    while (message := websocket.receive()) is not None:
        websocket.send(message)
    return []


def flask_hello() -> Any:
    """A Flask site with one view."""
    from flask import Flask

    application = Flask("hello")

    @application.route("/")
    def index() -> str:
        return BODY.decode()

    return application


def django_hello() -> Any:
    """A Django site with one view and no middleware."""
    from django.core.wsgi import get_wsgi_application

    _configure_django()
    return get_wsgi_application()


def django_asgi_hello() -> Any:
    """The same site, whose view is synchronous, through ASGI."""
    from django.core.asgi import get_asgi_application

    _configure_django()
    return get_asgi_application()


def _configure_django() -> None:
    from types import ModuleType

    from django.conf import settings
    from django.http import HttpResponse
    from django.urls import path

    urls = ModuleType("urls")
    # Sites have a middleware that tells the length; without it waitress closes the connection after each response.
    headers = {"Content-Type": "text/plain", "Content-Length": str(len(BODY))}
    urls.urlpatterns = [path("", lambda request: HttpResponse(BODY, headers=headers))]  # type: ignore[attr-defined]
    settings.configure(ROOT_URLCONF=urls, ALLOWED_HOSTS=["*"], SECRET_KEY="benchmark", MIDDLEWARE=[])


def __getattr__(name: str) -> Any:
    # Peers import an attribute; the frameworks are imported where they are measured only.
    if name in ("flask_application", "django_application", "django_asgi_application"):
        made = globals()[name] = globals()[name.replace("_application", "_hello")]()
        return made
    raise AttributeError(name)


def serve_pywsgi() -> None:
    """``python -m benchmarks.apps.wsgi PORT NAME``: gevent's own server."""
    from gevent import monkey

    monkey.patch_all()
    import sys

    from gevent.pywsgi import WSGIServer

    application = getattr(sys.modules[__name__], sys.argv[2])
    WSGIServer(("127.0.0.1", int(sys.argv[1])), application, log=None, backlog=2048).serve_forever()


if __name__ == "__main__":
    serve_pywsgi()
