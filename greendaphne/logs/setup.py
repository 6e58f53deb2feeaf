"""The logs of a process that the command runs in: ``logging`` set up by options, the access log, and files opened anew after a rotation.

Only the command does this: as a library the server never configures ``logging``.  The error log on standard error goes through a
:class:`~greendaphne.logs.sink.Sink`, as accesses do, so that a pipe which nobody reads cannot stop the service.  What the options say is
checked here, and what cannot be used is a :class:`LogError` of one line.
"""

from __future__ import annotations

import json
import logging
import os
import sys
from collections import deque
from collections.abc import Iterator
from io import StringIO
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any, Final

import gevent
from gevent import get_hub, getcurrent

from .access import AccessLog, AccessRecords, FormatError, compile_format
from .access.formats import COMMON, DAPHNE
from .access.log import LOGGER as ACCESS_LOGGER
from .formatters import JSONFormatter, SinkHandler, TextFormatter, descriptor
from .sink import GATHER, Report, Sink

if TYPE_CHECKING:
    from ..config import Logging

logger = logging.getLogger("daphne.server")

#: daphne's.
TEXT_FORMAT: Final = "%(asctime)-15s %(levelname)-8s %(message)s"
#: What ``--log-format`` may be besides a format string.
TEXT: Final = "text"
JSON: Final = "json"
#: By ``-v``.
LEVELS: Final = (logging.WARNING, logging.INFO, logging.DEBUG)
#: What ``--access-log`` may be besides a file: standard output, and the logger :data:`~greendaphne.access.log.LOGGER`.
STANDARD_OUTPUT: Final = "-"
LOGGING: Final = "logging:"

# Bytes that a file of --log-config has at most.
_MAX_CONFIG: Final = 1 << 20
# Of a log at level DEBUG; what comes before a crash waits no longer.
_GATHER: Final = 0.005


class LogError(ValueError):
    """Logs cannot be written as the options say; the text is one line that says why."""


class Logs:
    """What this process logs to.

    Making one sets up ``logging``, unless its root logger has handlers already.

    :param options: what the command logs, and where.
    :raises LogError: where the options cannot be followed.
    """

    def __init__(self, options: Logging) -> None:
        self._options = options
        self._handler: logging.Handler | None = None
        self._access: Sink | None = None
        # What the access log's thread has to tell: level and text.
        self._news: deque[tuple[int, str]] = deque()
        root = logging.getLogger()
        level = options.level.upper() if options.level is not None else LEVELS[min(max(options.verbosity, 0), 2)]
        if options.config is not None:
            if options.format is not None:
                raise LogError("--log-format has no meaning with --log-config, which has formats of its own.")
            use_config(options.config)
            if options.level is not None:
                root.setLevel(level)
        elif not root.handlers:
            handler = _error_handler()
            handler.setFormatter(formatter(options.format))
            root.addHandler(handler)
            root.setLevel(level)
            self._handler = handler

    def access(self) -> AccessLog | None:
        """What accesses are to be reported to; ``None`` where they are not logged.

        :raises LogError: where the format or the file cannot be used.
        """
        options = self._options
        target = options.access_log
        records = target == LOGGING or (not target and options.config is not None and logging.getLogger(ACCESS_LOGGER).handlers)
        try:
            # daphne's has no line for some, and there were no records before that must look the same.
            access_format = compile_format(options.access_log_format or (COMMON if records else DAPHNE))
        except FormatError as error:
            raise LogError(f"--access-log-format: {error}.") from None
        if records:
            return AccessRecords(access_format)
        if target and target != STANDARD_OUTPUT:
            try:
                self._access = Sink.open(target, "the access log", report=self._reporter(), gather=GATHER)
            except OSError as error:
                raise LogError(f"Cannot open the access log {target}: {error.strerror or error}.") from None
        elif target or options.verbosity >= 1:
            fd = descriptor(sys.stdout)
            if fd is None:
                if target:
                    raise LogError("Cannot write accesses to standard output: it is closed.")
                return None
            # So that what the application prints comes in its turn, as far as that is possible.
            sys.stdout.reconfigure(line_buffering=True)  # type: ignore[union-attr]
            self._access = Sink(fd, "the access log", report=self._reporter(), gather=GATHER)
        return None if self._access is None else AccessLog(access_format, self._access.write)

    def adopt_hub(self) -> None:
        """Have what gevent would print of greenlets that fail logged instead."""
        hub = get_hub()

        def print_exception(context: Any, kind: Any, error: Any, traceback: TracebackType | None = None) -> None:
            if isinstance(error, KeyboardInterrupt):
                # It ends the process, and is no failure of the greenlet that it came upon.
                return

            def log() -> None:
                logger.error("Error in %r", context, exc_info=(kind, error, traceback))

            # A handler may have to wait, which the hub must not.
            if getcurrent() is hub:
                gevent.spawn(log)
            else:
                log()

        hub.print_exception = print_exception  # type: ignore[method-assign,assignment]

    def reopen(self) -> None:
        """Open the access log's file and those of ``logging`` anew, after they were renamed."""
        logger.info("Opening log files anew")
        if self._access is not None:
            self._access.reopen()
        for handler in _file_handlers():
            try:
                reopen_file(handler)
            except OSError as error:
                logger.error("Cannot open the log %s anew: %s; it goes on where it went before", handler.baseFilename, error)

    def close(self) -> None:
        """Write what is left, for a moment at most; idempotent."""
        if self._access is not None:
            self._access.close()
            self._deliver()
        if self._handler is not None:
            self._handler.flush()

    def _reporter(self) -> Report:
        hub = get_hub()

        def report(text: str, over: bool) -> None:
            self._news.append((logging.WARNING if over else logging.ERROR, text))
            try:
                # Comes in any thread; handlers belong to this one, and may wait, which the hub must not.
                hub.loop.run_callback_threadsafe(gevent.spawn, self._deliver)
            except (AttributeError, ValueError):
                pass  # the hub is gone; close() tells what is left

        return report

    def _deliver(self) -> None:
        while self._news:
            level, text = self._news.popleft()
            logger.log(level, "%s", text)


