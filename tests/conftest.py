"""Fixtures for all tests."""

from __future__ import annotations

import signal
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from gevent._hub_local import get_hub_if_exists
from hypothesis import settings

from tests.support.server import Client, RunningServer
from tests.support.server import serve as run_server

# pytest rewrites the assertions of each module, which takes many seconds for all of them.  It keeps the result as bytecode, also where the
# environment asks for none; then not beside the source.
if sys.dont_write_bytecode:
    sys.dont_write_bytecode = False
    sys.pycache_prefix = str(Path(__file__).resolve().parents[1] / ".cache" / "bytecode")

# How long an example takes says something about the machine's other work only.
settings.register_profile("greendaphne", deadline=None)
settings.load_profile("greendaphne")


@pytest.fixture(autouse=True)
def no_hub_stays() -> Iterator[None]:
    """Take down a gevent hub that a test made in the main thread.

    Code that finds one waits in it instead of natively, so what a test meets would depend on the tests before it.
    """
    yield
    hub = get_hub_if_exists()
    if hub is not None:
        hub.destroy(destroy_loop=True)


@pytest.fixture(autouse=True)
def signals_are_not_blocked() -> Iterator[None]:
    """A test that left signals blocked would pass that on to each process that later tests start."""
    yield
    assert signal.pthread_sigmask(signal.SIG_BLOCK, []) == set()


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
