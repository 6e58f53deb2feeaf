"""What interface an object has."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

import pytest

from greendaphne.applications.detection import detect
from greendaphne.applications.interfaces import interface_of, make_application
from greendaphne.applications.wsgi import WSGIApplication
from greendaphne.config import ApplicationOptions, Config, ConfigurationError
from greendaphne.layers.memory import MemoryChannelLayer


def wsgi(environ: Any, start_response: Any) -> Any: ...


def wsgi_with_more(environ: Any, start_response: Any, debug: bool = False, *, name: str = "") -> Any: ...


async def asgi(scope: Any, receive: Any, send: Any) -> None: ...


def plain_asgi(scope: Any, receive: Any, send: Any) -> Any: ...


def double(scope: Any) -> Any: ...


def decorated(function: Callable[..., Any]) -> Callable[..., Any]:
    @functools.wraps(function)
    def inner(*args: Any, **kwargs: Any) -> Any:
        return function(*args, **kwargs)

    return inner


class Flask:
    def __call__(self, environ: Any, start_response: Any) -> Any: ...


class Starlette:
    async def __call__(self, scope: Any, receive: Any, send: Any) -> None: ...

    async def method(self, scope: Any, receive: Any, send: Any) -> None: ...

    def wsgi_method(self, environ: Any, start_response: Any) -> Any: ...


class Decorated:
    __call__ = decorated(asgi)


class AppClass:
    def __init__(self, environ: Any, start_response: Any) -> None: ...


class Double:
    def __init__(self, scope: Any) -> None: ...


class Endpoint:
    """As Starlette's HTTPEndpoint."""

    def __init__(self, scope: Any, receive: Any, send: Any) -> None: ...

    def __await__(self) -> Any: ...


class Marked:
    _asgi_single_callable = True

    def __call__(self, *arguments: Any) -> Any: ...


class MarkedDouble:
    _asgi_double_callable = True

    def __call__(self, *arguments: Any) -> Any: ...


class Layer:
    """A layer of the specification's first drafts, which is callable besides."""

    def send(self) -> None: ...

    def new_channel(self) -> None: ...

    def receive_many(self) -> None: ...

    def __call__(self, environ: Any, start_response: Any) -> Any: ...


@pytest.mark.parametrize(
    ("target", "interface"),
    [
        (MemoryChannelLayer(), "channels"),
        (Layer(), "channels"),
        (wsgi, "wsgi"),
        (wsgi_with_more, "wsgi"),
        (Flask(), "wsgi"),
        (Starlette().wsgi_method, "wsgi"),
        (AppClass, "wsgi"),
        (functools.partial(wsgi_with_more, debug=True), "wsgi"),
        (decorated(wsgi), "wsgi"),
        (asgi, "asgi3"),
        (plain_asgi, "asgi3"),
        (Starlette(), "asgi3"),
        (Starlette().method, "asgi3"),
        (Decorated(), "asgi3"),
        (functools.partial(functools.partial(asgi)), "asgi3"),
        (decorated(decorated(asgi)), "asgi3"),
        (Endpoint, "asgi3"),
        (Marked(), "asgi3"),
        (double, "asgi2"),
        (Double, "asgi2"),
        (MarkedDouble(), "asgi2"),
    ],
)
def test_detect(target: Any, interface: str) -> None:
    assert detect(target) == interface


@pytest.mark.parametrize(
    ("target", "text"),
    [
        (lambda *args: None, "say --interface"),
        (lambda: None, "name takes no arguments: say --factory if it makes the application"),
        (lambda a, b, c, d: None, "say --interface"),
        (lambda a, b, *, c: None, "say --interface"),
        (print, "say --interface"),
        (type("Three", (), {"__init__": lambda self, a, b, c: None}), "say --interface"),
        (MemoryChannelLayer, "is a class, not a channel layer"),
        ("text", "is not an application: it is of type str"),
        (None, "is not an application: it is of type NoneType"),
    ],
)
def test_doubt(target: Any, text: str) -> None:
    with pytest.raises(ConfigurationError, match=text):
        detect(target, "name")


def circle() -> None: ...


circle.__wrapped__ = circle  # type: ignore[attr-defined]


def test_a_circle_of_wrappers_ends() -> None:
    with pytest.raises(ConfigurationError):
        detect(circle)


def test_what_is_said_counts() -> None:
    def config(**options: Any) -> Config:
        return Config(application=ApplicationOptions(**options))

    assert interface_of(print, config(interface="wsgi")) == "wsgi"
    assert interface_of(wsgi, config(asgi=True)) == "asgi3"
    assert interface_of(double, config(asgi=True)) == "asgi2"
    assert interface_of(double, config(wsgi=True)) == "wsgi"
    application = make_application(wsgi, config())
    assert isinstance(application, WSGIApplication)
    assert make_application(application, config()) is application
    with pytest.raises(ConfigurationError, match="is a channel layer"):
        make_application(MemoryChannelLayer(), config())
