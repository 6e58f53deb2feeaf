"""Watches for another site that uses the same channel layer.

Two sites on one Redis with the same prefix take each other's messages, and each answers requests that the other's visitors made.  Where
the layer can tell (``claim_site``), the operator has one WARNING, and one an hour for as long as it lasts.
"""

from __future__ import annotations

import hashlib
import logging
import sys
from time import monotonic
from typing import Any, Final

import gevent

from ...layers import LayerUnavailable

logger = logging.getLogger("daphne.server")

#: Seconds between two looks; the layer keeps a name for several times as long.
LOOK: Final = 60.0
#: Seconds between two lines.
REPORT_INTERVAL: Final = 3600.0


def site_name(layer: Any) -> str:
    """A name for the site that ``layer`` serves: the same in all of its servers, and another one for another site, as far as can be told.

    A Django site is known by its settings and its secret key, of which the name has a short digest, so that staging and production of one
    project differ.  Another one is known by the modules of its consumers.  ``""`` where nothing is known.
    """
    conf = sys.modules.get("django.conf")
    if conf is not None and conf.settings.configured:
        settings = conf.settings
        digest = hashlib.sha256(b"greendaphne site\0" + str(settings.SECRET_KEY).encode()).hexdigest()[:8]
        return f"{getattr(settings, 'SETTINGS_MODULE', None) or settings.ROOT_URLCONF} {digest}"
    routes = getattr(layer, "routes", None) or {}
    return " ".join(sorted({str(getattr(consumer, "__module__", "")) for consumer in routes.values()})).strip()


class SiteWatch:
    """Looks now and then whether another site uses ``layer``; does nothing for a layer that cannot tell."""

    def __init__(self, layer: Any) -> None:
        self._layer = layer
        self._claim = getattr(layer, "claim_site", None)
        self._greenlet: gevent.Greenlet[..., None] | None = None
        self._reported: tuple[str, float] = ("", 0.0)

    def start(self) -> None:
        """Begin, in a greenlet of this thread's hub."""
        if self._claim is not None and (name := site_name(self._layer)):
            self._greenlet = gevent.spawn(self._run, name)

    def stop(self) -> None:
        """End; may be repeated."""
        greenlet, self._greenlet = self._greenlet, None
        if greenlet is not None:
            greenlet.kill()

    def _run(self, name: str) -> None:
        while True:
            self.look(name)
            gevent.sleep(LOOK)

    def look(self, name: str) -> None:
        """Look once, and log what is found."""
        assert self._claim is not None
        try:
            other = self._claim(name)
        except LayerUnavailable:
            return
        except Exception:
            # Nothing depends on it.
            logger.exception("Cannot tell whether another site uses the channel layer")
            return
        if other is None:
            return
        now = monotonic()
        last, at = self._reported
        if other != last or now >= at + REPORT_INTERVAL:
            self._reported = other, now
            logger.warning(
                "Another site (%s) uses the channel layer of this one (%s): they take each other's messages. Give each site a prefix of "
                "its own, or a database; see docs/redis.rst",
                other,
                name,
            )
