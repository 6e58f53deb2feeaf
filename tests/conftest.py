"""Fixtures for all tests."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.support import Client, RunningServer
from tests.support import serve as run_server


@pytest.fixture
def server() -> Iterator[RunningServer]:
    """A server with an in-memory layer; the test plays the application."""
    with run_server() as running:
        yield running


@pytest.fixture
def client(server: RunningServer) -> Iterator[Client]:
    """A connection to ``server``."""
    with server.connect() as connection:
        yield connection
