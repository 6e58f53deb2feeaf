"""Notices changed source files, for ``--reload``.

A native thread of the master checks the files twice a second.  The master is not patched and has no event loop, so the thread tells it of
changes over a socket pair that the master's loop waits on.
"""

from __future__ import annotations

import os
import socket
import threading
from collections.abc import Iterator, Sequence
from fnmatch import fnmatch
from typing import Final

#: Seconds between two checks.  A check of 2000 files takes about 10 ms.
INTERVAL: Final = 0.5
#: The maximum number of files; the watcher ignores further ones, so that a wrong directory costs a bounded time.
MAX_FILES: Final = 20_000
#: Directories without source files of the application.
SKIPPED: Final = frozenset(("__pycache__", "node_modules", "site-packages"))


class Watcher:
    """Watches the files of some directories.

    :param directories: the directories, with all below them.  Hidden ones and virtual environments are skipped.
    :param include: patterns of file names, such as ``*.py``.
    :param exclude: patterns of file names or of paths relative to their directory; they count before ``include``.
    """

    def __init__(self, directories: Sequence[str], include: Sequence[str] = ("*.py",), exclude: Sequence[str] = ()) -> None:
        self._directories = [os.path.abspath(directory) for directory in directories]
        self._include = tuple(include)
        self._exclude = tuple(exclude)
        self._stop = threading.Event()
        self._ours, self._theirs = socket.socketpair()
        self._ours.setblocking(False)
        self._theirs.setblocking(False)
        self._thread = threading.Thread(target=self._run, name="greendaphne-reload", daemon=True)

    def fileno(self) -> int:
        """The descriptor that is readable once files have changed."""
        return self._ours.fileno()

    def start(self) -> None:
        """Begin to watch."""
        self._thread.start()

    def changed(self) -> list[str]:
        """Return the paths that have changed since the last call; does not wait."""
        try:
            text = self._ours.recv(1 << 16)
        except BlockingIOError:
            return []
        return [line for line in text.decode("utf-8", "surrogateescape").split("\n") if line]

    def close(self) -> None:
        """End the thread."""
        self._stop.set()
        if self._thread.is_alive():
            self._thread.join()
        self._ours.close()
        self._theirs.close()

    def _run(self) -> None:
        before = self._look()
        while not self._stop.wait(INTERVAL):
            now = self._look()
            changed = sorted(path for path in before.keys() | now.keys() if before.get(path) != now.get(path))
            before = now
            if changed:
                self._tell(changed)

    def _tell(self, changed: Sequence[str]) -> None:
        try:
            # A few names are enough for the log.
            self._theirs.send("".join(f"{path}\n" for path in changed[:10]).encode("utf-8", "surrogateescape"))
        except OSError:
            pass  # the master has not read the previous byte yet, or has ended

    def _look(self) -> dict[str, tuple[int, int]]:
        """Time of change and size of each file."""
        found: dict[str, tuple[int, int]] = {}
        for directory in self._directories:
            for path in self._files(directory):
                try:
                    status = os.stat(path)
                except OSError:
                    continue
                found[path] = status.st_mtime_ns, status.st_size
                if len(found) >= MAX_FILES:
                    return found
        return found

    def _files(self, top: str) -> Iterator[str]:
        for directory, names, files in os.walk(top):
            names[:] = [name for name in names if self._is_source(os.path.join(directory, name), name)]
            for name in files:
                if not any(fnmatch(name, pattern) for pattern in self._include):
                    continue
                path = os.path.join(directory, name)
                inside = os.path.relpath(path, top)
                if not any(fnmatch(name, pattern) or fnmatch(inside, pattern) for pattern in self._exclude):
                    yield path

    @staticmethod
    def _is_source(path: str, name: str) -> bool:
        return name not in SKIPPED and not name.startswith(".") and not os.path.exists(os.path.join(path, "pyvenv.cfg"))
