"""``wsgi.input``, ``wsgi.errors`` and ``wsgi.file_wrapper``."""

from __future__ import annotations

import gzip
import io
import logging
import tempfile
from pathlib import Path
from typing import Any

import pytest

from greendaphne.applications.wsgi.input import BodyError, Errors, FileWrapper, Input, disk_file
from greendaphne.config import ApplicationOptions, Limits, Timeouts
from greendaphne.core.message import ClientDisconnected, HTTPError
from tests.support.server import LiveServer
from tests.support.wsgi import serve_wsgi


def body(data: bytes, step: int = 3) -> Input:
    """An input whose bytes come in pieces of ``step``."""
    source = io.BytesIO(data)
    return Input(lambda n: source.read(min(n, step)))


def test_read() -> None:
    source = body(b"0123456789")
    assert source.read(0) == b""
    assert source.read(4) == b"0123"
    assert source.read(10**9) == b"456789"
    assert source.read(1) == source.read() == source.readline() == b""
    assert body(b"0123456789").read() == body(b"0123456789").read(-1) == body(b"0123456789").read(None) == b"0123456789"


def test_lines() -> None:
    text = b"a\nbcdefgh\n\nno end"
    assert list(body(text)) == body(text).readlines() == [b"a\n", b"bcdefgh\n", b"\n", b"no end"]
    assert body(text).readlines(3) == [b"a\n", b"bcdefgh\n"]
    source = body(text)
    assert source.readline(5) == b"a\n"
    assert source.readline(3) == b"bcd"
    assert source.readline(0) == b""
    assert source.readline(5) == b"efgh\n"
    assert source.read(2) == b"\nn"
    assert source.readline(-1) == b"o end"
    assert body(b"x" * 10, step=10).readline(4) == b"xxxx"


@pytest.mark.parametrize("step", [1, 2, 5, 1000])
def test_lines_as_a_file_has_them(step: int) -> None:
    data = b"ab\n\ncdefg\nh" * 7
    for limit in (-1, 1, 2, 3, 8, 100):
        source, file = body(data, step), io.BytesIO(data)
        while line := file.readline(limit):
            assert source.readline(limit) == line
        assert source.readline(limit) == b""


def test_buffered_reader() -> None:
    reader = io.BufferedReader(body(b"0123456789", step=4), 4)  # type: ignore[type-var]
    assert reader.peek(1)[:1] == b"0"
    assert reader.read() == b"0123456789"
    assert io.TextIOWrapper(io.BufferedReader(body("é\nü".encode()))).readlines() == ["é\n", "ü"]  # type: ignore[type-var]


@pytest.mark.parametrize("cause", [HTTPError(408, "too slow"), ClientDisconnected()])
def test_failure(cause: HTTPError | ClientDisconnected) -> None:
    def read(n: int) -> bytes:
        raise cause

    source = Input(read)
    for _ in range(2):
        with pytest.raises(OSError, match=r"slow|left") as info:
            source.read()
        assert isinstance(info.value, BodyError)
        assert info.value.cause is cause


def test_errors(caplog: pytest.LogCaptureFixture) -> None:
    errors = Errors()
    with caplog.at_level(logging.INFO, "greendaphne.wsgi.errors"):
        assert errors.write("one\ntwo") == 7
        print(" and more", file=errors)
        errors.writelines(["a\n", "b\n"])
        errors.write("rest \ud800 日本")
        errors.flush()
        errors.flush()
        errors.write("x" * 10000)
    assert [record.getMessage() for record in caplog.records] == ["one", "two and more", "a\nb", "rest \\ud800 日本", "x" * 10000]
    with pytest.raises(TypeError):
        errors.write(b"bytes")  # type: ignore[arg-type]


class _Proxy:
    """A wrapper like Django's File: its read is the file's own."""

    def __init__(self, file: Any) -> None:
        self.file = file
        self.read = file.read


class _Decoding(_Proxy):
    def __init__(self, file: Any) -> None:
        self.file = file

    def read(self, n: int = -1) -> bytes:
        return b"decoded"


def test_disk_files(tmp_path: Path) -> None:
    path = tmp_path / "f"
    path.write_bytes(b"0123456789")
    with path.open("rb") as file:
        file.read(3)
        found = disk_file(file)
        assert found is not None
        assert (found.offset, found.size) == (3, 7)
        assert disk_file(_Proxy(file)) == found
        assert disk_file(_Decoding(file)) is None
    with path.open("rb", buffering=0) as raw:
        assert disk_file(raw) is not None
    with tempfile.NamedTemporaryFile() as temporary:
        temporary.write(b"abc")
        temporary.seek(1)
        found = disk_file(temporary)
        assert found is not None
        assert (found.offset, found.size) == (1, 2)
    with gzip.open(tmp_path / "z", "wb") as packed:
        packed.write(b"x")
    with gzip.open(tmp_path / "z") as unpacked:
        assert disk_file(unpacked) is None
    with path.open() as text:
        assert disk_file(text) is None
    assert disk_file(io.BytesIO(b"x")) is None
    assert disk_file(file) is None


