"""Hello over HTTP/2."""

from __future__ import annotations

import re
import subprocess
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from typing import Final, NamedTuple

from . import candidates, environment
from .environment import BenchmarkError, bound_to
from .family import Family, Layout, Plan, Sample, Trial, cpu_us
from .results import Measure
from .servers import Command, Server, running

CONNECTIONS: Final = 8
WARM_UP: Final = 0.3
#: What Chromium sends with a navigation.
BROWSER: Final = (
    "user-agent: Mozilla/5.0 (X11; Linux x86_64) AppleWebKit/537.36 (KHTML, like Gecko) Chrome/126.0.0.0 Safari/537.36",
    "accept: text/html,application/xhtml+xml,application/xml;q=0.9,image/avif,image/webp,*/*;q=0.8",
    "accept-encoding: gzip, deflate, br, zstd",
    "accept-language: en-US,en;q=0.9",
    "cache-control: max-age=0",
    'sec-ch-ua: "Chromium";v="126", "Not.A/Brand";v="24"',
    "sec-ch-ua-mobile: ?0",
    'sec-ch-ua-platform: "Linux"',
    "sec-fetch-dest: document",
    "sec-fetch-mode: navigate",
    "sec-fetch-site: same-origin",
    "sec-fetch-user: ?1",
    "upgrade-insecure-requests: 1",
    "referer: https://localhost/a/page/before",
    "cookie: sessionid=abcdefghijklmnopqrstuvwxyz012345",
    "cookie: csrftoken=ABCDEFGHIJKLMNOPQRSTUVWXYZ012345",
    "priority: u=0, i",
    "dnt: 1",
    'if-none-match: "33a64df551425fcc55e4d42a148795d9"',
)


class _Case(NamedTuple):
    """Streams of each connection, and the fields beside the pseudo-header fields."""

    streams: int
    fields: tuple[str, ...]


_CASES: Final = {
    "1 stream, plain": _Case(1, ()),
    "32 streams, plain": _Case(32, ()),
    "1 stream, browser": _Case(1, BROWSER),
    "32 streams, browser": _Case(32, BROWSER),
}
_PLAIN: Final = tuple(name for name, case in _CASES.items() if not case.fields)
_SSL: Final = "ssl:{port}:privateKey={key}:certKey={cert}:interface=127.0.0.1"
_TCP: Final = "tcp:{port}:interface=127.0.0.1"
_GRANIAN: Final = ("--http", "2", "--no-ws")

_OVER_TLS: Final[dict[str, Callable[[], Command]]] = {
    candidates.LAYER: lambda: candidates.layer("-e", _SSL),
    candidates.STREAM: lambda: candidates.stream(_SSL),
    candidates.ASGI: lambda: candidates.asgi(candidates.HELLO, "-e", _SSL),
    candidates.GRANIAN: lambda: candidates.granian(candidates.HELLO, *_GRANIAN, "--ssl-certificate", "{cert}", "--ssl-keyfile", "{key}"),
    candidates.HYPERCORN: lambda: candidates.hypercorn(candidates.HELLO, "--certfile", "{cert}", "--keyfile", "{key}"),
    candidates.DAPHNE4: lambda: candidates.daphne4(candidates.HELLO, "-e", _SSL),
    candidates.DAPHNE1: lambda: candidates.daphne1("-e", _SSL),
}
_CLEARTEXT: Final[dict[str, Callable[[], Command]]] = {
    candidates.LAYER: lambda: candidates.layer("--http2-cleartext", "-e", _TCP),
    candidates.STREAM: lambda: candidates.stream(_TCP),
    candidates.ASGI: lambda: candidates.asgi(candidates.HELLO, "--http2-cleartext", "-e", _TCP),
    candidates.GRANIAN: lambda: candidates.granian(candidates.HELLO, *_GRANIAN),
    candidates.HYPERCORN: candidates.hypercorn,
}


class _Load(NamedTuple):
    """Requests that were answered, a second and in all."""

    rate: float
    requests: int


def _load(server: Server, scheme: str, case: _Case, seconds: float) -> _Load:
    """Make requests for ``seconds``."""
    line = [
        environment.tool("h2load", "nghttp2-client"),
        "-D",
        f"{round(1e3 * seconds)}ms",
        "-c",
        str(CONNECTIONS),
        "-m",
        str(case.streams),
    ]
    for header in case.fields:
        line += ["-H", header]
    with bound_to(environment.cores().client):
        done = subprocess.run(
            [*line, f"{scheme}://127.0.0.1:{server.port}/"], capture_output=True, text=True, check=False, timeout=seconds + 60
        )
    rate = re.search(r"finished in [^,]*, ([0-9.]+) req/s", done.stdout)
    answers = re.search(r"status codes: ([0-9]+) 2xx, ([0-9]+) 3xx, ([0-9]+) 4xx, ([0-9]+) 5xx", done.stdout)
    if rate is None or answers is None or not int(answers[1]) or any(map(int, answers.groups()[1:])):
        raise BenchmarkError(f"h2load: {(done.stdout + done.stderr).strip()[-300:]}")
    if "Application protocol: h2" not in done.stdout:
        raise BenchmarkError("h2load did not get HTTP/2")
    return _Load(float(rate[1]), int(answers[1]))


def _run(name: str, scheme: str, command: Callable[[], Command], cases: Sequence[str], plan: Plan) -> Iterator[tuple[str, Sample]]:
    with running(name, command()) as server:
        _load(server, scheme, _Case(1, ()), WARM_UP)
        for case in cases:
            before = server.cpu()
            load = _load(server, scheme, _CASES[case], plan.seconds)
            cpu = server.cpu() - before
            yield case, {"cpu_us": 1e6 * cpu / load.requests, "rate": load.rate}


def _trials(plan: Plan) -> list[Trial]:
    return [
        *(Trial("tls", name, tuple(_CASES), partial(_run, name, "https", command)) for name, command in _OVER_TLS.items()),
        *(Trial("cleartext", name, _PLAIN, partial(_run, name, "http", command)) for name, command in _CLEARTEXT.items()),
    ]


_MEASURES: Final = (cpu_us("request"), Measure("rate", "requests/s", 0, less_is_better=False))

FAMILY: Final = Family(
    "http2",
    "HTTP/2",
    f"h2load asks for 13 bytes over {CONNECTIONS} connections, with one or 32 streams each. Plain requests have few header fields, those "
    f"of a browser {len(BROWSER) + 2}. On the stream is the protocol with a trivial handler; the channel layer is the whole way to a "
    "consumer and back. granian, hypercorn and daphne 4 have no such layer.",
    (
        Layout("tls", "Hello over HTTP/2, TLS", _MEASURES),
        Layout("cleartext", "Hello over HTTP/2, cleartext with prior knowledge", _MEASURES),
    ),
    _trials,
)
