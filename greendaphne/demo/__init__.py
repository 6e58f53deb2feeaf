"""The application of ``make run``: one page that shows a newcomer the server's features, without further libraries.

``greendaphne.demo:channel_layer`` is an in-memory channel layer whose ``routes`` name the consumers; ``--inline-workers`` runs them
inside the server.  ``pages`` renders, ``site`` answers HTTP, ``chat`` has the chat room; the page's files are package data below
``static`` and ``templates``.  All state is in the memory of this process and bounded.
"""

from __future__ import annotations

from ..layers.memory import MemoryChannelLayer
from .chat import Chat
from .site import Site


def new_layer(site: Site, chat: Chat) -> MemoryChannelLayer:
    """A channel layer whose messages go to ``site`` and ``chat``."""
    layer = MemoryChannelLayer()
    layer.tls_info = True
    layer.routes = {
        "http.request": site.request,
        "http.disconnect": site.disconnect,
        "websocket.connect": chat.connect,
        "websocket.receive": chat.receive,
        "websocket.disconnect": chat.disconnect,
    }
    return layer


channel_layer = new_layer(Site(), Chat())
