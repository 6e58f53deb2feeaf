"""asgiref's conformance suite over asgi_redis 1.4.3 itself: what passes here is what the layer of this project is compared with."""

from __future__ import annotations

import re
import subprocess
from pathlib import Path

from tests.support import asgi_redis
from tests.support.redis_server import PATIENCE, redis_servers

SUITE = """
import sys, unittest
from asgi_redis import RedisChannelLayer
from asgiref import conformance

class Conformance(conformance.ConformanceTestCase):
    channel_layer = RedisChannelLayer(hosts=[sys.argv.pop()], expiry=1, group_expiry=1, capacity=5)
    expiry_delay = 1.1
    capacity_limit = 5

unittest.main()
"""


def test_asgi_redis_conforms(tmp_path: Path) -> None:
    (tmp_path / "suite.py").write_text(SUITE)
    with redis_servers(1) as (server,):
        command = [str(asgi_redis.interpreter()), "-W", "ignore", "suite.py", "Conformance", server.url]
        result = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, timeout=PATIENCE * 3, check=False)
    assert result.returncode == 0, result.stderr
    ran = re.search(r"^Ran ([0-9]+) tests", result.stderr, re.MULTILINE)
    assert ran is not None
    assert int(ran[1]) >= 17
    assert "skipped" not in result.stderr
