"""The logs of the command's process: sets up ``logging`` by options, opens the access log, and reopens files after a rotation.

Only the command does this; as a library the server never configures ``logging``.  The error log on standard error goes through a
:class:`~greendaphne.logs.sink.Sink`, like the access log, so that a pipe without a reader cannot block the service.  This module
validates the options; an invalid one raises :class:`LogError` with one line.
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

from ..core.paths import resolve
from .access import AccessLog, AccessRecords, FormatError, compile_format
from .access.formats import COMMON, DAPHNE
from .access.log import LOGGER as ACCESS_LOGGER
from .formatters import JSONFormatter, SinkHandler, TextFormatter, descriptor
from .sink import GATHER, Report, Sink

if TYPE_CHECKING:
    from ..config import Logging

logger = logging.getLogger("daphne.server")

#: daphne's format.
TEXT_FORMAT: Final = "%(asctime)-15s %(levelname)-8s %(message)s"
#: The values of ``--log-format`` other than a format string.
TEXT: Final = "text"
JSON: Final = "json"
#: The level for each value of ``-v``.
LEVELS: Final = (logging.WARNING, logging.INFO, logging.DEBUG)
#: The values of ``--access-log`` other than a file: standard output, and the logger :data:`~greendaphne.logs.access.log.LOGGER`.
STANDARD_OUTPUT: Final = "-"
LOGGING: Final = "logging:"

# The largest file of --log-config, in bytes.
_MAX_CONFIG: Final = 1 << 20
# Seconds to gather lines of the log; short, so that few lines are lost in a crash.
_GATHER: Final = 0.005


class LogError(ValueError):
    """The options for logs are invalid; the text is one line with the reason."""


class Logs:
    """The logs of this process.

    The constructor sets up ``logging``, unless its root logger already has handlers.

    :param options: what to log, and where.
    :raises LogError: for invalid options.
    """

    def __init__(self, options: Logging) -> None:
        self._options = options
        self._handler: logging.Handler | None = None
        self._access: Sink | None = None
        # Reports of the access log's thread: level and text.
        self._news: deque[tuple[int, str]] = deque()
        root = logging.getLogger()
        level = options.level.upper() if options.level is not None else LEVELS[min(max(options.verbosity, 0), 2)]
        if options.config is not None:
            if options.format is not None:
                raise LogError("--log-format has no meaning with --log-config, whose file sets the formats.")
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
        """The observer that logs accesses; ``None`` where they are not logged.

        :raises LogError: for an invalid format or a file that cannot be opened.
        """
        options = self._options
        target = options.access_log
        records = target == LOGGING or (not target and options.config is not None and logging.getLogger(ACCESS_LOGGER).handlers)
        try:
            # Records use the common format by default, because daphne's has no line for some events and there is no older form to keep.
            access_format = compile_format(options.access_log_format or (COMMON if records else DAPHNE))
        except FormatError as error:
            raise LogError(f"--access-log-format: {error}.") from None
        if records:
            return AccessRecords(access_format)
        if target and target != STANDARD_OUTPUT:
            try:
                self._access = Sink.open(resolve(target), "the access log", report=self._reporter(), gather=GATHER)
            except OSError as error:
                raise LogError(f"Cannot open the access log {target}: {error.strerror or error}.") from None
        elif target or options.verbosity >= 1:
            fd = descriptor(sys.stdout)
            if fd is None:
                if target:
                    raise LogError("Cannot write accesses to standard output: it is closed.")
                return None
            # Keeps the application's output and the access log in order as far as possible.
            sys.stdout.reconfigure(line_buffering=True)  # type: ignore[union-attr]
            self._access = Sink(fd, "the access log", report=self._reporter(), gather=GATHER)
        return None if self._access is None else AccessLog(access_format, self._access.write)

    def adopt_hub(self) -> None:
        """Log the errors of failed greenlets, which gevent would print."""
        hub = get_hub()

        def print_exception(context: Any, kind: Any, error: Any, traceback: TracebackType | None = None) -> None:
            if isinstance(error, KeyboardInterrupt):
                # It ends the process; the greenlet that received it has not failed.
                return

            def log() -> None:
                logger.error("Error in %r", context, exc_info=(kind, error, traceback))

            # A handler may wait, which is not allowed in the hub.
            if getcurrent() is hub:
                gevent.spawn(log)
            else:
                log()

        hub.print_exception = print_exception  # type: ignore[method-assign,assignment]

    def reopen(self) -> None:
        """Reopen the access log's file and the files of ``logging`` after they were renamed."""
        logger.info("Reopening log files")
        if self._access is not None:
            self._access.reopen()
        for handler in _file_handlers():
            try:
                reopen_file(handler)
            except OSError as error:
                logger.error("Cannot reopen the log %s: %s; lines still go to the previous file", handler.baseFilename, error)

    def close(self) -> None:
        """Write the remaining lines, within a short time limit; idempotent."""
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
                # Called in any thread; handlers run in the hub's thread, in a greenlet because they may wait.
                hub.loop.run_callback_threadsafe(gevent.spawn, self._deliver)
            except (AttributeError, ValueError):
                pass  # the hub is gone; close() delivers the rest

        return report

    def _deliver(self) -> None:
        while self._news:
            level, text = self._news.popleft()
            logger.log(level, "%s", text)


def formatter(text: str | None) -> logging.Formatter:
    """The formatter for a value of ``--log-format``.

    :raises LogError: for an invalid format string.
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
    """Configure ``logging`` by a file: ``.json`` and ``.toml`` in the form of ``dictConfig``, any other in the form of ``fileConfig``.

    Existing loggers stay unchanged unless the file names them.

    :raises LogError: for a file that is unreadable or invalid.
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
            # Imported here, because it imports many modules.
            from logging.config import fileConfig

            fileConfig(StringIO(content.decode()), disable_existing_loggers=False)
    except LogError:
        raise
    except Exception as error:  # noqa: BLE001
        # Constructors of handlers may raise any exception.
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
    """Make a handler write to the file that now has its name.

    :raises OSError: where that file cannot be opened; the handler then keeps its old file.
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
    """Whether the open file is the one with the handler's name; opening it again with mode ``w`` would truncate it."""
    try:
        assert handler.stream is not None  # the caller has checked it
        return os.path.samestat(os.fstat(handler.stream.fileno()), os.stat(handler.baseFilename))
    except OSError:
        return False
