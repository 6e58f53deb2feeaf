"""Two sites on one Redis with one prefix, which take each other's messages: the servers notice."""

from __future__ import annotations

import logging
import subprocess
import sys
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from greendaphne.applications.channels.site import SiteWatch, site_name
from greendaphne.layers.memory import MemoryChannelLayer
from greendaphne.layers.redis import RedisChannelLayer
from greendaphne.layers.redis.site import SITE_EXPIRY, site_key
from tests.support.monitoring import wait_until
from tests.support.redis_server import RedisServer, redis_server
from tests.support.server import serve


@pytest.fixture(scope="module")
def redis() -> Iterator[RedisServer]:
    with redis_server() as server:
        yield server


@pytest.fixture(autouse=True)
def _empty(redis: RedisServer) -> None:
    redis.client.flushall()


def site(redis: RedisServer, module: str, prefix: str = "asgi:") -> RedisChannelLayer:
    """The layer of a site whose consumers are in ``module``."""

    def consumer(message: Any) -> None:
        message.reply({"status": 200, "content": module.encode()})

    consumer.__module__ = module
    layer = RedisChannelLayer(hosts=[redis.url], prefix=prefix)
    routes: dict[str, Callable[[Any], object]] = {"http.request": consumer}
    layer.routes = routes
    return layer


def warnings(caplog: pytest.LogCaptureFixture) -> list[str]:
    return [record.getMessage() for record in caplog.records if record.getMessage().startswith("Another site")]


def test_a_second_site_is_told_of_the_first(redis: RedisServer, caplog: pytest.LogCaptureFixture) -> None:
    with serve(site(redis, "shop.consumers"), inline_workers=1):
        wait_until(lambda: redis.client.exists(site_key("asgi:")), "the name of the first site")
        with serve(site(redis, "shop.consumers"), inline_workers=1):
            pass
        assert warnings(caplog) == []
        with serve(site(redis, "blog.consumers", "blog:"), inline_workers=1):
            wait_until(lambda: redis.client.exists(site_key("blog:")), "the name of a site with a prefix of its own")
        assert warnings(caplog) == []
        with serve(site(redis, "blog.consumers"), inline_workers=1):
            wait_until(lambda: bool(warnings(caplog)), "a warning")
    (line,) = warnings(caplog)
    assert line.startswith("Another site (shop.consumers) uses the channel layer of this one (blog.consumers)")
    assert 0 < redis.client.ttl(site_key("asgi:")) <= SITE_EXPIRY


def test_a_look_keeps_the_name_and_says_one_thing_once(redis: RedisServer, caplog: pytest.LogCaptureFixture) -> None:
    first, second = site(redis, "a"), site(redis, "b")
    watch = SiteWatch(second)
    assert first.claim_site("a") is None
    redis.client.expire(site_key("asgi:"), 10)
    for _ in range(3):
        watch.look("b")
    assert len(warnings(caplog)) == 1
    assert redis.client.ttl(site_key("asgi:")) <= 10
    assert first.claim_site("a") is None
    assert redis.client.ttl(site_key("asgi:")) > 10
    redis.client.delete(site_key("asgi:"))
    assert second.claim_site("b") is None
    assert first.claim_site("a") == "b"
    first.close()
    second.close()


def test_a_redis_that_is_away_is_no_matter(caplog: pytest.LogCaptureFixture) -> None:
    layer = RedisChannelLayer(hosts=["redis://127.0.0.1:1/0"])
    SiteWatch(layer).look("a")
    assert [record for record in caplog.records if record.levelno >= logging.ERROR and record.name == "daphne.server"] == []


def test_a_layer_inside_the_process_has_nobody_else() -> None:
    watch = SiteWatch(MemoryChannelLayer())
    watch.start()
    watch.stop()
    assert site_name(MemoryChannelLayer()) == ""


@pytest.mark.skipif(sys.version_info >= (3, 12), reason="Django 2.2 and Channels 1 end with Python 3.11")
def test_sites_of_django_are_told_apart_by_their_secret_keys() -> None:
    code = """
import sys
from django.conf import settings
settings.configure(SECRET_KEY=sys.argv[1], ROOT_URLCONF="shop.urls")
from greendaphne.applications.channels.site import site_name
print(site_name(object()))
"""
    names = [
        subprocess.run([sys.executable, "-c", code, key], capture_output=True, text=True, check=True, timeout=60).stdout.strip()
        for key in ("staging", "production", "staging")
    ]
    assert names[0] == names[2] != names[1]
    assert all(name.startswith("shop.urls ") and "staging" not in name for name in names)
