"""All kinds of applications."""

from __future__ import annotations

from functools import partial
from typing import Any

import pytest

from tests.support.asgi import answer, serve_asgi


async def plain(scope: Any, receive: Any, send: Any) -> None:
    await answer(send, scope["asgi"]["version"].encode())


class Instance:
    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        await plain(scope, receive, send)


class Synchronous:
    """Returns an awaitable, and needs the running loop before."""

    def __call__(self, scope: Any, receive: Any, send: Any) -> Any:
        import asyncio

        return asyncio.ensure_future(plain(scope, receive, send))


class Double:
    """ASGI 2."""

    def __init__(self, scope: Any) -> None:
        self.scope = scope

    async def __call__(self, receive: Any, send: Any) -> None:
        assert "state" not in self.scope
        await plain(self.scope, receive, send)


def double(scope: Any) -> Any:
    return partial(plain, scope)


@pytest.mark.parametrize("application", [plain, Instance(), partial(plain), Synchronous()])
def test_asgi_3(application: Any) -> None:
    with serve_asgi(application) as server:
        assert server.get().body == b"3.0"


@pytest.mark.parametrize("application", [Double, double])
@pytest.mark.parametrize("interface", ["asgi2", "auto"])
def test_asgi_2(application: Any, interface: str) -> None:
    with serve_asgi(application, interface=interface) as server:
        assert server.get().body == b"2.0"
