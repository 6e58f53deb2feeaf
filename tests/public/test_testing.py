"""Live tests of a WSGI application, and the watching of one."""

from __future__ import annotations

from typing import Any

import requests

from greendaphne.testing import live_server
from tests.support.wsgi import serve_wsgi


def application(environ: dict[str, Any], start_response: Any) -> list[bytes]:
    start_response("200 OK", [("Content-Type", "text/plain")])
    return [b"hello"]


def test_live_server() -> None:
    with live_server(application=application) as server:
        assert requests.get(server.url, timeout=20).text == "hello"
        assert server.layer is None
        assert server.server.factory.reply_protocols == {}


def test_health_and_metrics() -> None:
    with serve_wsgi(application, health_path="/health", metrics_path="/metrics") as server:
        assert requests.get(server.url + "/", timeout=20).text == "hello"
        assert requests.get(server.url + "/health", timeout=20).text == "ok\n"
        text = requests.get(server.url + "/metrics", timeout=20).text
    assert 'greendaphne_requests_total{method="GET"' in text
    assert "greendaphne_layer_up" not in text
