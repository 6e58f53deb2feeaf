"""PROXY headers as bytes."""

from __future__ import annotations

import ipaddress
import struct
from typing import Any

from greendaphne.net.proxy_protocol import (
    V2_SIGNATURE,
)

LOCAL, PROXY = 0x20, 0x21


CLIENT, SERVER = ["192.0.2.7", 4711], ["198.51.100.1", 443]


V1 = b"PROXY TCP4 192.0.2.7 198.51.100.1 4711 443\r\n"


def tlv(kind: int, value: bytes) -> bytes:
    return struct.pack("!BH", kind, len(value)) + value


def v2(client: list[Any], server: list[Any], tlvs: bytes = b"", command: int = PROXY, transport: int = 1) -> bytes:
    addresses = [ipaddress.ip_address(client[0]), ipaddress.ip_address(server[0])]
    family = {4: 1, 6: 2}[addresses[0].version]
    rest = addresses[0].packed + addresses[1].packed + struct.pack("!HH", client[1], server[1]) + tlvs
    return V2_SIGNATURE + struct.pack("!BBH", command, family << 4 | transport, len(rest)) + rest


V2 = v2(CLIENT, SERVER)
