"""The close codes of RFC 6455 section 7.4 and IANA's registry, and the exceptions that carry them.

::

    geventwebsocket.exceptions.WebSocketError (an OSError)
    ├── WebSocketClosed         the WebSocket is over; what callers see
    └── ProtocolError
        └── ProtocolViolation   the peer broke the protocol; never leaves this package
"""

from __future__ import annotations

from geventwebsocket.exceptions import ProtocolError, WebSocketError  # type: ignore[import-untyped]

#: A close frame's payload without the code: 125 bytes less 2 (RFC 6455 section 5.5).
MAX_REASON = 123


def may_be_sent(code: int) -> bool:
    """Whether ``code`` may stand in a close frame.

    RFC 6455 section 7.4.1 defines 1000 to 1003 and 1007 to 1011, IANA's registry adds 1012 to 1014; 1004 is reserved, 1005, 1006 and 1015
    must not be sent.  Section 7.4.2 leaves 3000 to 4999 to libraries and applications and everything else undefined.
    """
    return 1000 <= code <= 1003 or 1007 <= code <= 1014 or 3000 <= code <= 4999


class WebSocketClosed(WebSocketError):  # type: ignore[misc]
    """The WebSocket is over.

    :param code: the peer's close code; 1005 where its close frame had none, 1006 where the connection was lost, and the code with which
        this side failed the connection after a violation.
    :param reason: the peer's reason, or a description of its violation.
    """

    def __init__(self, code: int, reason: str = "") -> None:
        super().__init__(code, reason)
        self.code = code
        self.reason = reason

    def __str__(self) -> str:
        return f"{self.code} {self.reason}".rstrip()


class ProtocolViolation(ProtocolError):  # type: ignore[misc]
    """The peer broke the protocol, and the connection must be failed (RFC 6455 section 7.1.7).

    :param code: the close code to send.
    :param reason: fixed text, at most :data:`MAX_REASON` bytes.
    """

    def __init__(self, code: int, reason: str) -> None:
        super().__init__(code, reason)
        self.code = code
        self.reason = reason
