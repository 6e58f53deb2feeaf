"""Fixtures for pytest: live servers for tests of projects with channel layers, see ``testing``.

pytest loads this module in every project that has greendaphne installed.  It imports only pytest until a fixture is used.

``greendaphne_server``
    A live server (:class:`greendaphne.testing.LiveServer`), configured by the two fixtures ``greendaphne_layer`` and
    ``greendaphne_options``, which a project may override.
``greendaphne_server_factory``
    Creates live servers: ``greendaphne_server_factory(workers=2)``.  Servers without a layer argument share one layer.

With pytest-django a test that uses one of them gets a transactional database, as with its ``live_server``.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import ExitStack
from typing import TYPE_CHECKING, Any

import pytest

if TYPE_CHECKING:
    from .testing import LiveServer


def pytest_itemcollected(item: pytest.Item) -> None:
    """Mark a test with live servers as one that needs a transactional database, so that pytest-django creates one."""
    if "greendaphne_server_factory" in getattr(item, "fixturenames", ()) and _has_database(item.config):
        given = item.get_closest_marker("django_db")
        if given is not None and given.args:
            marker = pytest.mark.django_db(True, *given.args[1:], **given.kwargs)
        else:
            marker = pytest.mark.django_db(**{**(given.kwargs if given is not None else {}), "transaction": True})
        item.add_marker(marker, append=False)


@pytest.fixture
def greendaphne_layer() -> Any:
    """The channel layer of ``greendaphne_server``; ``None`` means a new one in memory."""
    return None


@pytest.fixture
def greendaphne_options() -> dict[str, Any]:
    """Further arguments of ``greendaphne_server``, passed to :func:`greendaphne.testing.live_server`."""
    return {}


@pytest.fixture
def greendaphne_server_factory(request: pytest.FixtureRequest) -> Iterator[Callable[..., LiveServer]]:
    """Create live servers that stop at the end of the test; takes the arguments of :func:`greendaphne.testing.live_server`."""
    from .testing import channels_in_memory, is_channels_project, live_server

    if _has_database(request.config):
        # The hook does not see a fixture that the test requests while it runs.
        request.getfixturevalue("transactional_db")
    with ExitStack() as stack:
        shared: list[Any] = []

        def make(layer: Any = None, **options: Any) -> LiveServer:
            if layer is None and options.get("routes") is None and is_channels_project():
                if not shared:
                    shared.append(stack.enter_context(channels_in_memory()))
                layer = shared[0]
            return stack.enter_context(live_server(layer, **options))

        yield make


@pytest.fixture
def greendaphne_server(
    greendaphne_server_factory: Callable[..., LiveServer], greendaphne_layer: Any, greendaphne_options: dict[str, Any]
) -> LiveServer:
    """A live server; use its ``url``, ``ws_url``, ``port`` and ``layer``."""
    return greendaphne_server_factory(greendaphne_layer, **greendaphne_options)


def _has_database(config: pytest.Config) -> bool:
    """Whether there is a project of Channels with a database, and pytest-django to manage it."""
    from .testing import is_channels_project

    if not config.pluginmanager.hasplugin("django") or not is_channels_project():
        return False
    from django.conf import settings

    return any(database.get("ENGINE") not in (None, "", "django.db.backends.dummy") for database in settings.DATABASES.values())
