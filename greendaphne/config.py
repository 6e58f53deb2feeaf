"""Every limit and every time limit: its unit, its default and the reason for it.

Both classes are frozen and refuse unknown names.  Protocol code is handed these values, never the command line's options.
"""

from __future__ import annotations

from dataclasses import dataclass

KIB = 1024
MIB = 1024 * KIB
GIB = 1024 * MIB


@dataclass(frozen=True, slots=True)
class Limits:
    """Bounds on what a peer may make the server hold; bytes unless stated otherwise."""

    #: Request line without its CRLF; over it 414.  The bound of Apache httpd and gunicorn.
    request_line: int = 8190
    #: Number of fields in a header section; over it 431.  Browsers send about 20, proxies add a dozen.
    request_fields: int = 200
    #: One field line; over it 431.  Cookies reach 4 KiB each, Kerberos tickets 12 KiB.
    request_field_size: int = 16384
    #: The whole head; over it 431.  Also the bound of an HTTP/2 header list.
    request_head: int = 64 * KIB
    #: Request body; over it 413.  0 means none.
    request_body: int = 1 * GIB
    #: Bodies up to this size travel inside ``http.request``; larger ones through ``body_channel``.  0 means always inside.
    inline_body: int = 1 * MIB
    #: One message on a ``body_channel``.  The channel layer specification asks layers to take 1 MB "as JSON".
    body_chunk: int = 256 * KIB
    #: Bodies held in memory by the process; over it 503.
    buffered_bodies: int = 256 * MIB
    #: Bodies spooled to disk by the process; over it 503.
    spooled_bodies: int = 16 * GIB
    #: Replies waiting for one client that reads slowly; over it the client is dropped (WebSocket: 1013).
    reply_queue: int = 4 * MIB
    #: One WebSocket message; over it 1009.  0 means none.  A channel layer need not take more than 1 MB.
    websocket_message: int = 1 * MIB
    #: One WebSocket frame's payload; over it 1009.  0 means none.
    websocket_frame: int = 1 * MIB
    #: Connections at a time (a number); further ones wait in the listening socket's backlog.  0 means as many as file descriptors allow.
    connections: int = 0


@dataclass(frozen=True, slots=True)
class Timeouts:
    """Time limits in seconds."""

    #: ``-t``: from the request to the first reply, then between replies; 503, or the connection is aborted in mid-response.
    http: float = 120
    #: An idle connection between requests is closed; what daphne's HTTP library did.
    keep_alive: float = 60
    #: From the first byte of a head to its end, absolute so that a drip does not extend it; 408.
    header: float = 30
    #: Without a byte of the body; 408.  Also the window of ``body_rate``.
    body: float = 60
    #: Bytes a second that must come in over every ``body`` seconds of waiting for a body, whatever came before; 408.  Likewise, over every
    #: ``send`` seconds, what an HTTP/2 client must take of a response that waits for its window.
    body_rate: float = 256
    #: Without progress in sending; the connection is reset.
    send: float = 60
    #: After an early answer, for the peer to read it before the socket closes (RFC 9112 section 9.6).
    linger: float = 2
    #: From accept to the end of the TLS handshake; the connection is closed.
    tls_handshake: float = 10
    #: ``--websocket_connect_timeout``: for the application to accept; 403.  Negative means never.
    websocket_connect: float = 5
    #: ``--websocket_timeout``: the longest life of a WebSocket, closed with 1000.  Negative means never.
    websocket: float = 86400
    #: ``--ping-interval``: a WebSocket silent for longer is pinged.  0 means never.
    ping_interval: float = 20
    #: ``--ping-timeout``: for the answer to a ping; 1011 and the socket is closed.  0 means for ever.
    ping_timeout: float = 30
    #: ``--websocket-message-timeout``: from the first byte of a WebSocket message, or of a fragment sequence, to its last; 1008.
    #: Absolute so that a drip does not extend it; begins when the server waits for the client.  1 MiB in this time is 70 kbit/s, a mobile
    #: line of 2005.  0 means never.
    websocket_message: float = 120
    #: For the peer's half of the WebSocket closing handshake.
    websocket_close: float = 5
    #: ``--graceful-timeout``: for open requests after SIGTERM.
    graceful: float = 30
