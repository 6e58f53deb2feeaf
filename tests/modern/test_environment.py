"""The package beside asgiref 3, and without any asgiref: it is imported, and it serves."""

from __future__ import annotations

import importlib.metadata
import re
from pathlib import Path

from tests.support.scripts import ROOT, run_script

#: What no module may import here, as in an environment that has none of Channels.
WITHOUT_ASGIREF = """
    import sys
    sys.modules["asgiref"] = None
"""
SERVE = """
    import asyncio
    import gevent
    import httpx
    from greendaphne.layers.base import BaseChannelLayer
    from greendaphne.layers.memory import MemoryChannelLayer
    from greendaphne.layers.redis.core import CoreLayer
    from greendaphne.server import Server

    assert issubclass(MemoryChannelLayer, BaseChannelLayer) and issubclass(CoreLayer, BaseChannelLayer)
    assert BaseChannelLayer.__mro__[1:] == (object,)

    def consumer(message):
        message.reply({"status": 200, "content": b"served", "headers": []})

    layer = MemoryChannelLayer(capacity=2, channel_capacity={"x.*": 1})
    layer.send("x.y", {})
    try:
        layer.send("x.y", {})
    except BaseChannelLayer.ChannelFull:
        pass
    layer.routes = {"http.request": consumer}
    with Server(layer, endpoints=["tcp:port=0:interface=127.0.0.1"], inline_workers=1) as server:
        url = f"http://127.0.0.1:{server.listeners[0].getHost().port}/"
        print(httpx.get(url, trust_env=False, timeout=60).text)
"""


def test_this_is_asgiref_3() -> None:
    assert int(importlib.metadata.version("asgiref").partition(".")[0]) >= 3


def test_it_serves_beside_asgiref_3() -> None:
    assert run_script(SERVE) == "served"


def test_it_serves_without_asgiref() -> None:
    assert run_script(WITHOUT_ASGIREF + SERVE) == "served"


def test_every_module_can_be_imported() -> None:
    """But those for Channels 1."""
    names = []
    for path in sorted((ROOT / "greendaphne").rglob("*.py")):
        if path.stem not in ("__init__", "__main__") and not re.search(
            r"^(from|import) (channels|prometheus_client|acme|josepy)\b", path.read_text(), re.MULTILINE
        ):
            names.append(".".join(path.relative_to(ROOT).with_suffix("").parts))
    missing = [name for name in names if optional(ROOT.joinpath(*name.split(".")).with_suffix(".py"))]
    names = [name for name in names if name not in missing]
    assert len(names) > 100
    run_script(f"import importlib\nfor name in {names}: importlib.import_module(name)")


def optional(path: Path) -> bool:
    """Whether a module belongs to an extra that this environment does not have, or to Channels 1."""
    return path.parent.name in ("acme", "monitoring") or "channels" in path.read_text().split("import", 1)[-1].split("\n\n\n", 1)[0]
