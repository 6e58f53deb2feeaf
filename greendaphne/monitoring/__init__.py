"""Sight: health, metrics and the watchdog.

``health`` answers health checks, ``families`` and ``metrics`` hold numbers, ``instruments`` does the counting, ``gauges`` reads a server's
state, ``workers`` gathers the numbers of all processes of a prefork server, ``exposition`` writes them for Prometheus, ``endpoint`` listens
for scrapes on a socket of their own, ``watchdog`` notices when the hub is blocked.  A server that was not asked for any of it imports
nothing from here.
"""

from __future__ import annotations
