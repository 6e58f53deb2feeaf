"""A gevent protocol server for ASGI channel layers: HTTP/1.1, HTTP/2 and WebSocket on one port."""

__version__ = "1.0.0"

# Read by Django before 3.2.
default_app_config = "greendaphne.apps.GreendaphneConfig"
