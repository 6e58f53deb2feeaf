"""The OpenSSL contexts of one endpoint, and the choice of the certificate.

A listening endpoint holds :class:`Contexts`.  Every connection starts on its *front* context, which has no certificate but owns the
session ticket keys.  When the ClientHello has the server name, OpenSSL asks :meth:`Contexts.select` for the context with the
certificate.  So certificates can be replaced at any time: open connections keep theirs, and clients can still resume their
sessions.  :mod:`.files` serves one certificate from given files; :mod:`.sni` serves many from a directory.

OpenSSL's callbacks must not switch greenlets, so they do not log.  They append lines to :attr:`Contexts.pending_lines`, and
:func:`.handshake.handshake` logs them afterwards.
"""

from __future__ import annotations

import _socket
import logging
import traceback
from abc import ABC, abstractmethod
from collections.abc import Sequence
from time import monotonic

from cryptography import x509
from OpenSSL import SSL

from .exposure import exposed
from .factory import ContextFactory
from .options import TLSOptions
from .pem import TLSError
from .validity import ValidityLog

logger = logging.getLogger(__name__)

#: Seconds after which the front context and its ticket keys are replaced, which limits the traffic that a stolen key can decrypt.
TICKET_KEY_LIFETIME = 12 * 60 * 60
#: Seconds between two checks of a file's modification time.
CHECK_INTERVAL = 1.0


class Contexts(ABC):
    """The certificates of one endpoint; only the hub's thread uses them.

    Call :meth:`load` first.  Before that, :meth:`configure` may replace ``options``.
    """

    #: The authority that issues certificates while the server runs, empty for none; see :mod:`greendaphne.acme`.
    authority = ""

    def __init__(self, options: TLSOptions | None = None) -> None:
        self.options = options or TLSOptions()
        #: Log lines from callbacks of OpenSSL, as (level, text).
        self.pending_lines: list[tuple[int, str]] = []
        #: Decides about log lines on expiring certificates; the endpoints of one server share it.
        self.validity = ValidityLog()
        self._factory: ContextFactory | None = None
        self._front: SSL.Context | None = None
        self._front_expires = 0.0
        self._check_after = 0.0

    def configure(self, options: TLSOptions) -> None:
        """Replace the options; :meth:`load` applies them."""
        self.options = options

    def load(self) -> None:
        """Read all files for the first time.

        :raises TLSError: where a file is missing or broken, or key and certificate do not match.
        """
        self._factory = self._make_factory()
        self._load()
        self._new_front()
        directories, files = self._places()
        if self.options.key_password_file is not None:
            files = [*files, self.options.key_password_file]
        for line in exposed(directories, files):
            logger.warning("%s", line)
        self.write_lines()

    def reload(self) -> None:
        """Read all files again.  Each broken file is logged with one ERROR line, and its previous content stays in service."""
        try:
            self._factory = self._make_factory()
        except TLSError as error:
            logger.error("%s; the previous one stays in service", error)
        self._refresh(forced=True)
        # The options may name another set of client authorities, which the front context contains too.
        self._new_front()
        self.write_lines()

    def front(self) -> SSL.Context:
        """The context for a new connection; checks for changed files at most once a second."""
        now = monotonic()
        if now >= self._check_after:
            self._check_after = now + CHECK_INTERVAL
            self._refresh(forced=False)
            if now >= self._front_expires:
                self._new_front()
            self.write_lines()
        if self._front is None:
            raise RuntimeError("load() was not called")
        return self._front

    def for_connection(self, sock: _socket.socket, deadline: float) -> SSL.Context:
        """The context for the connection ``sock``, which has unread input.

        :param deadline: the deadline of the handshake, on the monotonic clock.
        :raises TimeoutError: at the deadline.
        """
        return self.front()

    def write_lines(self) -> None:
        """Log the lines from callbacks."""
        while self.pending_lines:
            level, line = self.pending_lines.pop(0)
            logger.log(level, "%s", line)

    def certificates(self) -> list[tuple[str, x509.Certificate]]:
        """The certificates in service, each with its file; empty before :meth:`load`."""
        if self._front is None:
            return []
        # Reloads changed files, as for a connection.
        self.front()
        found = self._served()
        self.write_lines()
        return found

    def report_validity(self) -> list[x509.Certificate]:
        """Log the certificates that are about to expire or have expired, where a line is due; returns those in service."""
        found = self.certificates()
        for path, certificate in found:
            self._queue_validity(certificate, path)
        self.write_lines()
        return [certificate for _, certificate in found]

    def _queue_validity(self, certificate: x509.Certificate, path: str) -> None:
        """Queue the line that is due about the validity of ``certificate``, if any; safe within a callback."""
        if (line := self.validity.line(certificate, path)) is not None:
            self.pending_lines.append(line)

    def describe(self) -> str:
        """The protocols that clients can negotiate, for the start-up log: ``ALPN h2,http/1.1``."""
        return f"ALPN {','.join(self.options.alpn)}" if self.options.alpn else "no ALPN"

    @property
    def factory(self) -> ContextFactory:
        if self._factory is None:
            raise RuntimeError("load() was not called")
        return self._factory

    def _make_factory(self) -> ContextFactory:
        return ContextFactory(self.options)

    def _new_front(self) -> None:
        context = self.factory.bare()
        context.set_tlsext_servername_callback(self._on_client_hello)
        self._front = context
        self._front_expires = monotonic() + TICKET_KEY_LIFETIME

    def _on_client_hello(self, connection: SSL.Connection) -> None:
        # OpenSSL calls this for every ClientHello, with or without a server name.  pyOpenSSL would print an exception to stderr.  Without
        # a certificate OpenSSL refuses the handshake.
        try:
            context = self.select(connection.get_servername())
        except Exception:  # noqa: BLE001
            self.pending_lines.append((logging.ERROR, f"Cannot choose a certificate\n{traceback.format_exc().rstrip()}"))
            return
        if context is not None:
            connection.set_context(context)

    @abstractmethod
    def select(self, server_name: bytes | None) -> SSL.Context | None:
        """The context for a server name as the client sent it; ``None`` refuses the connection.  Must not switch greenlets."""

    def _served(self) -> list[tuple[str, x509.Certificate]]:
        """The result of :meth:`certificates`."""
        return []

    def _places(self) -> tuple[Sequence[str], Sequence[str]]:
        """Directories of which every ``.pem`` file is served, and single files that are read."""
        return (), ()

    @abstractmethod
    def _load(self) -> None:
        """Read all certificates; raises :class:`TLSError`."""

    @abstractmethod
    def _refresh(self, forced: bool) -> None:
        """Read the changed files, or all files where ``forced``; never raises."""
