"""What the server uses of its libraries without their promise: an upgrade that takes it away fails here, by name."""

from __future__ import annotations

import ast
import importlib
import inspect
from typing import Any

import gevent
import h2.config
import h2.connection
import h2.exceptions
import h2.stream
import httptools
import hyperframe.frame
import pytest
from OpenSSL import SSL

from greendaphne.http2 import engine


def missing(thing: Any, names: tuple[str, ...]) -> list[str]:
    return [name for name in names if not hasattr(thing, name)]


def test_h2() -> None:
    connection = h2.connection.H2Connection(h2.config.H2Configuration(client_side=False))
    stream = h2.stream.H2Stream(1, connection.config, 65535, 65535)
    things = {type(connection): connection, type(stream): stream, h2.exceptions.StreamClosedError: h2.exceptions.StreamClosedError(1)}
    for kind, names in engine.UNDOCUMENTED.items():
        gone = missing(things[kind], names)
        assert not gone, f"h2's {kind.__name__} has no {gone}: see UNDOCUMENTED in greendaphne.http2.engine"


def test_every_private_member_of_h2_is_listed() -> None:
    """What the engine uses with a leading underscore is its own, or in the list."""
    tree = ast.parse(inspect.getsource(engine))
    used = {node.attr for node in ast.walk(tree) if isinstance(node, ast.Attribute) and node.attr.startswith("_")}
    own = {
        node.attr
        for statement in ast.walk(tree)
        if isinstance(statement, (ast.Assign, ast.AnnAssign))
        for target in (statement.targets if isinstance(statement, ast.Assign) else [statement.target])
        for node in ast.walk(target)
        if isinstance(node, ast.Attribute)
    }
    own |= {node.name for node in ast.walk(tree) if isinstance(node, ast.FunctionDef)}
    listed = {name for names in engine.UNDOCUMENTED.values() for name in names}
    unlisted = {name for name in used - own - listed if not name.startswith("__")}
    assert not unlisted, f"greendaphne.http2.engine uses {unlisted}, which UNDOCUMENTED does not list"


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


def test_hyperframe() -> None:
    """The engine hands whole frames to it, and reads unknown ones as it keeps them."""
    header = memoryview(b"\x00\x00\x02\x10\x00\x00\x00\x00\x00")
    frame, length = hyperframe.frame.Frame.parse_frame_header(header)
    assert isinstance(frame, hyperframe.frame.ExtensionFrame)
    frame.parse_body(memoryview(b"ab"))
    assert (frame.type, frame.stream_id, frame.body, length) == (0x10, 0, b"ab", 2)


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
