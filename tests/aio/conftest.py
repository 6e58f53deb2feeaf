"""Fixtures for asyncio on the hub.  They work in a patched process, too."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import gevent
import pytest
from gevent._hub_local import get_hub_if_exists, set_hub
from gevent.monkey import is_module_patched

from greendaphne.aio.hub import AsyncioHub, install
from greendaphne.aio.loop import HubLoop
from tests.support.scripts import PATIENCE

PATCHED = is_module_patched("socket")
if PATCHED:
    install()


@pytest.fixture(autouse=True)
def no_hub_stays() -> Iterator[None]:
    """Take down the hub of an unpatched process, as for all tests; a patched one needs it."""
    yield
    existing = get_hub_if_exists()
    if existing is not None and not PATCHED:
        existing.destroy(destroy_loop=True)


@pytest.fixture
def hub() -> AsyncioHub:
    """An AsyncioHub for this thread, and for the test only."""
    existing = get_hub_if_exists()
    if existing is None:
        existing = AsyncioHub()
        set_hub(existing)
    assert isinstance(existing, AsyncioHub)
    return existing


@pytest.fixture
def limit() -> Iterator[None]:
    """End a test that waits too long."""
    with gevent.Timeout(PATIENCE):
        yield


@pytest.fixture
def loop(hub: AsyncioHub, limit: None) -> Iterator[HubLoop]:
    """A loop that nothing runs yet."""
    made = HubLoop()
    yield made
    made.close()


@pytest.fixture
def running(hub: AsyncioHub, limit: None) -> Iterator[HubLoop]:
    """A loop that runs in a greenlet of its own; exceptions that it reports fail the test."""
    made = HubLoop()
    reported: list[dict[str, Any]] = []
    made.set_exception_handler(lambda loop, context: reported.append(context))
    made.start()
    yield made
    assert made.shutdown(PATIENCE)
    assert not reported
