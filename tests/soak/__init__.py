"""Long tests: clients that check every answer while servers are reloaded, restarted and ended under them.

``python -m tests.soak`` runs all of it (``make soak``); the test suite runs a few rounds of each.  ``sites`` has the channel layers with
their workers, ``application`` and ``routing`` the consumers of workers of this package and of Channels, ``answers`` what they answer,
``http1``, ``websockets`` and ``http2`` are the clients, ``load`` runs them and counts, ``managers`` are the ways to run a server, and
``scenarios`` what is done to it meanwhile.

What a failure is
-----------------

An answer that differs from what was to be expected, a connection that cannot be made, and a request whose connection ended before its
answer was complete, unless

* it ended while it was idle, which the client saw before it sent anything;
* the server had said ``Connection: close`` with the answer before;
* HTTP/2: the stream's number is above the last one that a GOAWAY named, or it was reset with REFUSED_STREAM: such a request has not been
  processed, and a client sends it again by itself;
* WebSocket: the server closed with 1012, upon which the client connects again.
"""
