"""Many certificates in one directory, chosen by the server name that the client sends (RFC 6066 section 3).

:class:`HostDirectory` finds ``<host>.pem`` by its file name, as ``txsni:`` does.  :class:`ScannedDirectory` reads every ``.pem`` file below
a directory and uses the names inside the certificates, as ``tls:`` does.  Both detect new, changed and removed files while they
serve.  A server name is untrusted input: only :func:`host_name` turns it into a file name.
"""

from __future__ import annotations

import logging
import os
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from time import monotonic

from cryptography import x509
from OpenSSL import SSL

from . import pem
from .contexts import CHECK_INTERVAL, Contexts
from .options import TLSOptions
from .pem import Credentials, PemObjects, Signature, TLSError

logger = logging.getLogger(__name__)

#: The name of the file, without ``.pem``, for clients that send no server name or an unknown one.
DEFAULT = "DEFAULT"

#: The longest host name (RFC 1035 section 2.3.4), in bytes.
_MAX_HOST_NAME = 253
#: RFC 1123 section 2.1, plus the underscore, which occurs in real host names.
_LABEL = re.compile(r"(?!-)[a-z0-9_-]{1,63}(?<!-)", re.ASCII)


def host_name(server_name: bytes | None) -> str | None:
    """``server_name`` in lower case if it is a host name, otherwise ``None``; safe as a file name, because no label is empty."""
    if not server_name:
        return None
    try:
        name = server_name.decode("ascii").lower()
    except UnicodeDecodeError:
        return None
    name = name.removesuffix(".")
    if len(name) > _MAX_HOST_NAME or not all(map(_LABEL.fullmatch, name.split("."))):
        return None
    return name


def _wildcard_parent(host: str) -> str:
    """The part after the first label, empty for a single label: ``*`` stands for exactly one label (RFC 9525 section 6.3)."""
    return host.partition(".")[2]


@dataclass(slots=True)
class _Entry:
    """A file of a :class:`HostDirectory` and its context."""

    seen: Signature
    checked: float
    context: SSL.Context | None
    certificate: x509.Certificate | None = None


class HostDirectory(Contexts):
    """Contexts from files named ``<host>.pem``, each with key, certificate and chain.

    The search goes from the name itself over ``*.<domain>.pem`` and ``_.<domain>.pem`` to ``DEFAULT.pem``; without any of them the
    handshake is refused.  An empty file counts as absent.  There are at most as many entries as files.

    :param directory: a leading ``~`` is expanded.
    """

    def __init__(self, directory: str, options: TLSOptions | None = None) -> None:
        super().__init__(options)
        self.directory = os.path.expanduser(directory)
        self._entries: dict[str, _Entry] = {}

    def select(self, server_name: bytes | None) -> SSL.Context | None:
        host = host_name(server_name)
        if host is not None:
            names = [host]
            if parent := _wildcard_parent(host):
                names += [f"*.{parent}", f"_.{parent}"]
            for name in names:
                if (context := self._context(name)) is not None:
                    return context
        context = self._context(DEFAULT)
        if context is None:
            self.pending_lines.append((logging.DEBUG, f"No certificate in {self.directory} for {host or 'clients without a server name'}"))
        return context

    def _context(self, name: str, forced: bool = False) -> SSL.Context | None:
        entry = self._entries.get(name)
        now = monotonic()
        if entry is not None and not forced and now < entry.checked + CHECK_INTERVAL:
            return entry.context
        path = self._path(name)
        seen = pem.signature(path)
        if seen is None or seen[1] == 0:
            self._entries.pop(name, None)
            return None
        if entry is None:
            entry = self._entries[name] = _Entry(seen, now, None)
        elif seen == entry.seen and not forced:
            entry.checked = now
            return entry.context
        entry.seen, entry.checked = seen, now
        try:
            file = pem.read(path, password=self.options.password)
            credentials = pem.assemble(file, file)
            entry.context, replaced = self.factory.with_certificate(credentials, path), entry.context
            entry.certificate = credentials.certificate
        except TLSError as error:
            kept = "" if entry.context is None else "; the previous certificate stays in service"
            self.pending_lines.append((logging.ERROR, f"{error}{kept}"))
        else:
            if replaced is not None:
                self.pending_lines.append((logging.INFO, f"Certificate reloaded from {path}"))
            self._queue_validity(credentials.certificate, path)
        return entry.context

    def _served(self) -> list[tuple[str, x509.Certificate]]:
        # Checks for changed files, as for a client.
        for name in list(self._entries):
            self._context(name)
        return [(self._path(name), entry.certificate) for name, entry in self._entries.items() if entry.certificate is not None]

    def _places(self) -> tuple[Sequence[str], Sequence[str]]:
        return (self.directory,), [self._path(name) for name in self._entries]

    def _path(self, name: str) -> str:
        return os.path.join(self.directory, name + ".pem")

    def _load(self) -> None:
        """Read every file to report broken ones at once; the server starts when at least one file is usable or empty."""
        usable = self._read_all()
        if not usable:
            raise TLSError(f"There is no .pem file in {self.directory}")
        if not any(usable):
            raise TLSError(f"There is no usable certificate in {self.directory}")

    def _read_all(self) -> list[bool]:
        """Read every file; returns for each whether it is usable or still empty."""
        names = [name.removesuffix(".pem") for name in _list(self.directory) if name.endswith(".pem")]
        usable = [self._context(name) is not None or name not in self._entries for name in names]
        self.write_lines()
        return usable

    def _refresh(self, forced: bool) -> None:
        # Entries check their files themselves on access.
        if forced:
            for name in list(self._entries):
                self._context(name, forced=True)


