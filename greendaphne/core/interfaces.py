"""The names of the application interfaces, as ``--interface`` takes them."""

from __future__ import annotations

from typing import Final

CHANNELS: Final = "channels"
WSGI: Final = "wsgi"
ASGI3: Final = "asgi3"
ASGI2: Final = "asgi2"
#: The values of ``--interface`` other than ``auto``.
INTERFACES: Final = (CHANNELS, ASGI3, ASGI2, WSGI)
