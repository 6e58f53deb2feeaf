"""The scripted conversation: some 200 requests and 50 WebSockets, as bytes."""

from __future__ import annotations

import struct
from typing import NamedTuple


class Case(NamedTuple):
    """One connection: what is sent on it, and how its end is known."""

    name: str
    #: Pieces, each sent once the answer to the one before has come; for HTTP there is one.
    pieces: tuple[bytes, ...]
    #: The methods of the requests, whose responses are read; empty for a WebSocket, which is read to its end.
    methods: tuple[str, ...] = ()


def request(method: str, target: str, *fields: str, body: bytes = b"", version: str = "1.1", host: str = "example.com") -> bytes:
    """A request of one connection."""
    lines = [f"{method} {target} HTTP/{version}", *([f"Host: {host}"] if host else []), *fields]
    return "\r\n".join([*lines, "", ""]).encode("latin-1") + body


def _http() -> list[Case]:
    cases: list[Case] = []

    def add(name: str, data: bytes, *methods: str) -> None:
        cases.append(Case(f"http {name}", (data,), methods or ("GET",)))

    for method in ("GET", "POST", "PUT", "DELETE", "PATCH", "OPTIONS", "PROPFIND", "HEAD"):
        add(f"{method} /echo", request(method, "/echo?a=b"), method)
    for method in ("get", "Post"):
        add(f"method {method}", request(method, "/echo"), method.upper())
    targets = {
        "plain": "/echo/a", "query": "/echo?x=1&y=2", "empty query": "/echo?", "two marks": "/echo?a?b", "percent": "/echo/%41%20b",
        "utf-8": "/echo/%C3%A4", "bad utf-8": "/echo/%FF", "slash": "/echo/a%2Fb", "plus": "/echo/a+b?c+d", "double slash": "/echo//b",
        "dots": "/echo/../b", "semicolon": "/echo;a=b", "colon": "/echo/a:b", "at": "/echo/@a", "query percent": "/echo?%C3%A4=%20",
        "absolute": "http://example.com/echo", "absolute port": "http://example.com:99/echo?a", "tilde": "/echo/~a", "root": "/",
        "encoded nul": "/echo/%00", "encoded percent": "/echo/%25", "lone percent": "/echo/%", "bad percent": "/echo/%zz", "star": "*",
        "brackets": "/echo/[a]", "pipe": "/echo?a|b", "quote": '/echo?"a"', "backslash": "/echo\\a", "long": "/echo/" + "a" * 2000,
    }  # fmt: skip
    for name, target in targets.items():
        method = "OPTIONS" if target == "*" else "GET"
        add(f"target {name}", request(method, target), method)
    fields = {
        "one": ["X-A: 1"], "two of one name": ["X-A: 1", "X-B: 2", "X-A: 3"], "cookies": ["Cookie: a=1", "Cookie: b=2"], "empty": ["X-A:"],
        "blanks": ["X-A:   b   "], "tab": ["X-A:\tb\tc"], "underscore": ["X_A: 1", "X-B: 2"], "latin-1": ["X-A: \xe4"],
        "upper": ["X-ABC: D"],
        "user agent": ["User-Agent: test/1.0 (a; b)"], "accept": ["Accept: */*", "Accept-Language: de,en;q=0.5"],
        "many": [f"X-{n}: {n}" for n in range(50)],
        "long value": ["X-A: " + "b" * 4000], "referer": ["Referer: http://a/b?c"], "authorization": ["Authorization: Basic YTpi"],
        "root path": ["Daphne-Root-Path: /mounted"], "root path encoded": ["Daphne-Root-Path: /a%20b"],
        "expect": ["X-A: 1", "Expect: 200-ok"],
        "keep-alive": ["Connection: keep-alive"], "te": ["TE: trailers"], "x-forwarded-for": ["X-Forwarded-For: 1.2.3.4"],
        "range": ["Range: bytes=0-5"],
        "if-none-match": ['If-None-Match: "a"'], "upgrade h2c": ["Connection: Upgrade", "Upgrade: h2c"],
        "upgrade other": ["Connection: Upgrade", "Upgrade: foo"],
    }  # fmt: skip
    for name, lines in fields.items():
        add(f"fields {name}", request("GET", "/echo", *lines))
    for size in (0, 1, 100, 5000, 70000):
        body = b"b" * size
        add(f"body of {size}", request("POST", "/echo", f"Content-Length: {size}", body=body), "POST")
    for kind in ("application/x-www-form-urlencoded", "application/json", "text/plain", "multipart/form-data; boundary=x"):
        body = b'--x\r\nContent-Disposition: form-data; name="a"\r\n\r\nb\r\n--x--\r\n' if "multipart" in kind else b"a=b&c=%20"
        add(f"body {kind}", request("POST", "/echo", f"Content-Type: {kind}", f"Content-Length: {len(body)}", body=body), "POST")
    add("body put", request("PUT", "/echo", "Content-Length: 3", body=b"put"), "PUT")
    add("body of GET", request("GET", "/echo", "Content-Length: 3", body=b"get"))
    add("body chunked", request("POST", "/echo", "Transfer-Encoding: chunked", body=b"3\r\nabc\r\n2\r\nde\r\n0\r\n\r\n"), "POST")
    add("body chunked upper", request("POST", "/echo", "Transfer-Encoding: chunked", body=b"A\r\n0123456789\r\n0\r\n\r\n"), "POST")
    add("body chunk extension", request("POST", "/echo", "Transfer-Encoding: chunked", body=b"3;a=b\r\nabc\r\n0\r\n\r\n"), "POST")
    for status in (100, 200, 201, 202, 204, 206, 301, 302, 304, 400, 401, 403, 404, 405, 409, 410, 418, 422, 429, 500, 501, 502, 503, 504):
        if status >= 200:
            add(f"status {status}", request("GET", f"/status/{status}"))
            add(f"status {status} of HEAD", request("HEAD", f"/status/{status}"), "HEAD")
    add("unknown status", request("GET", "/status/299"))
    for size in (0, 1, 1000, 100000):
        add(f"response of {size}", request("GET", f"/body/{size}"))
        add(f"response of {size} with a length", request("GET", f"/length/{size}"))
        add(f"response of {size} to HTTP/1.0", request("GET", f"/body/{size}", version="1.0"))
        add(f"response of {size} with a length to HTTP/1.0", request("GET", f"/length/{size}", version="1.0"))
    for number in (1, 2, 10):
        add(f"response of {number} messages", request("GET", f"/chunks/{number}"))
        add(f"response of {number} messages to HEAD", request("HEAD", f"/chunks/{number}"), "HEAD")
        add(f"response of {number} messages to HTTP/1.0", request("GET", f"/chunks/{number}", version="1.0"))
    for path in ("/headers", "/text", "/push", "/bad/status", "/bad/twice", "/close"):
        add(f"response {path}", request("GET", path))
    add("keep-alive of HTTP/1.0", request("GET", "/length/3", "Connection: keep-alive", version="1.0"))
    add("close", request("GET", "/length/3", "Connection: close"))
    add("close of chunks", request("GET", "/chunks/2", "Connection: close"))
    add("no host in HTTP/1.0", request("GET", "/echo", version="1.0", host=""))
    add("pipelined", request("GET", "/echo/1") + request("GET", "/echo/2") + request("HEAD", "/echo/3"), "GET", "GET", "HEAD")
    add("pipelined bodies", request("POST", "/echo/1", "Content-Length: 2", body=b"ab") + request("GET", "/length/1"), "POST", "GET")
    add("empty line before", b"\r\n" + request("GET", "/echo"))
    refused = {
        "no host": request("GET", "/echo", host=""), "two hosts": request("GET", "/echo", "Host: other"),
        "no version": b"GET /echo\r\n\r\n", "garbage": b"\x16\x03\x01\x00\x01\r\n\r\n",
        "bad version": request("GET", "/echo", version="3.0"),
        "no colon": request("GET", "/echo", "X-A"), "blank before colon": request("GET", "/echo", "X-A : 1"),
        "folded": request("GET", "/echo", "X-A: 1", " 2"), "bare LF": b"GET /echo HTTP/1.1\nHost: a\n\n",
        "two lengths": request("POST", "/echo", "Content-Length: 1", "Content-Length: 2", body=b"ab"),
        "length and chunks": request("POST", "/echo", "Content-Length: 3", "Transfer-Encoding: chunked", body=b"0\r\n\r\n"),
        "negative length": request("POST", "/echo", "Content-Length: -1"),
        "length of letters": request("POST", "/echo", "Content-Length: a"),
        "coding": request("POST", "/echo", "Transfer-Encoding: gzip, chunked", body=b"0\r\n\r\n"),
        "nul": request("GET", "/echo", "X-A: a\0b"),
        "path beyond ASCII": b"GET /\xe4 HTTP/1.1\r\nHost: a\r\n\r\n", "method": b"G@T /echo HTTP/1.1\r\nHost: a\r\n\r\n",
        "bad chunk": request("POST", "/echo", "Transfer-Encoding: chunked", body=b"x\r\n"),
        "many fields": request("GET", "/echo", *["A: b"] * 600),
        "long line": request("GET", "/" + "a" * 20000), "long field": request("GET", "/echo", "X-A: " + "a" * 20000),
        "fragment": request("GET", "/echo#a"), "HTTP/2 preface": b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n",
        "connect": request("CONNECT", "example.com:80"),
    }  # fmt: skip
    for name, data in refused.items():
        add(f"strict {name}", data)
    return cases