def _list(directory: str) -> list[str]:
    try:
        return sorted(os.listdir(directory))
    except (OSError, ValueError) as error:
        reason = error.strerror if isinstance(error, OSError) else str(error)
        raise TLSError(f"Cannot read the directory of certificates {directory}: {reason}") from None


def _pem_files(path: str) -> Iterator[str]:
    """The ``.pem`` files below ``path``, sorted within each directory; ``path`` itself if it is a file."""
    if os.path.isfile(path):
        yield path
        return
    _list(path)  # raises for an unreadable directory, which os.walk would skip without an error
    for directory, subdirectories, names in os.walk(path):
        subdirectories.sort()
        for name in sorted(names):
            if name.endswith(".pem"):
                yield os.path.join(directory, name)


class ScannedDirectory(Contexts):
    """Contexts from all keys and certificates in the ``.pem`` files below a directory; a key and its certificate may be in different files.

    A certificate serves its DNS names, wildcards included; of two certificates for a name, the one that expires later is used.  Clients
    without a server name, or with an unknown one, get the certificate in ``DEFAULT.pem``, or else the first.

    :param path: a directory or a single file; a leading ``~`` is expanded.
    """

    def __init__(self, path: str, options: TLSOptions | None = None) -> None:
        super().__init__(options)
        self.path = os.path.expanduser(path)
        self._seen: dict[str, Signature] = {}
        self._files: dict[str, PemObjects] = {}
        self._contexts: dict[Credentials, SSL.Context] = {}
        self._by_name: dict[str, SSL.Context] = {}
        self._default: SSL.Context | None = None

    def select(self, server_name: bytes | None) -> SSL.Context | None:
        host = host_name(server_name)
        if host is not None:
            context = self._by_name.get(host) or self._by_name.get("*." + _wildcard_parent(host))
            if context is not None:
                return context
        return self._default

    def _served(self) -> list[tuple[str, x509.Certificate]]:
        places = {certificate: path for path, file in self._files.items() for certificate in file.certificates}
        return [(places.get(credentials.certificate, self.path), credentials.certificate) for credentials in self._contexts]

    def _places(self) -> tuple[Sequence[str], Sequence[str]]:
        if os.path.isfile(self.path):
            return (), (self.path,)
        return sorted({self.path, *map(os.path.dirname, self._files)}), list(self._files)

    def _load(self) -> None:
        errors = self._read()
        for line in errors:
            logger.error("%s", line)
        errors = self._build()
        if not self._contexts:
            raise TLSError(errors[0] if errors else f"There is no private key with its certificate in {self.path}")
        for line in errors:
            logger.error("%s", line)

    def _refresh(self, forced: bool) -> None:
        try:
            seen = self._signatures()
        except TLSError as error:
            if self._seen:
                self._seen = {}
                logger.error("%s; the previous certificates stay in service", error)
            return
        if seen == self._seen and not forced:
            return
        previous = self._contexts, self._by_name, self._default
        errors = self._read(forced)
        # The options may have changed together with the factory, so no context is reused.
        if forced:
            self._contexts = {}
        errors += self._build()
        if not self._contexts:
            self._contexts, self._by_name, self._default = previous
            errors.append(f"There is no usable certificate in {self.path}")
        else:
            logger.info("Certificates reloaded from %s", self.path)
        for line in errors:
            logger.error("%s; the previous content stays in service", line)

    def _signatures(self) -> dict[str, Signature]:
        return {path: state for path in _pem_files(self.path) if (state := pem.signature(path)) is not None and state[1]}

    def _read(self, forced: bool = False) -> list[str]:
        """Read the changed files; a broken file keeps its previous content.  Returns one line per broken file."""
        errors = []
        seen = self._signatures()
        files: dict[str, PemObjects] = {}
        for path, state in seen.items():
            known = self._files.get(path)
            if known is not None and not forced and self._seen.get(path) == state:
                files[path] = known
                continue
            try:
                files[path] = pem.read(path, password=self.options.password)
            except TLSError as error:
                errors.append(str(error))
                if known is not None:
                    files[path] = known
        self._seen, self._files = seen, files
        return errors

    def _build(self) -> list[str]:
        """Create contexts from the files' contents; returns lines about unusable keys and certificates."""
        errors = []
        certificates = [(path, certificate) for path, file in self._files.items() for certificate in file.certificates]
        authorities = [certificate for _, certificate in certificates if _is_authority(certificate)]
        contexts: dict[Credentials, SSL.Context] = {}
        best: dict[str, Credentials] = {}
        default: Credentials | None = None
        for path, file in self._files.items():
            for key in file.keys:
                public = pem.public_bytes(key)
                matching = [(place, certificate) for place, certificate in certificates if pem.public_bytes(certificate) == public]
                if not matching:
                    errors.append(f"There is no certificate for the private key in {path}")
                    continue
                place, certificate = max(matching, key=lambda item: item[1].not_valid_after_utc)
                chain = pem.in_order(certificate, authorities, related_only=True)
                credentials = Credentials(key, certificate, chain)
                known = next((old for old in self._contexts if old[1:] == credentials[1:]), None)
                try:
                    context = self.factory.with_certificate(credentials, place) if known is None else self._contexts[known]
                except TLSError as error:
                    errors.append(str(error))
                    continue
                contexts[credentials] = context
                if known is None:
                    self._queue_validity(certificate, place)
                for name in pem.dns_names(certificate):
                    rival = best.get(name)
                    if rival is None or rival.certificate.not_valid_after_utc < certificate.not_valid_after_utc:
                        best[name] = credentials
                if default is None or os.path.basename(path) == f"{DEFAULT}.pem":
                    default = credentials
        self._contexts = contexts
        self._by_name = {name: contexts[credentials] for name, credentials in best.items()}
        self._default = None if default is None else contexts[default]
        return errors


def _is_authority(certificate: x509.Certificate) -> bool:
    try:
        return certificate.extensions.get_extension_for_class(x509.BasicConstraints).value.ca
    except pem.NO_EXTENSION:
        return False
