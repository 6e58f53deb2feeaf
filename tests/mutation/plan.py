"""Which modules are mutated, and which tests concern each: those that are quick and near come first."""

from __future__ import annotations

from pathlib import Path

_HTTP1 = ("tests/http1", "tests/attacks/test_http1_attacks.py", "tests/serving/test_server.py")
_HTTP2 = ("tests/http2", "tests/attacks/test_http2_attacks.py")
_WEBSOCKET = ("tests/websocket", "tests/conformance/test_websocket_conformance.py", "tests/applications/channels/test_websocket_bridge.py")
_CHANNELS = ("tests/applications/channels", "tests/serving/test_server.py", "tests/serving/test_failures.py")
_REDIS = (
    "tests/layers/test_redis_layer.py",
    "tests/layers/test_redis_outages.py",
    "tests/layers/test_redis_stops.py",
    "tests/layers/test_redis_chaos.py",
)
_MEMORY = ("tests/layers/test_memory_layer.py", "tests/layers/test_memory_direct.py", "tests/conformance/test_memory_conformance.py")
_MEMORY_ALL = (*_MEMORY, "tests/layers/test_memory_counted.py", "tests/layers/test_reader.py")

#: The longest prefix of a module's path counts.
TESTS: dict[str, tuple[str, ...]] = {
    "greendaphne/core/": ("tests/core", *_HTTP1, "tests/http2", "tests/websocket", "tests/serving", "tests/applications"),
    "greendaphne/http1/": (*_HTTP1, "tests/serving", "tests/applications/channels"),
    "greendaphne/http2/": _HTTP2,
    "greendaphne/websocket/": _WEBSOCKET,
    "greendaphne/net/proxy_protocol.py": ("tests/net/test_proxy_protocol.py",),
    "greendaphne/net/urls.py": ("tests/net", "tests/layers/test_redis_layer.py"),
    "greendaphne/net/endpoints/": ("tests/net/test_endpoints.py", "tests/net/test_systemd_endpoints.py", "tests/net"),
    "greendaphne/net/tls/": ("tests/net",),
    "greendaphne/layers/": (*_MEMORY_ALL, *_REDIS, "tests/public"),
    "greendaphne/layers/memory.py": (*_MEMORY_ALL, *_CHANNELS),
    "greendaphne/layers/redis/": (*_REDIS, "tests/conformance/test_redis_reference.py"),
    "greendaphne/applications/channels/": _CHANNELS,
}


def tests_of(module: str) -> tuple[str, ...]:
    """The tests, in their order, of a module given by its path within the tree.

    :raises LookupError: the plan has no tests for it.
    """
    prefixes = [prefix for prefix in TESTS if module.startswith(prefix)]
    if not prefixes:
        raise LookupError(f"no tests are planned for {module}")
    return TESTS[max(prefixes, key=len)]


def modules(root: Path, only: str | None = None) -> list[str]:
    """The modules that are mutated, of the tree at ``root``; with ``only``, those in that folder, or that file."""
    paths = sorted(path.relative_to(root).as_posix() for path in (root / "greendaphne").rglob("*.py"))
    return [
        path
        for path in paths
        if path.startswith(tuple(TESTS)) and (only is None or path == only or path.startswith(only.rstrip("/") + "/"))
    ]
