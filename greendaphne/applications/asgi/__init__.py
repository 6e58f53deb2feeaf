"""ASGI applications, version 3 and 2, on an asyncio loop that shares the server's hub.

``application`` puts the parts together.  ``scope`` describes a request, ``http`` and ``websocket`` each hold one client's conversation,
``extensions`` does what goes beyond plain messages, ``lifespan`` tells the application of start and end, ``loops`` has the event loop,
``callables`` makes one kind of coroutine function of all kinds of applications.
"""

from .application import ASGIApplication

__all__ = ["ASGIApplication"]
