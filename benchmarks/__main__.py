"""All benchmarks of this package against daphne 1.4.2, one after the other: ``python -m benchmarks [--quick] [--json FILE]``.

What is missing is installed first: daphne into an environment of its own below ``.cache``, wrk from Debian's packages.  Use
``python -m benchmarks.http1`` or ``python -m benchmarks.websocket_layer`` for one of them.
"""

from __future__ import annotations

from . import candidates, http1, websocket_layer
from .report import Figures, command


def _all(quick: bool) -> list[Figures]:
    servers = candidates.both()
    return [
        http1.measure(servers, http1.QUICK if quick else http1.FULL),
        *websocket_layer.measure(servers, websocket_layer.QUICK if quick else websocket_layer.FULL),
    ]


def main(argv: list[str] | None = None) -> int:
    """Entry point of ``python -m benchmarks``."""
    return command(argv, __doc__ or "", _all, candidates.versions)


if __name__ == "__main__":
    raise SystemExit(main())
