"""What the server uses of its libraries without their promise: an upgrade that takes it away fails here, by name."""

from __future__ import annotations

import importlib
from typing import Any

import gevent
import httptools
import pytest
from OpenSSL import SSL


def missing(thing: Any, names: tuple[str, ...]) -> list[str]:
    return [name for name in names if not hasattr(thing, name)]


@pytest.mark.parametrize(
    ("module", "names"),
    [
        ("hpack.huffman", ("HuffmanEncoder",)),
        ("hpack.huffman_constants", ("REQUEST_CODES", "REQUEST_CODES_LENGTH")),
        ("hpack.huffman_table", ("decode_huffman",)),
        ("hpack.table", ("HeaderTable",)),
    ],
)
def test_hpack(module: str, names: tuple[str, ...]) -> None:
    gone = missing(importlib.import_module(module), names)
    assert not gone, f"hpack's {module} has no {gone}: see greendaphne.http2.compression"
    if module == "hpack.table":
        table = importlib.import_module(module).HeaderTable
        assert table.STATIC_TABLE[0] == (b":authority", b"")
        assert len(table.STATIC_TABLE) == table.STATIC_TABLE_LENGTH == 61


def test_httptools() -> None:
    """A parser that has read a request without a body reads another one: ``http1.head`` keeps it."""
    names: list[bytes] = []

    class Fields:
        def on_header(self, name: bytes, value: bytes) -> None:
            names.append(name)

    parser = httptools.HttpRequestParser(Fields())
    for _ in range(2):
        parser.feed_data(b"GET / HTTP/1.1\r\nHost: a\r\n\r\n")
    assert names == [b"Host", b"Host"]


def test_pyopenssl() -> None:
    connection = SSL.Connection(SSL.Context(SSL.TLS_SERVER_METHOD), None)
    assert not missing(SSL, ("_lib",)), "pyOpenSSL has no SSL._lib: see greendaphne.net.tls.transport"
    assert not missing(connection, ("_ssl",)), "pyOpenSSL's Connection has no _ssl: see greendaphne.net.tls.transport"
    library: Any = vars(SSL)["_lib"]
    assert not missing(library, ("SSL_clear_mode",)), "pyOpenSSL has no SSL_clear_mode: see greendaphne.net.tls.transport"
    context = SSL.Context(SSL.TLS_SERVER_METHOD)
    context.set_alpn_select_callback(lambda connection, names: names[0])
    assert not missing(SSL, ("_ffi",)), "pyOpenSSL has no SSL._ffi: see greendaphne.net.tls.factory"
    assert not missing(context, ("_alpn_select_callback", "_context")), "see greendaphne.net.tls.factory"
    assert not missing(library, ("SSL_CTX_set_alpn_select_cb",)), "see greendaphne.net.tls.factory"


def test_gevent() -> None:
    hub: Any = gevent.get_hub()
    assert not missing(hub, ("cancel_waits_close_and_then", "destroy", "switch")), "see greendaphne.net.transport"
    gone = missing(hub.loop, ("MINPRI", "io", "run_callback", "timer"))
    assert not gone, f"gevent's loop has no {gone}: see greendaphne.core.turns and greendaphne.net.transport"
    gone = missing(hub.loop, ("_callbacks", "pendingcnt"))
    assert not gone, f"gevent's loop has no {gone}: see greendaphne.net.batch"
    hub.loop.run_callback(lambda: None)
    assert hub.loop._callbacks
    gevent.sleep(0)
    assert not hub.loop._callbacks
    timer = hub.loop.timer(0, priority=hub.loop.MINPRI)
    assert timer.priority == hub.loop.MINPRI
    timer.close()
