"""WSGI applications (PEP 3333) in greenlets, with WebSockets as gevent-websocket gives them.

This package imports ``core``, ``serving``, ``websocket`` and ``applications.base``.
"""

from .application import WSGIApplication

__all__ = ["WSGIApplication"]
