"""The effect of signals in each phase of a process: while it starts, while it serves, and while it ends.

==================  ==============================  ====================================================  =================
Signal              start (import) and end          serve                                                 drain
==================  ==============================  ====================================================  =================
SIGTERM, SIGINT     the process ends at once        drain                                                 end at once
SIGQUIT             the process ends at once        end at once                                           end at once
SIGHUP              nothing                         reload (a library in a terminal: as SIGTERM)          reload
SIGUSR1             nothing                         reopen log files                                      reopen log files
==================  ==============================  ====================================================  =================

:func:`ending` is for the phases without a server, :func:`handle_signals` for those with one.  Both mean the same in a process with number
1, for which the kernel ignores every signal that has its default action.

A greenlet that never yields prevents the hub from handling a signal.  So a native thread reads signals from the descriptor that the
interpreter's C handler writes to, and ends the process itself if the hub does not act on a second signal to end.
"""

from __future__ import annotations

import errno
import os
import signal
import sys
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any, Final

#: The shell adds the number of the signal to this for the exit code of a process that a signal ended.
SIGNALLED: Final = 128
#: Signals that ask the process to end.
ENDING: Final = frozenset((signal.SIGTERM, signal.SIGINT, signal.SIGQUIT))
#: Seconds for the hub to react to a signal that ends the process at once.
DEAF: Final = 1.0
#: Seconds for the process to end after the hub has reacted.
LAST_PATIENCE: Final = 15.0


def end_by(number: int) -> None:
    """End this process as the default action of signal ``number`` does; does not return."""
    signal.signal(number, signal.SIG_DFL)
    signal.pthread_sigmask(signal.SIG_UNBLOCK, {number})
    os.kill(os.getpid(), number)
    # The kernel ignores such a signal for the first process of a namespace.
    os._exit(SIGNALLED + number)


def _end(number: int, frame: object) -> None:
    """Handle a signal that ends the process."""
    end_by(number)


def _do_nothing(number: int, frame: object) -> None:
    """Handle a signal."""


@contextmanager
def ending() -> Iterator[None]:
    """Let SIGTERM and SIGQUIT end the process at once, and SIGHUP and SIGUSR1 do nothing, while the block runs.

    The system's default action for SIGTERM and SIGQUIT works at any time; only process 1 does not have it.  Programs that the block starts
    get the system's default action, which they would not with ``SIG_IGN``.  SIGINT raises :class:`KeyboardInterrupt` as usual.  A signal
    that is already ignored, for example by ``nohup``, stays ignored.
    """
    ends = dict.fromkeys((signal.SIGTERM, signal.SIGQUIT), _end) if os.getpid() == 1 else {}
    with _handlers({**ends, **dict.fromkeys((signal.SIGHUP, signal.SIGUSR1), _do_nothing)}):
        yield


def start_hub() -> None:
    """Start the hub's greenlet in this thread, and keep SIGINT back until it runs.

    gevent starts that greenlet when something waits for the first time.  A :class:`KeyboardInterrupt` in its first lines ends it for good:
    each wait from then on fails with ``InvalidSwitchError``, also those of ``atexit`` handlers and of the end of ``threading``.  Once the
    loop runs, it passes the exception on to the main greenlet and stays alive.
    """
    import gevent

    kept: list[int] = []

    def keep(number: int, frame: object) -> None:
        kept.append(number)

    with _handlers({signal.SIGINT: keep}):
        gevent.sleep(0)
    if kept:
        signal.raise_signal(signal.SIGINT)


@contextmanager
def _handlers(handlers: Mapping[signal.Signals, Callable[[int, object], None]]) -> Iterator[None]:
    try:
        previous = {number: signal.signal(number, handler) for number, handler in handlers.items() if _is_wanted(number)}
    except ValueError:
        # Signal handlers can only be set in the main thread.
        previous = {}
    try:
        yield
    finally:
        for number, action in previous.items():
            if action is not None:
                signal.signal(number, action)


def _is_wanted(number: int) -> bool:
    return signal.getsignal(number) is not signal.SIG_IGN


@contextmanager
def handle_signals(handlers: Mapping[signal.Signals, Callable[[], object]]) -> Iterator[None]:
    """Call each handler in a separate greenlet when its signal arrives, while the block runs; only in the main thread."""
    post = _Post(handlers)
    try:
        yield
    finally:
        post.close()


