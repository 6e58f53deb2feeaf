"""TLS: certificates, handshakes and the encrypted transport.

:func:`handshake` turns an accepted socket and the :class:`Contexts` of its endpoint into a :class:`TLSTransport`.  :func:`wrap` and the
endpoint kinds of :mod:`.endpoints` create contexts from files.  Protocol code uses the transport as a
:class:`greendaphne.net.byte_stream.ByteStream` and reads the negotiated parameters from ``alpn`` and ``info``.
"""

from __future__ import annotations

from .contexts import Contexts
from .devcert import development_certificate
from .files import FileContexts
from .handshake import HandshakeError, HandshakeFailed, HandshakeTimeout, PlainHTTP, handshake
from .options import ALPN, TLSOptions
from .pem import TLSError
from .sni import HostDirectory, ScannedDirectory
from .transport import TLSTransport

__all__ = [
    "ALPN",
    "Contexts",
    "FileContexts",
    "HandshakeError",
    "HandshakeFailed",
    "HandshakeTimeout",
    "HostDirectory",
    "PlainHTTP",
    "ScannedDirectory",
    "TLSError",
    "TLSOptions",
    "TLSTransport",
    "development_certificate",
    "handshake",
]
