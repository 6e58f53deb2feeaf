"""HTTP/2 with the clients that people use: curl, nghttp, h2load, Node.js and httpx, over cleartext with prior knowledge.

A client program that is not installed fails its tests: Debian has them in ``curl``, ``nghttp2-client`` and ``nodejs``.
"""

from __future__ import annotations

import json
import re
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest

from greendaphne.http2 import Http2Stream
from tests.support.http2 import PATIENCE, Http2Server, eventually, serve_http2

BIG = 5_000_000


def application(stream: Http2Stream) -> None:
    """``/big`` is a long response in pieces, ``/early`` answers at the body's beginning; everything else echoes what it is sent."""
    path = stream.request.path
    if path == b"/big":
        stream.start(200, [(b"content-type", b"application/octet-stream"), (b"content-length", b"%d" % BIG)])
        for _ in range(BIG // 50_000):
            stream.write(b"x" * 50_000)
        stream.finish()
    elif path == b"/early":
        # Without this the whole answer may be there before curl has begun to send, which curl 7.88 then waits for without end.
        stream.read(1)
        stream.start(413, [])
        stream.finish(b"too large")
    else:
        body = bytearray()
        while data := stream.read(65536):
            body += data
        headers = [(b"x-method", stream.request.method.encode()), (b"x-version", stream.request.http_version.encode())]
        headers += [(b"x-saw-" + name, value) for name, value in stream.request.headers if name in (b"host", b"cookie", b"expect")]
        stream.start(200, headers)
        stream.finish(bytes(body))


@pytest.fixture(scope="module")
def server() -> Iterator[Http2Server]:
    with serve_http2(application) as running:
        yield running
        eventually(lambda: not running.connections)


@pytest.fixture(scope="module")
def url(server: Http2Server) -> str:
    return f"http://127.0.0.1:{server.port}"


def run(*command: str) -> str:
    """The output of a client program, which must succeed."""
    program = shutil.which(command[0])
    assert program is not None, f"{command[0]} is not installed"
    result = subprocess.run([program, *command[1:]], capture_output=True, text=True, timeout=3 * PATIENCE, check=False)
    assert result.returncode == 0, result.stderr + result.stdout
    return result.stdout


def curl(*arguments: str) -> str:
    return run("curl", "-sS", "--http2-prior-knowledge", *arguments)


def test_curl(url: str) -> None:
    output = curl("-i", "-b", "a=1; b=2", f"{url}/")
    head, _, body = output.replace("\r", "").partition("\n\n")
    assert head.startswith("HTTP/2 200")
    assert "x-saw-cookie: a=1; b=2" in head
    assert f"x-saw-host: {url[7:]}" in head
    assert "date: " in head
    assert body == ""


def test_curl_uploads(url: str, tmp_path: Path) -> None:
    file = tmp_path / "upload"
    file.write_bytes(b"0123456789" * 200_000)
    output = tmp_path / "output"
    head = curl("-T", str(file), "-H", "Expect: 100-continue", "-o", str(output), "-D", "-", f"{url}/put")
    assert "x-method: PUT" in head
    assert output.read_bytes() == file.read_bytes()


def test_curl_downloads_in_parallel(url: str, tmp_path: Path) -> None:
    outputs = [tmp_path / str(n) for n in range(8)]
    arguments = [argument for output in outputs for argument in ("-o", str(output), f"{url}/big")]
    curl("--parallel", "--parallel-immediate", *arguments)
    assert all(output.stat().st_size == BIG for output in outputs)


def test_curl_takes_an_early_answer(url: str, tmp_path: Path) -> None:
    file = tmp_path / "upload"
    file.write_bytes(bytes(3_000_000))
    assert curl("-T", str(file), "-w", "%{http_code}", f"{url}/early") == "too large413"


def test_curl_head(url: str) -> None:
    assert "x-method: HEAD" in curl("-I", f"{url}/")


def test_nghttp(url: str, tmp_path: Path) -> None:
    file = tmp_path / "upload"
    file.write_bytes(b"0123456789" * 30_000)
    assert run("nghttp", "-d", str(file), f"{url}/post") == "0123456789" * 30_000


def test_nghttp_with_several_streams_padding_and_trailers(url: str, tmp_path: Path) -> None:
    file = tmp_path / "upload"
    file.write_bytes(b"0123456789" * 3000)
    output = run("nghttp", "-nv", "-m", "20", "-b", "100", "--trailer", "x-checksum: 1", "-d", str(file), f"{url}/post")
    assert len(re.findall(r":status: 200", output)) == 20
    assert "RST_STREAM" not in output


@pytest.mark.parametrize(("clients", "streams"), [(10, 1), (4, 32), (1, 100)])
def test_h2load(url: str, clients: int, streams: int) -> None:
    output = run("h2load", "-n", "1000", "-c", str(clients), "-m", str(streams), "-H", "cookie: a=1", f"{url}/")
    assert "1000 succeeded, 0 failed, 0 errored" in output


def test_h2load_with_bodies_and_small_windows(url: str, tmp_path: Path) -> None:
    file = tmp_path / "body"
    file.write_bytes(bytes(20_000))
    output = run("h2load", "-n", "200", "-c", "2", "-m", "10", "-w", "12", "-W", "13", "-d", str(file), f"{url}/post")
    assert "200 succeeded, 0 failed, 0 errored" in output
    assert "200 2xx" in output


def test_httpx(url: str) -> None:
    with httpx.Client(http1=False, http2=True, timeout=PATIENCE, cookies={"a": "1"}) as client:
        response = client.get(f"{url}/?a=b")
        assert (response.http_version, response.status_code, response.headers["x-saw-cookie"]) == ("HTTP/2", 200, "a=1")
        assert client.post(f"{url}/post", content=b"x" * 1_000_000).content == b"x" * 1_000_000
        with client.stream("GET", f"{url}/big") as stream:
            assert sum(len(part) for part in stream.iter_bytes()) == BIG


NODE = """
const http2 = require('http2');
const client = http2.connect(process.argv[2]);
const result = {};
const ask = (name, headers, body) => new Promise((resolve, reject) => {
    const stream = client.request(headers);
    let size = 0;
    stream.on('response', (fields) => { result[name] = {status: fields[':status'], method: fields['x-method']}; });
    stream.on('data', (data) => { size += data.length; });
    stream.on('end', () => { result[name].size = size; resolve(); });
    stream.on('error', reject);
    stream.end(body);
});
(async () => {
    const all = [
        ask('get', {':path': '/'}), ask('post', {':path': '/', ':method': 'POST'}, Buffer.alloc(300000)), ask('big', {':path': '/big'}),
    ];
    client.on('connect', () => client.ping(() => { result.ping = true; }));
    // Says GOAWAY at once, and waits for what is open.
    client.on('remoteSettings', (settings) => { result.connect = settings.enableConnectProtocol; client.close(); });
    await Promise.all(all);
    await new Promise((resolve) => client.closed && client.destroyed ? resolve() : client.on('close', resolve));
    console.log(JSON.stringify(result));
})();
"""


def test_node(url: str, tmp_path: Path) -> None:
    script = tmp_path / "client.js"
    script.write_text(NODE)
    result = json.loads(run("node", str(script), url))
    assert result["get"] == {"status": 200, "method": "GET", "size": 0}
    assert result["post"] == {"status": 200, "method": "POST", "size": 300_000}
    assert result["big"] == {"status": 200, "size": BIG}
    assert result["connect"] is True
