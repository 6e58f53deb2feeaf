"""Scrapes over real sockets, read with Prometheus' own parser."""

from __future__ import annotations

import http.client
import socket
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from prometheus_client import parser

from tests.support.server import PATIENCE, Client, RunningServer

GET = b"GET / HTTP/1.1\r\nHost: a\r\n\r\n"


@dataclass
class Scrape:
    """What a scrape said."""

    content_type: str
    text: str
    #: By name and labels.
    values: dict[tuple[str, frozenset[tuple[str, str]]], float]
    #: Kind by family.
    kinds: dict[str, str]

    def __call__(self, name: str, **labels: str) -> float:
        """The sample ``greendaphne_<name>`` with exactly these labels."""
        return self.values[f"greendaphne_{name}", frozenset(labels.items())]

    def sum(self, name: str, **labels: str) -> float:
        """The sum of the samples with at least these labels; 0 for none."""
        wanted = frozenset(labels.items())
        return sum(value for (other, found), value in self.values.items() if other == f"greendaphne_{name}" and wanted <= found)


def read(content_type: str, text: str) -> Scrape:
    """A scrape's text, which has every sample and every family once."""
    values: dict[tuple[str, frozenset[tuple[str, str]]], float] = {}
    kinds: dict[str, str] = {}
    for family in parser.text_string_to_metric_families(text):
        assert family.name not in kinds, family.name
        assert family.documentation, family.name
        kinds[family.name] = family.type
        for sample in family.samples:
            key = sample.name, frozenset(sample.labels.items())
            assert key not in values, key
            values[key] = sample.value
    return Scrape(content_type, text, values, kinds)


def fetch(host: str, port: int, path: str = "/metrics", accept: str = "") -> tuple[int, str, str]:
    """Status, content type and text of a page."""
    connection = http.client.HTTPConnection(host, port, timeout=PATIENCE)
    try:
        connection.request("GET", path, headers={"Accept": accept} if accept else {})
        response = connection.getresponse()
        return response.status, response.headers["Content-Type"], response.read().decode()
    finally:
        connection.close()


def endpoint(server: RunningServer) -> tuple[str, int]:
    """Where the server listens for scrapes alone."""
    monitor: Any = server.server._monitor
    address = monitor.endpoint.listener.address
    return address.host, address.port


def scrape(server: RunningServer) -> Scrape:
    """The numbers, through the endpoint that does not count itself."""
    status, content_type, text = fetch(*endpoint(server))
    assert status == 200
    return read(content_type, text)


def health(server: RunningServer) -> tuple[int, str]:
    """The answer to a health check at that endpoint."""
    status, _, text = fetch(*endpoint(server), path="/health")
    return status, text


def connect(address: tuple[str, int]) -> Client:
    """A connection to anywhere."""
    return Client(socket.create_connection(address, timeout=PATIENCE))


def wait_until(condition: Callable[[], object], what: str = "it") -> None:
    """Wait for something that nobody tells of."""
    end = time.monotonic() + PATIENCE
    while not condition():
        assert time.monotonic() < end, f"waited in vain for {what}"
        time.sleep(0.02)