KEY = "dGhlIHNhbXBsZSBub25jZQ=="


def handshake(path: str, *fields: str, version: str = "13", key: str = KEY) -> bytes:
    """An opening handshake."""
    lines = ["Connection: Upgrade", "Upgrade: websocket", f"Sec-WebSocket-Version: {version}", f"Sec-WebSocket-Key: {key}", *fields]
    return request("GET", path, *lines)


def frame(opcode: int, payload: bytes = b"", *, fin: bool = True, masked: bool = True, rsv: int = 0) -> bytes:
    """A frame of a client; its mask is zero, so that its payload can be read."""
    length, mask = len(payload), 0x80 if masked else 0
    head = bytes([(0x80 if fin else 0) | rsv << 4 | opcode])
    if length < 126:
        head += bytes([mask | length])
    else:
        head += bytes([mask | 126]) + struct.pack("!H", length) if length < 65536 else bytes([mask | 127]) + struct.pack("!Q", length)
    return head + (bytes(4) if masked else b"") + payload


def close(code: int | None = 1000, reason: bytes = b"") -> bytes:
    """A close frame."""
    return frame(8, b"" if code is None else struct.pack("!H", code) + reason)


def _websockets() -> list[Case]:
    cases: list[Case] = []

    def add(name: str, *pieces: bytes) -> None:
        cases.append(Case(f"websocket {name}", pieces))

    for word in ("accept", "text=a", "bytes=a", "accept+text=a", "text=a+text=b", "unknown+accept", "both+accept", "text=+accept"):
        add(f"connect {word}", handshake(f"/ws/{word}"), close())
    for word in ("accept=no", "close", "close=4000", "unknown+accept=no"):
        add(f"reject {word}", handshake(f"/ws/{word}"))
    for word in ("accept+close", "accept+close=1000", "accept+close=3001", "accept+close=4999", "acceptclose=4000"):
        add(f"server closes {word}", handshake(f"/ws/{word}"), close(1000))
    add("server closes with a wrong code", handshake("/ws/accept+close=9"), close())
    for name, payload in {
        "empty": b"",
        "short": b"hello",
        "126": b"a" * 126,
        "70000": b"a" * 70000,
        "utf-8": "\xe4\u20ac".encode(),
    }.items():
        add(f"text {name}", handshake("/ws/accept"), frame(1, payload), close())
    for size in (1, 200):
        add(f"binary {size}", handshake("/ws/accept"), frame(2, b"\xff" * size), close())
    add("binary empty", handshake("/ws/accept"), frame(2), close())
    add("three messages", handshake("/ws/accept"), frame(1, b"1") + frame(1, b"2") + frame(2, b"3"), close())
    add("fragments", handshake("/ws/accept"), frame(1, b"he", fin=False) + frame(0, b"l", fin=False) + frame(0, b"lo"), close())
    add("fragments around a ping", handshake("/ws/accept"), frame(1, b"he", fin=False) + frame(9, b"p") + frame(0, b"llo"), close())
    add("ping", handshake("/ws/accept"), frame(9, b"abc"), close())
    add("ping without payload", handshake("/ws/accept"), frame(9), close())
    add("unsolicited pong", handshake("/ws/accept"), frame(10, b"x") + frame(1, b"a"), close())
    for code in (1000, 1001, 3000, 4000, 4999):
        add(f"client closes {code}", handshake("/ws/accept"), close(code))
    add("client closes with a reason", handshake("/ws/accept"), close(1000, b"bye"))
    add("client closes without a code", handshake("/ws/accept"), close(None))
    for text in ("", "1000", "4001"):
        add(f"asks for close {text}", handshake("/ws/accept"), frame(1, f"close{text}".encode()), close(1000))
    add("empty reply", handshake("/ws/accept"), frame(1, b"empty"), close())
    add("path and query", handshake("/ws/accept?a=b"), close())
    add("cookies", handshake("/ws/accept", "Cookie: a=1", "Cookie: b=2"), close())
    add("origin", handshake("/ws/accept", "Origin: http://example.com"), close())
    add("root path", handshake("/ws/accept", "Daphne-Root-Path: /mounted"), close())
    add("protocol that is not offered", handshake("/ws/accept", "Sec-WebSocket-Protocol: chat"), close())
    add("extension", handshake("/ws/accept", "Sec-WebSocket-Extensions: permessage-deflate"), close())
    add("version 8", handshake("/ws/accept", version="8"), close())
    add("version 99", handshake("/ws/accept", version="99"))
    add("bad key", handshake("/ws/accept", key="short"))
    add("post", handshake("/ws/accept").replace(b"GET", b"POST", 1))
    add("early frame", handshake("/ws/accept") + frame(1, b"early"), close())
    add("unmasked", handshake("/ws/accept"), frame(1, b"a", masked=False))
    add("reserved bit", handshake("/ws/accept"), frame(1, b"a", rsv=4))
    add("unknown opcode", handshake("/ws/accept"), frame(3, b"a"))
    add("bad utf-8", handshake("/ws/accept"), frame(1, b"\xff"))
    add("too large", handshake("/ws/accept"), frame(1, b"a" * (1024 * 1024 + 1)))
    return cases


CASES = [*_http(), *_websockets()]