def test_file_wrapper_is_an_iterable(tmp_path: Path) -> None:
    assert list(FileWrapper(io.BytesIO(b"0123456789"), 4)) == [b"0123", b"4567", b"89"]
    assert not hasattr(FileWrapper(type("F", (), {"read": lambda self, n: b""})()), "close")
    path = tmp_path / "f"
    path.write_bytes(b"0123456789")
    with path.open("rb") as file:
        assert list(FileWrapper(file, 4)) == [b"0123", b"4567", b"89"]


# --- over a connection ---


def echo(environ: dict[str, Any], start_response: Any) -> list[bytes]:
    data = environ["wsgi.input"].read(int(environ["CONTENT_LENGTH"]) if "CONTENT_LENGTH" in environ else 2**30)
    start_response("200 OK", [("Content-Type", "text/plain"), ("Content-Length", str(len(data)))])
    return [data]


def ignore(environ: dict[str, Any], start_response: Any) -> list[bytes]:
    start_response("200 OK", [("Content-Type", "text/plain")])
    return [b"ignored"]


def ask(server: LiveServer, *pieces: bytes) -> Any:
    with server.connect() as client:
        for piece in pieces:
            client.send(piece)
        return client.read_response()


def test_never_beyond_the_body() -> None:
    def application(environ: dict[str, Any], start_response: Any) -> list[bytes]:
        data = environ["wsgi.input"].read(10**9)
        start_response("200 OK", [("Content-Type", "text/plain")])
        return [data]

    with serve_wsgi(application) as server, server.connect() as client:
        client.send(b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 3\r\n\r\none" * 2)
        assert client.read_response().body == b"one"
        assert client.read_response().body == b"one"


def test_chunked() -> None:
    with serve_wsgi(echo) as server:
        head = b"POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n"
        assert ask(server, head, b"3\r\nabc\r\n", b"2\r\nde\r\n0\r\n\r\n").body == b"abcde"


def test_100_continue_comes_when_the_body_is_wanted() -> None:
    head = b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 3\r\nExpect: 100-continue\r\n\r\n"
    with serve_wsgi(echo) as server, server.connect() as client:
        client.send(head)
        assert client.read_head().status == 100
        client.send(b"abc")
        assert client.read_response().body == b"abc"
    with serve_wsgi(ignore) as server, server.connect() as client:
        client.send(head)
        assert client.read_response().body == b"ignored"


def test_slow_body_is_answered_with_408() -> None:
    with serve_wsgi(echo, timeouts=Timeouts(graceful=2, body=0.2)) as server:
        assert ask(server, b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 3\r\n\r\na").status == 408


def test_bad_chunk_is_answered_with_400() -> None:
    with serve_wsgi(echo) as server:
        assert ask(server, b"POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\nzz\r\n").status == 400


def test_application_may_answer_a_failed_body_itself() -> None:
    def application(environ: dict[str, Any], start_response: Any) -> list[bytes]:
        try:
            environ["wsgi.input"].read(3)
        except OSError:
            start_response("418 Teapot", [("Content-Type", "text/plain")])
            return [b"own answer"]
        raise AssertionError

    with serve_wsgi(application, timeouts=Timeouts(graceful=2, body=0.2)) as server:
        response = ask(server, b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 3\r\n\r\na")
        assert (response.status, response.reason, response.body) == (418, "Teapot", b"own answer")


def test_limit() -> None:
    called = []

    def application(environ: dict[str, Any], start_response: Any) -> list[bytes]:
        called.append(environ["REQUEST_METHOD"])
        return echo(environ, start_response)

    with serve_wsgi(application, limits=Limits(request_body=4)) as server:
        assert ask(server, b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 5\r\n\r\n").status == 413
        assert not called
        assert ask(server, b"POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nabcde\r\n0\r\n\r\n").status == 413
        assert ask(server, b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 4\r\n\r\nabcd").body == b"abcd"


@pytest.mark.parametrize("size", [10, 300_000, 3_000_000])
@pytest.mark.parametrize("chunked", [False, True])
def test_buffered_bodies(size: int, chunked: bool) -> None:
    called = []

    def application(environ: dict[str, Any], start_response: Any) -> list[bytes]:
        called.append(environ.get("CONTENT_LENGTH"))
        return echo(environ, start_response)

    data = bytes(range(256)) * (size // 256 + 1)
    data = data[:size]
    limit = 1_000_000
    options = ApplicationOptions(interface="wsgi", buffer_request_body=limit)
    with serve_wsgi(application, options=options) as server, server.connect() as client:
        if chunked:
            client.send(b"POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n%x\r\n" % size)
        else:
            client.send(b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: %d\r\n\r\n" % size)
        client.send(data[: size // 2])
        assert not called or size > limit
        client.send(data[size // 2 :] + (b"\r\n0\r\n\r\n" if chunked else b""))
        assert client.read_response().body == data
    assert called == [str(size) if size <= limit or not chunked else None]


def test_no_room_for_buffered_bodies() -> None:
    options = ApplicationOptions(interface="wsgi", buffer_request_body=1000)
    with serve_wsgi(echo, options=options, limits=Limits(buffered_bodies=100)) as server:
        assert ask(server, b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 200\r\n\r\n" + b"x" * 200).status == 503
        assert ask(server, b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 100\r\n\r\n" + b"x" * 100).status == 200
        assert ask(server, b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 100\r\n\r\n" + b"x" * 100).status == 200
