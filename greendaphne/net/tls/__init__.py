"""TLS: certificates, handshakes and the encrypted transport.

:func:`handshake` makes a :class:`TLSTransport` of an accepted socket and the :class:`Contexts` of its endpoint; :func:`wrap` and the
endpoint kinds of :mod:`.endpoints` make those of files.  The protocol code above sees a
:class:`greendaphne.net.transport.ByteStream` and, in ``alpn`` and ``info``, what was negotiated.
"""

from __future__ import annotations

from .contexts import ALPN, Contexts, FileContexts, TLSOptions
from .devcert import development_certificate
from .handshake import HandshakeError, HandshakeFailed, HandshakeTimeout, PlainHTTP, handshake
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