class _Post:
    """Passes signals to the hub of the calling thread, and ends the process if the hub does not react.

    The C handler of the interpreter writes the number of each signal into a pipe.  A native thread reads the pipe, so signals arrive also
    while the main thread is busy.
    """

    def __init__(self, handlers: Mapping[signal.Signals, Callable[[], object]]) -> None:
        from gevent import get_hub
        from gevent.monkey import get_original

        self._handlers = handlers
        self._loop: Any = get_hub().loop
        self._allocate_lock = get_original("_thread", "allocate_lock")
        self._pid = os.getpid()
        # The number of signals to end, and whether the hub has taken the last one.
        self._asked = 0
        self._closed = self._allocate_lock()
        self._closed.acquire()
        self._read, self._write = os.pipe()
        os.set_blocking(self._write, False)
        # The descriptor first: a signal between the two steps has its previous action, or reaches the hub.
        self._other = signal.set_wakeup_fd(self._write, warn_on_full_buffer=False)
        self._previous = {number: signal.signal(number, self._interpreter) for number in handlers}
        _posts.append(self)
        get_original("_thread", "start_new_thread")(self._run, ())

    def close(self) -> None:
        """Restore the previous signal handlers."""
        self._closed.release()
        _posts.remove(self)
        self._restore()
        # Ends the thread.
        os.close(self._write)

    def _restore(self) -> None:
        # The handlers first, because they set the descriptor again.
        for number, action in self._previous.items():
            # ``None`` stands for a handler that was not set from Python; the system's default replaces it.
            signal.signal(number, signal.SIG_DFL if action is None else action)
        current = signal.set_wakeup_fd(self._other)
        if current not in (self._write, self._other):
            signal.set_wakeup_fd(current)

    def forked(self) -> None:
        """In a child process: release its signals, which are not the parent's."""
        self._restore()
        signal.set_wakeup_fd(-1)

    def _interpreter(self, number: int, frame: object) -> None:
        """The handler that the interpreter calls later in the main thread."""
        current = signal.set_wakeup_fd(self._write, warn_on_full_buffer=False)
        if current != self._write:
            # Other code has replaced the descriptor, so the thread does not read this signal.
            self._other = current
            self._deliver(number)

    def _run(self) -> None:
        try:
            while data := os.read(self._read, 64):
                for number in data:
                    self._deliver(number)
                if self._other >= 0:
                    try:
                        os.write(self._other, data)
                    except OSError:
                        pass  # full or gone
        finally:
            os.close(self._read)

    def _deliver(self, number: int) -> None:
        handler = self._handlers.get(signal.Signals(number))
        if handler is None:
            return
        taken = self._allocate_lock()
        taken.acquire()
        if number in ENDING:
            self._asked += 1

        def take() -> None:
            import gevent

            taken.release()
            gevent.spawn(handler)

        try:
            self._loop.run_callback_threadsafe(take)
        except (AttributeError, ValueError):
            return  # the hub is gone
        if number in ENDING and (self._asked == 2 or number == signal.SIGQUIT):
            from gevent.monkey import get_original

            # In a separate thread, because this one still passes further signals to the hub.
            get_original("_thread", "start_new_thread")(self._insist, (number, taken))

    def _insist(self, number: int, taken: Any) -> None:
        """End the process if the hub does not."""
        if taken.acquire(True, DEAF):
            if self._closed.acquire(True, LAST_PATIENCE):
                self._closed.release()
                return
            reason = "The process has not ended"
        else:
            reason = "The hub does not react, because other code is running"
        if os.getpid() == self._pid:
            name = signal.Signals(number).name
            # Not through logging: the busy code may hold its locks.
            _tell(f"{reason}; {name} ends the process now\n")
            os._exit(SIGNALLED + number)


#: The open ones, for child processes.
_posts: list[_Post] = []


def _after_fork() -> None:
    for post in _posts:
        post.forked()
    _posts.clear()


os.register_at_fork(after_in_child=_after_fork)


def _tell(text: str) -> None:
    try:
        os.write(sys.__stderr__.fileno() if sys.__stderr__ is not None else 2, text.encode())
    except (OSError, ValueError):
        pass


def has_terminal() -> bool:
    """Whether this process belongs to a terminal; SIGHUP then means that the terminal was closed."""
    try:
        os.close(os.open("/dev/tty", os.O_RDWR | os.O_NOCTTY | os.O_CLOEXEC))
    except OSError as error:
        return error.errno == errno.EACCES
    return True


def reap_orphans() -> None:
    """In the first process of a namespace, make the hub of this thread reap processes that it did not start.

    The kernel makes process 1 their parent.  libev's handler of SIGCHLD waits for all children, so installing it is enough.
    """
    if os.getpid() == 1:
        from gevent import get_hub

        get_hub().loop.install_sigchld()
