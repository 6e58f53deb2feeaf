"""What a line of the access log costs, by its format: microseconds on the path of a request, without the writing.

``python -m benchmarks.access_log``.  The yardstick is the same line from an f-string that looks at nothing twice and escapes nothing.
"""

from __future__ import annotations

import timeit
from time import time
from types import SimpleNamespace
from typing import Any, Final

from greendaphne.core.message import ConnectionInfo, Request
from greendaphne.logs.access import AccessLog, compile_format

NUMBER: Final = 50_000
REPEAT: Final = 7
FIELDS: Final = [
    (b"host", b"example.com"),
    (b"user-agent", b"Mozilla/5.0 (X11; Linux x86_64; rv:120.0) Gecko/20100101 Firefox/120.0"),
    (b"accept", b"text/html,application/xhtml+xml"),
    (b"accept-language", b"en-US,en;q=0.5"),
    (b"accept-encoding", b"gzip, deflate, br"),
    (b"referer", b"https://example.com/articles"),
    (b"cookie", b"sessionid=" + b"x" * 64),
]
INFO: Final = ConnectionInfo("http", ["203.0.113.7", 54321], ["192.0.2.1", 80])
REQUEST: Final = Request("GET", b"/articles/7?page=2", b"/articles/7", b"page=2", "1.1", FIELDS, 0, b"", INFO)
STREAM: Any = SimpleNamespace(request=REQUEST, status=200, sent=4523, complete=True, response_headers=[])


def drop(line: str) -> None:
    """Take a line and forget it."""


def plain() -> None:
    """The yardstick."""
    client = STREAM.request.connection.client
    drop(f'{client[0]}:{client[1]} - - [{time()}] "{REQUEST.method} {REQUEST.target.decode("latin-1")}" {STREAM.status} {STREAM.sent}\n')


def main() -> None:
    """Measure and print."""
    print(f"{'f-string':10}{min(timeit.repeat(plain, number=NUMBER, repeat=REPEAT)) / NUMBER * 1e6:6.2f} µs")
    for name in "daphne", "common", "combined", "json":
        log = AccessLog(compile_format(name), drop)
        seconds = min(timeit.repeat(lambda log=log: log.completed(STREAM, 0.0123, ""), number=NUMBER, repeat=REPEAT))  # type: ignore[misc]
        print(f"{name:10}{seconds / NUMBER * 1e6:6.2f} µs")


if __name__ == "__main__":
    main()
