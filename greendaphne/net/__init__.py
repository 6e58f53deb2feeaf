"""Sockets: endpoints, listening, accepting, byte streams, TLS and PROXY headers.

The package imports ``core`` and ``config``; it knows no HTTP.
"""
