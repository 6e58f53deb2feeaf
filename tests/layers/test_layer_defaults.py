"""Defaults and bounds of the layers that no server has to be asked for."""

from __future__ import annotations

import inspect
import subprocess
import sys
import time
from collections.abc import Mapping

import pytest

from greendaphne.layers import LayerUnavailable
from greendaphne.layers.redis import RedisChannelLayer, RedisSentinelChannelLayer, wire

PATIENCE = 60.0


def defaults(layer: type) -> Mapping[str, object]:
    parameters = inspect.signature(layer).parameters
    return {name: parameter.default for name, parameter in parameters.items() if name not in ("hosts", "connection_kwargs")}


def test_a_message_may_have_been_stored_unless_it_is_said() -> None:
    assert LayerUnavailable("gone").maybe_stored
    assert LayerUnavailable().maybe_stored
    assert not LayerUnavailable("gone", maybe_stored=False).maybe_stored


def test_both_redis_layers_have_the_same_defaults() -> None:
    plain, sentinel = defaults(RedisChannelLayer), defaults(RedisSentinelChannelLayer)
    assert {name: sentinel[name] for name in plain if name in sentinel} == {name: plain[name] for name in plain if name in sentinel}
    # asgi_redis has the same, so that both find the other's messages.
    assert (plain["prefix"], plain["stats_prefix"]) == (sentinel["prefix"], sentinel["stats_prefix"]) == ("asgi:", "asgi-meta:")


def test_an_encrypted_message_outlives_its_expiry_by_ten_seconds() -> None:
    layer = RedisChannelLayer(expiry=60, symmetric_encryption_keys=["secret"])
    assert layer.crypter is not None
    fernet = wire.make_fernet("secret")
    body = wire.pack_message({"a": 1})
    # A slow machine makes a token older: the first has five seconds left, and the second is too old in any case.
    assert layer.deserialize(fernet.encrypt_at_time(body, int(time.time()) - 65)) == {"a": 1}
    with pytest.raises(ValueError, match="too old"):
        layer.deserialize(fernet.encrypt_at_time(body, int(time.time()) - 71))


def test_the_memory_layer_does_without_asgiref_s_base_class() -> None:
    """asgiref 2 and later have none."""
    code = """
import sys
sys.modules["asgiref.base_layer"] = None
from greendaphne.layers.memory import MemoryChannelLayer
layer = MemoryChannelLayer()
layer.send("a", {"b": 1})
assert layer.receive(["a"]) == ("a", {"b": 1})
try:
    layer.send("not a name", {})
except TypeError:
    pass
else:
    raise AssertionError("a bad name was taken")
"""
    subprocess.run([sys.executable, "-W", "error", "-c", code], check=True, timeout=PATIENCE)
