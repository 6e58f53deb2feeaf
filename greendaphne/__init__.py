"""A gevent protocol server for ASGI channel layers: HTTP/1.1, HTTP/2 and WebSocket on one port."""

__version__ = "1.0.0"
