"""Combines the metrics of all workers of a prefork server, so that any worker can answer a scrape.

Each worker serves its metrics on a UNIX socket in a directory that the master created.  The scraped worker collects the metrics of the
others and adds the label ``worker`` to all of them.  It omits and counts workers that do not answer in time.
"""

from __future__ import annotations

import json
import logging
import os
import re
from collections.abc import Callable, Iterable
from contextlib import suppress
from typing import Any, Final

import gevent
from gevent import socket
from gevent.pool import Pool
from gevent.server import StreamServer

from .families import Family, Sample, gauge

logger = logging.getLogger("greendaphne.monitoring")

#: Seconds for all other workers together to answer, and for a collecting worker to read.
PATIENCE: Final = 1.0
#: The largest answer, in bytes; a few hundred families take a tenth of that.
MAX_ANSWER: Final = 8 * 1024 * 1024
#: Workers that are served at the same time.
_CONCURRENT: Final = 16
_BACKLOG: Final = 64
_RECEIVE: Final = 64 * 1024
_NAME: Final = re.compile(r"metrics-(\d+)\.sock")


class Workers:
    """The exchange of metrics between this worker and the others.

    :param directory: the directory of the sockets.
    :param index: this worker's number.
    :param own: returns this worker's families.
    """

    def __init__(self, directory: str, index: int, own: Callable[[], list[Family]]) -> None:
        self._directory = directory
        self._index = index
        self._own = own
        self._path = os.path.join(directory, f"metrics-{index}.sock")
        self._server: StreamServer | None = None
        self._inode = 0
        self._collecting: gevent.Greenlet[..., list[Family]] | None = None

    def start(self) -> None:
        """Start to answer the other workers.

        :raises OSError: where the socket cannot be created.
        """
        # The socket gets its name after it listens, so that no other worker takes it for one of a dead process.
        temporary = f"{self._path}.{os.getpid()}"
        listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        try:
            listener.bind(temporary)
            os.chmod(temporary, 0o600)
            listener.listen(_BACKLOG)
            os.rename(temporary, self._path)
            self._inode = os.stat(self._path).st_ino
        except BaseException:
            listener.close()
            with suppress(OSError):
                os.unlink(temporary)
            raise
        self._server = StreamServer(listener, self._answer, spawn=Pool(_CONCURRENT))
        self._server.start()

    def stop(self) -> None:
        """Stop answering."""
        server, self._server = self._server, None
        if server is None:
            return
        server.stop(timeout=0)
        try:
            if os.stat(self._path).st_ino == self._inode:
                os.unlink(self._path)
        except OSError:
            pass  # the master has removed the directory

    def _answer(self, sock: socket.socket, address: Any) -> None:
        try:
            sock.settimeout(PATIENCE)
            sock.sendall(encode(self._own()))
        except OSError as error:
            logger.debug("Another worker did not take the metrics: %s", error)

    def families(self) -> list[Family]:
        """The families of all workers, with a label ``worker``.

        Calls during a collection get its result, so that no worker is asked twice at the same time.
        """
        collecting = self._collecting
        if collecting is None:
            collecting = self._collecting = gevent.spawn(self._collect)
        return collecting.get()

    def _collect(self) -> list[Family]:
        try:
            return self._of_all()
        finally:
            self._collecting = None

    def _of_all(self) -> list[Family]:
        others: dict[str, gevent.Greenlet[..., list[Family] | None]] = {}
        try:
            names = sorted(os.listdir(self._directory))
        except OSError:
            names = []
        for name in names:
            match = _NAME.fullmatch(name)
            if match is not None and int(match[1]) != self._index:
                others[match[1]] = gevent.spawn(_ask, os.path.join(self._directory, name))
        by_worker = {str(self._index): self._own()}
        gevent.joinall(list(others.values()), timeout=PATIENCE)
        missing = 0
        for worker, greenlet in others.items():
            if not greenlet.ready():
                greenlet.kill(block=False)
                missing += 1
            elif greenlet.value is None:
                missing += 1
            elif greenlet.value:
                by_worker[worker] = greenlet.value
        result = merge(by_worker)
        result.append(gauge("greendaphne_workers", "Workers whose metrics these are.", len(by_worker)))
        result.append(gauge("greendaphne_workers_missing", "Workers that did not answer in time and are left out.", missing))
        return result


def _ask(path: str) -> list[Family] | None:
    """The families of another worker; empty for one that has ended, ``None`` for one that does not answer."""
    try:
        with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as sock:
            try:
                sock.connect(path)
            except (ConnectionRefusedError, FileNotFoundError):
                return []
            data = bytearray()
            while part := sock.recv(_RECEIVE):
                data += part
                if len(data) > MAX_ANSWER:
                    return None
        return decode(bytes(data))
    except (OSError, ValueError) as error:
        logger.debug("The worker at %s does not answer with metrics: %s", path, error)
        return None


def encode(families: Iterable[Family]) -> bytes:
    """Serialise families for another process."""
    return json.dumps(list(families)).encode()


def decode(data: bytes) -> list[Family]:
    """The inverse of :func:`encode`.

    :raises ValueError: for invalid data.
    """
    try:
        return [Family(name, kind, text, [Sample(*sample) for sample in samples]) for name, kind, text, samples in json.loads(data)]
    except TypeError as error:
        raise ValueError(str(error)) from None


def merge(by_worker: dict[str, list[Family]]) -> list[Family]:
    """One family for each name, its samples labelled with their worker."""
    merged: dict[str, Family] = {}
    for worker, families in by_worker.items():
        for family in families:
            whole = merged.setdefault(family.name, family._replace(samples=[]))
            # During a rolling update two versions may use one name for different kinds.
            if whole.kind == family.kind:
                whole.samples.extend(sample._replace(labels={**sample.labels, "worker": worker}) for sample in family.samples)
    return list(merged.values())
