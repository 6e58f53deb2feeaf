"""The parts that applications of every interface use: connections, error answers, limits, proxies, local pages.

The package imports ``core``, ``net`` and the protocols (``http1``, ``http2``, ``websocket``); it knows no application.
"""
