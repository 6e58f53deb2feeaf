"""Monitoring: health checks, metrics and the watchdog.

``health`` answers health checks.  ``families`` and ``metrics`` hold numbers, ``instruments`` counts events, ``gauges`` reads a server's
state, and ``workers`` collects the numbers of all processes of a prefork server.  ``exposition`` writes them for Prometheus, ``endpoint``
listens for scrapes on a separate socket, and ``watchdog`` detects a blocked hub.  A server without monitoring imports none of these
modules.
"""

from __future__ import annotations