def formatter(text: str | None) -> logging.Formatter:
    """What ``--log-format`` stands for.

    :raises LogError: for a format string that cannot be used.
    """
    if text == JSON:
        return JSONFormatter()
    if text is None or text == TEXT:
        return TextFormatter(TEXT_FORMAT)
    try:
        result = TextFormatter(text)
        result.format(logging.makeLogRecord({"msg": "", "exc_text": None}))
    except (ValueError, TypeError, KeyError) as error:
        raise LogError(f"--log-format must be {TEXT}, {JSON} or a format such as %(levelname)s %(message)s: {error}.") from None
    return result


def use_config(path: str) -> None:
    """Configure ``logging`` by a file: ``.json`` and ``.toml`` are what ``dictConfig`` takes, everything else what ``fileConfig`` reads.

    Loggers that exist already stay as they are unless the file names them.

    :raises LogError: where the file cannot be read or used.
    """
    try:
        with open(path, "rb") as file:
            content = file.read(_MAX_CONFIG + 1)
    except OSError as error:
        raise LogError(f"Cannot read --log-config {path}: {error.strerror or error}.") from None
    if len(content) > _MAX_CONFIG:
        raise LogError(f"--log-config {path} is larger than {_MAX_CONFIG} bytes.")
    try:
        suffix = Path(path).suffix.lower()
        if suffix == ".json":
            _use_dictionary(json.loads(content))
        elif suffix == ".toml":
            from ..core.toml import loads

            _use_dictionary(loads(content.decode()))
        else:
            # Only now: it imports a good deal.
            from logging.config import fileConfig

            fileConfig(StringIO(content.decode()), disable_existing_loggers=False)
    except LogError:
        raise
    except Exception as error:  # noqa: BLE001
        # Whatever a handler's constructor may raise.
        reasons = [str(each) or type(each).__name__ for each in _chain(error)]
        raise LogError(f"Cannot use --log-config {path}: {': '.join(reasons)}.".replace("\n", " ")) from None


def _use_dictionary(config: Any) -> None:
    if not isinstance(config, dict):
        raise LogError("--log-config must be an object whose keys are those of logging.config.dictConfig.")
    from logging.config import dictConfig

    dictConfig({"version": 1, "disable_existing_loggers": False, **config})


def _chain(error: BaseException | None) -> Iterator[BaseException]:
    while error is not None:
        yield error
        error = error.__cause__ or (None if error.__suppress_context__ else error.__context__)


def _error_handler() -> logging.Handler:
    fd = descriptor(sys.stderr)
    return logging.NullHandler() if fd is None else SinkHandler(Sink(fd, "the log", gather=_GATHER))


def _file_handlers() -> Iterator[logging.FileHandler]:
    """The handlers of all loggers that write to a file."""
    loggers = [logging.getLogger(), *logging.getLogger().manager.loggerDict.values()]
    seen = {id(handler): handler for each in loggers if isinstance(each, logging.Logger) for handler in each.handlers}
    for handler in seen.values():
        if isinstance(handler, logging.FileHandler):
            yield handler


def reopen_file(handler: logging.FileHandler) -> None:
    """Have a handler write to whatever file has its name now.

    :raises OSError: where that cannot be opened; the handler goes on with the file that it had.
    """
    handler.acquire()
    try:
        if handler.stream is None or _is_open(handler):
            return
        stream = handler._open()
        old, handler.stream = handler.stream, stream
        old.close()
    finally:
        handler.release()


def _is_open(handler: logging.FileHandler) -> bool:
    """Whether the file of that name is the one that is open; opening it with mode ``w`` would empty it."""
    try:
        assert handler.stream is not None  # it has just been looked at
        return os.path.samestat(os.fstat(handler.stream.fileno()), os.stat(handler.baseFilename))
    except OSError:
        return False
