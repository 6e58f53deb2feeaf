"""The directory of certificates: its files, the stored state, and the lock that all processes share.

``<host>.pem`` holds key, certificate and chain, ``client.key`` is the account's key.  All other files are in the subdirectory ``.acme``,
readable only by the server's user: the lock, the state of each host and of the account, challenges.  Files are written to a temporary name,
synced and renamed, with mode 0600.  Only the process with :meth:`Store.lock` writes; the operator may write at any time.

Every method blocks while the file system does; the server calls them in a native thread.
"""

from __future__ import annotations

import fcntl
import json
import os
import stat
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field, fields
from typing import Any, Final, NamedTuple

from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat

from ..net.tls import pem
from ..net.tls.pem import PrivateKey, Signature, TLSError
from .names import SUFFIX, NameRefused, host_of_file
from .options import AcmeError

#: The account's key; txacme uses the same name.
ACCOUNT_KEY: Final = "client.key"
_PRIVATE: Final = ".acme"
_STATE: Final = "state.json"
_LOCK: Final = "lock"
_RENEW: Final = ".renew"
_NEW: Final = "new-"
#: Seconds after which a temporary file is abandoned, because no write takes that long.
_ABANDONED: Final = 3600.0

#: The largest file of state that is read, in bytes; ten thousand hosts need less.
_MAX_STATE: Final = 16 * 1024 * 1024


class Certificate(NamedTuple):
    """A certificate in service.  Times are seconds since the epoch."""

    certificate: x509.Certificate
    not_before: float
    not_after: float

    @property
    def serial(self) -> int:
        """Its serial number."""
        return self.certificate.serial_number


class Entry(NamedTuple):
    """One ``<host>.pem``.

    ``certificate`` is ``None`` for an empty file, and for an unusable one; then ``problem`` is the reason in one line.
    ``wanted`` is true where the operator has requested a replacement of the certificate (:meth:`Store.ask_for_renewal`).
    """

    host: str
    path: str
    signature: Signature | None
    certificate: Certificate | None = None
    problem: str | None = None
    wanted: bool = False


class Snapshot(NamedTuple):
    """The content of a directory: ``entries`` by host, and one line for each file name for which no certificate can be issued."""

    entries: dict[str, Entry]
    refused: dict[str, str]


@dataclass(slots=True)
class Record:
    """The stored state of a host or, under the empty name, of the authority; times are seconds since the epoch.

    ``authority`` is the directory URL of the authority that issued the certificate in service, empty for other certificates.  ``failed``
    is the file's signature at the last failure, so that touching the file triggers a retry.  ``begun`` is the start of an attempt that has
    not ended.  ``serial`` is the serial number of the certificate last obtained or asked about, ``suggested`` the authority's renewal time
    for it, ``ask_at`` the time to ask again.
    """

    authority: str = ""
    issued_at: float = 0.0
    failures: int = 0
    retry_at: float = 0.0
    reason: str = ""
    limited: bool = False
    failed: list[int] = field(default_factory=list)
    begun: float = 0.0
    challenge: str = ""
    serial: str = ""
    suggested: float | None = None
    ask_at: float = 0.0
    reported_at: float = 0.0

    @classmethod
    def from_json(cls, value: Any) -> Record:
        """Create a record from JSON; values of a wrong type are ignored."""
        record = cls()
        if isinstance(value, dict):
            for item in fields(cls):
                given, own = value.get(item.name), getattr(record, item.name)
                right = (int, float, type(None)) if own is None or isinstance(own, float) else (type(own),)
                if item.name in value and isinstance(given, right):
                    setattr(record, item.name, given if own is None or given is not None else own)
        return record


@dataclass(slots=True)
class State:
    """All stored state: ``account`` in the form of :mod:`.authority`, the records, and the directory URL of the authority that
    fills the directory, empty before the first issue.  ``ca`` is the absolute path of the PEM file trusted for HTTPS to the authority,
    empty for the system's.
    """

    account: dict[str, str] = field(default_factory=dict)
    records: dict[str, Record] = field(default_factory=dict)
    authority: str = ""
    ca: str = ""

    def of(self, host: str) -> Record:
        """The record of ``host``, created if missing."""
        return self.records.setdefault(host, Record())


