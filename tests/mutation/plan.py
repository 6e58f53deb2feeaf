"""Which modules are mutated, and which tests concern each: those that are quick and near come first."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

#: Tests that run together, in this order; pytest takes those of a folder in the order of their names.
Stage = tuple[str, ...]

# The applications that send without waiting, and ask for room.
_ASGI: Stage = ("tests/applications/asgi/test_http.py", "tests/applications/asgi/test_websocket.py")
# Requests whose reply takes a short way, what makes room for others, and what is counted.
_WHOLE: Stage = (
    "tests/applications/channels/test_attended.py",
    "tests/applications/channels/test_detached.py",
    "tests/serving/test_misuse.py",
    "tests/serving/test_overload.py",
    "tests/monitoring",
)
_HTTP1: tuple[Stage, ...] = (
    ("tests/http1", "tests/core/test_causes.py", "tests/core/test_grammar.py"),
    ("tests/websocket/test_websocket_handshake.py", "tests/attacks/test_http1_attacks.py", "tests/serving/test_server.py"),
    _ASGI,
    _WHOLE,
)
_HTTP2: tuple[Stage, ...] = (
    (
        "tests/http2/test_http2_streams.py",
        "tests/http2/test_http2_rfc9113.py",
        "tests/http2/test_http2_evictions.py",
        "tests/http2/test_http2_interim.py",
        "tests/http2/test_http2_offers.py",
        "tests/http2/test_http2_bookkeeping.py",
        "tests/http2/test_http2_frames.py",
    ),
    ("tests/http2/test_http2_server.py", "tests/http2/test_http2_model.py", "tests/http2/test_http2_compression.py"),
    ("tests/attacks/test_http2_attacks.py",),
    _ASGI,
    _WHOLE,
)
_WEBSOCKET: tuple[Stage, ...] = (
    (
        "tests/websocket/test_websocket_handshake.py",
        "tests/websocket/test_websocket_frames.py",
        "tests/websocket/test_keepalive.py",
        "tests/websocket/test_alarm.py",
        "tests/websocket/test_evictions.py",
        "tests/websocket/test_context_size.py",
        "tests/websocket/test_websocket_fuzz.py",
        "tests/websocket/test_slow_lines.py",
        "tests/websocket/test_websocket_connection.py",
    ),
    ("tests/conformance/test_websocket_conformance.py", "tests/applications/channels/test_websocket_bridge.py"),
)
_CHANNELS: Stage = ("tests/applications/channels", "tests/serving/test_server.py", "tests/serving/test_failures.py")
_SLOW_STOP = "tests/layers/test_redis_stops.py::test_workers_that_stop_and_are_killed_lose_nothing"
_REDIS: tuple[Stage, ...] = (
    (
        "tests/layers/test_layer_defaults.py",
        "tests/layers/test_sentinel_order.py",
        "tests/layers/test_redis_layer.py",
        "tests/layers/test_redis_pace_rules.py",
        "tests/layers/test_redis_pace.py",
        "tests/layers/test_redis_signals.py",
        "tests/layers/test_redis_together.py",
    ),
    ("tests/layers/test_redis_stops.py", f"--deselect={_SLOW_STOP}"),
    ("tests/layers/test_redis_chaos.py",),
    # Another layer hangs in the one that is left out.
    ("tests/layers/test_redis_outages.py", "--deselect=tests/layers/test_redis_outages.py::test_redis_hangs_under_asgi_redis"),
    (_SLOW_STOP,),
)
_MEMORY: Stage = (
    "tests/layers/test_layer_defaults.py",
    "tests/layers/test_memory_direct.py",
    "tests/layers/test_memory_counted.py",
    "tests/layers/test_reader.py",
    "tests/layers/test_reader_wakes.py",
    "tests/conformance/test_memory_conformance.py",
    "tests/layers/test_memory_layer.py",
)
# Slow, and about greendaphne.layers.values alone.
_WITHOUT_VALUES: Stage = tuple(
    f"--deselect=tests/layers/test_memory_layer.py::{test}"
    for test in ("test_size_bounds_messagepack", "test_copies_are_equal_and_share_no_container")
)

#: The stages of a module's tests, quick and near ones first; the longest prefix of its path counts.
TESTS: dict[str, tuple[Stage, ...]] = {
    "greendaphne/core/": (("tests/core",), *_HTTP1, ("tests/http2", "tests/websocket"), ("tests/serving", "tests/applications")),
    "greendaphne/core/converters.py": (
        ("tests/core/test_converters.py", "tests/settings/test_cli.py", "tests/settings/test_configuration.py"),
        ("tests/net", "tests/settings"),
    ),
    "greendaphne/http1/": _HTTP1,
    "greendaphne/http2/": _HTTP2,
    "greendaphne/websocket/": _WEBSOCKET,
    "greendaphne/net/proxy_protocol.py": (("tests/net/test_proxy_protocol.py",),),
    "greendaphne/net/urls.py": (("tests/net",), ("tests/layers/test_redis_layer.py",)),
    "greendaphne/net/endpoints/": (("tests/net/test_endpoints.py", "tests/net/test_systemd_endpoints.py"), ("tests/net",)),
    "greendaphne/net/tls/": (("tests/net",),),
    "greendaphne/layers/": ((*_MEMORY, *_WITHOUT_VALUES), ("tests/layers/test_redis_layer.py", "tests/public"), _CHANNELS),
    "greendaphne/layers/memory": ((*_MEMORY, *_WITHOUT_VALUES), _CHANNELS),
    "greendaphne/layers/values.py": (_MEMORY,),
    "greendaphne/layers/redis/": _REDIS,
    "greendaphne/applications/channels/": (_CHANNELS, ("tests/monitoring",)),
}


def tests_of(module: str) -> tuple[Stage, ...]:
    """The stages of the tests of a module given by its path within the tree.

    :raises LookupError: the plan has no tests for it.
    """
    prefixes = [prefix for prefix in TESTS if module.startswith(prefix)]
    if not prefixes:
        raise LookupError(f"no tests are planned for {module}")
    return TESTS[max(prefixes, key=len)]


def near_first(root: Path, module: str) -> tuple[Stage, ...]:
    """The stages of the tests of ``module``, with another one before the first: the files of this that are about the module.

    Such a file has the module's name in its own, or its text names the module.
    """
    first, *others = tests_of(module)
    path = Path(module)
    path = path.parent if path.stem == "__init__" else path.with_suffix("")
    dotted = ".".join(path.parts)
    options = [one for one in first if one.startswith("-")]
    near: list[str] = []
    far: list[str] = []
    for one in first:
        for file in sorted((root / one).rglob("test_*.py")) if (root / one).is_dir() else [root / one]:
            if file.is_file():
                is_near = path.name in file.stem or dotted in file.read_text(encoding="utf-8")
                (near if is_near else far).append(file.relative_to(root).as_posix())
    return *((*files, *options) for files in (near, far) if files), *others


def modules(root: Path, only: Sequence[str] | None = None) -> list[str]:
    """The modules that are mutated, of the tree at ``root``; with ``only``, those in these folders, and these files."""
    paths = sorted(path.relative_to(root).as_posix() for path in (root / "greendaphne").rglob("*.py"))
    return [
        path
        for path in paths
        if path.startswith(tuple(TESTS)) and (not only or any(path == one or path.startswith(one.rstrip("/") + "/") for one in only))
    ]