class Store:
    """One directory.

    :param path: a leading ``~`` is expanded.
    """

    def __init__(self, path: str) -> None:
        self.path = os.path.abspath(os.path.expanduser(path))
        self.private = os.path.join(self.path, _PRIVATE)
        self._known: dict[str, Entry] = {}
        self._state_seen: Signature | None = None
        self._state = State()

    def check(self) -> str | None:
        """Create the directory if it is missing, and check its permissions.

        :returns: one line where the directory is read-only, so that no certificate can be issued; otherwise ``None``.
        :raises AcmeError: where the directory is unusable.
        """
        try:
            os.makedirs(self.path, mode=0o700, exist_ok=True)
            status = os.stat(self.path)
            os.listdir(self.path)
        except OSError as error:
            raise AcmeError(f"Cannot use the directory of certificates {self.path}: {error.strerror}") from None
        if status.st_mode & stat.S_IWOTH:
            raise AcmeError(f"Everyone can write to the directory of certificates {self.path}; remove that permission with chmod o-w")
        try:
            self.prepare()
        except AcmeError as error:
            return str(error)
        return None

    def prepare(self) -> None:
        """Create the private subdirectory if it is missing.

        :raises AcmeError: on failure, and where the subdirectory belongs to another user.
        """
        try:
            try:
                os.mkdir(self.private, 0o700)
            except FileExistsError:
                pass
            else:
                if os.geteuid() == 0:
                    self._give_away()
            status, owner = os.lstat(self.private), os.stat(self.path).st_uid
        except OSError as error:
            raise AcmeError(f"Cannot write to the directory of certificates {self.path}: {error.strerror}") from None
        if not stat.S_ISDIR(status.st_mode) or status.st_mode & 0o022 or status.st_uid not in (os.geteuid(), owner):
            raise AcmeError(f"{self.private} must be a directory that belongs to the server's user and that only this user can write to")
        if not os.access(self.path, os.W_OK | os.X_OK) or not os.access(self.private, os.W_OK | os.X_OK):
            raise AcmeError(f"Cannot write to the directory of certificates {self.path}: Permission denied")

    def _give_away(self) -> None:
        """Give the new private subdirectory the owner of the directory.

        An operator's command may create it as root before the server, which has dropped root's privileges, does.  The owner can replace
        files in the directory at any time, so root changes only the subdirectory that it has created.
        """
        owner = os.stat(self.path)
        descriptor = os.open(self.private, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC)
        try:
            if os.fstat(descriptor).st_uid == 0:
                os.fchown(descriptor, owner.st_uid, owner.st_gid)
        finally:
            os.close(descriptor)

    @contextmanager
    def lock(self) -> Iterator[bool]:
        """Hold the lock of the directory; yields ``False`` at once where another process has it.

        The kernel releases the lock when the process ends, also after SIGKILL.

        :raises AcmeError: where the directory cannot be written to.
        """
        self.prepare()
        path = os.path.join(self.private, _LOCK)
        try:
            descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)
        except OSError as error:
            raise AcmeError(f"Cannot open {path}: {error.strerror}") from None
        try:
            try:
                fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                yield False
                return
            except OSError as error:
                raise AcmeError(f"Cannot lock {path}: {error.strerror}") from None
            yield True
        finally:
            os.close(descriptor)

    def scan(self) -> Snapshot:
        """List all files; only changed ones are read.

        :raises AcmeError: where the directory cannot be read.
        """
        try:
            names = os.listdir(self.path)
        except OSError as error:
            raise AcmeError(f"Cannot read the directory of certificates {self.path}: {error.strerror}") from None
        wanted = self._wanted()
        entries: dict[str, Entry] = {}
        refused: dict[str, str] = {}
        for name in sorted(names):
            path = os.path.join(self.path, name)
            try:
                host = host_of_file(name)
            except NameRefused as error:
                # A file with content is served, or unrelated.  Report only empty files; they request a certificate.
                state = pem.signature(path)
                if state is not None and not state[1]:
                    refused[name] = f"{path!a}: {error}"
                continue
            if host is not None and not os.path.islink(path):
                entries[host] = self._look(host, path)._replace(wanted=host in wanted)
        self._known = entries
        return Snapshot(entries, refused)

    def _wanted(self) -> set[str]:
        try:
            return {name.removesuffix(_RENEW) for name in os.listdir(self.private) if name.endswith(_RENEW)}
        except OSError:
            return set()

    def _look(self, host: str, path: str) -> Entry:
        seen = pem.signature(path)
        known = self._known.get(host)
        # A problem may disappear without a change of the signature, for example by chmod.
        if known is not None and known.signature == seen and known.problem is None:
            return known
        if seen is None:
            return Entry(host, path, None, problem=f"{path} is not a file")
        if not seen[1]:
            return Entry(host, path, seen)
        try:
            file = pem.read(path)
            certificate = pem.assemble(file, file).certificate
        except TLSError as error:
            return Entry(host, path, seen, problem=str(error))
        times = certificate.not_valid_before_utc.timestamp(), certificate.not_valid_after_utc.timestamp()
        return Entry(host, path, seen, Certificate(certificate, *times))

    def exposed(self) -> list[str]:
        """The files with private keys that every user of the machine can read or write."""
        found = []
        for name in sorted(os.listdir(self.path)):
            if name == ACCOUNT_KEY or (name.endswith(SUFFIX) and not name.startswith(".")):
                try:
                    status = os.stat(os.path.join(self.path, name))
                except OSError:
                    continue
                if stat.S_ISREG(status.st_mode) and status.st_size and status.st_mode & 0o007:
                    found.append(os.path.join(self.path, name))
        return found

    def ensure(self, hosts: Sequence[str]) -> list[str]:
        """Create an empty file for every host without a file; returns those hosts.

        :raises AcmeError: where a file cannot be created.
        """
        made = []
        for host in hosts:
            path = os.path.join(self.path, host + SUFFIX)
            try:
                os.close(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600))
            except FileExistsError:
                continue
            except OSError as error:
                raise AcmeError(f"Cannot make {path}: {error.strerror}") from None
            made.append(host)
        return made

    def ask_for_renewal(self, host: str) -> None:
        """Make the server obtain a new certificate before it is due; the old one is served until then.

        :raises AcmeError: where the directory cannot be written to.
        """
        self.prepare()
        self.write(os.path.join(self.private, host + _RENEW), b"")

    def put(self, host: str, data: bytes) -> None:
        """Write a new ``<host>.pem`` and remove the operator's request for it.

        :raises AcmeError: where either fails; a request that stays would be fulfilled again and again.
        """
        self.write(os.path.join(self.path, host + SUFFIX), data)
        wish = os.path.join(self.private, host + _RENEW)
        try:
            os.unlink(wish)
        except FileNotFoundError:
            pass  # the operator had not requested a renewal
        except OSError as error:
            raise AcmeError(f"Cannot remove {wish}: {error.strerror}") from None

    def state(self) -> State:
        """The stored state; read again after another process has written it.

        State that could not be written is kept as long as this object lives.
        """
        path = os.path.join(self.private, _STATE)
        seen = pem.signature(path)
        if seen != self._state_seen:
            self._state = _read_state(path)
            self._state_seen = seen
        return self._state

    def save(self, state: State) -> None:
        """Store ``state``.

        :raises AcmeError: where it cannot be written.
        """
        records = {host: asdict(record) for host, record in state.records.items()}
        content = {"authority": state.authority, "ca": state.ca, "account": state.account, "records": records}
        path = os.path.join(self.private, _STATE)
        self.write(path, json.dumps(content, indent=1).encode())
        self._state, self._state_seen = state, pem.signature(path)

    def account_key(self, *, make: bool = True) -> PrivateKey:
        """The account's key, RSA or ECDSA; a new key is ECDSA on P-256.

        :param make: whether to create a missing key.
        :raises AcmeError: where the key is missing or unusable.
        """
        path = os.path.join(self.path, ACCOUNT_KEY)
        if not os.path.lexists(path):
            if not make:
                raise AcmeError(f"There is no account key {path}")
            key = ec.generate_private_key(ec.SECP256R1())
            self.write(path, private_bytes(key))
            return key
        try:
            keys = pem.read(path, "the account key").keys
        except TLSError as error:
            raise AcmeError(str(error)) from None
        if len(keys) != 1:
            raise AcmeError(f"There is no private key in {path}, or more than one; it is the account's key at the authority")
        return keys[0]

    def write(self, path: str, data: bytes) -> None:
        """Write ``data`` to the file ``path``, atomically and readable only by its owner.

        :raises AcmeError: where it cannot be written.
        """
        temporary = None
        try:
            # In the private directory, where no file counts as a certificate; mkstemp creates it with mode 0600.
            descriptor, temporary = tempfile.mkstemp(dir=self.private, prefix=_NEW)
            with open(descriptor, "wb") as file:
                file.write(data)
                file.flush()
                os.fsync(descriptor)
            os.replace(temporary, path)
            temporary = None
            # Sync the directory too, which contains the new name.
            directory = os.open(os.path.dirname(path), os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
            try:
                os.fsync(directory)
            finally:
                os.close(directory)
        except OSError as error:
            raise AcmeError(f"Cannot write {path}: {error.strerror}") from None
        finally:
            if temporary is not None:
                _remove(temporary)

    def clear(self) -> None:
        """Remove temporary files of killed processes, because they may contain private keys."""
        try:
            for name in os.listdir(self.private):
                path = os.path.join(self.private, name)
                if name.startswith(_NEW) and time.time() - os.stat(path).st_mtime > _ABANDONED:
                    _remove(path)
        except OSError:
            pass  # the next call tries again


def private_bytes(key: ec.EllipticCurvePrivateKey) -> bytes:
    """``key`` as unencrypted PEM."""
    return key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())


def _remove(path: str) -> None:
    try:
        os.unlink(path)
    except OSError:
        pass  # already removed, or impossible to remove


def _read_state(path: str) -> State:
    try:
        with open(path, "rb") as file:
            value = json.loads(file.read(_MAX_STATE))
    except (OSError, ValueError, RecursionError):
        value = None
    if not isinstance(value, dict):
        # The state is not essential: the certificates contain all necessary data.
        return State()
    authority, ca, account, records = (value.get(name) for name in ("authority", "ca", "account", "records"))
    return State(
        {str(name): str(text) for name, text in account.items()} if isinstance(account, dict) else {},
        {str(host): Record.from_json(record) for host, record in records.items()} if isinstance(records, dict) else {},
        authority if isinstance(authority, str) else "",
        ca if isinstance(ca, str) else "",
    )
