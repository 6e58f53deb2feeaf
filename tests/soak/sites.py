"""The sites that are served: one channel layer each, and where its workers run; and a WSGI and an ASGI application."""

from __future__ import annotations

import contextlib
import importlib.util
import signal
import sys
import tempfile
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from tests.support import asgi_redis
from tests.support.redis_server import redis_server

from .managers import ROOT, Process

#: Inline workers of each server, and what the external worker processes handle at a time.
CONCURRENCY = 8
#: Processes of external workers.
PROCESSES = 2
#: Options of every server here; no access log.
INLINE = ["--inline-workers", str(CONCURRENCY)]
APPLICATION = "tests.soak.application:channel_layer"
RUNWORKER = ("-m", "django", "runworker", "--threads", str(CONCURRENCY))


@dataclass
class Site:
    """What a server is started with, and the processes that work for it."""

    name: str
    application: str = APPLICATION
    #: The interpreter that runs the server.
    python: str = sys.executable
    #: Where the processes of the server leave files of their lifespan; ``None`` for applications without.
    notes: Path | None = None
    options: list[str] = field(default_factory=lambda: list(INLINE))
    environment: dict[str, str] = field(default_factory=dict)
    #: The command of an external worker, and the line that it logs once it works; none by default.
    command: Sequence[str] = ()
    ready: str = ""
    workers: list[Process] = field(default_factory=list)

    def start_worker(self) -> None:
        """Start one more external worker and wait until it works."""
        worker = Process(self.command, environment=self.environment)
        self.workers.append(worker)
        worker.find(self.ready)

    def restart_worker(self) -> int:
        """Start one more external worker, end the oldest one by SIGTERM, and return its exit code."""
        self.start_worker()
        worker = self.workers.pop(0)
        worker.send(signal.SIGTERM)
        try:
            return worker.wait()
        finally:
            worker.end()

    def end(self) -> None:
        """End all external workers."""
        for worker in self.workers:
            worker.end()


def lifespans(site: Site) -> tuple[set[str], set[str]]:
    """The numbers of the processes whose application has started, and those whose application has ended."""
    if site.notes is None:
        return set(), set()
    startup, shutdown = ({path.name.partition("-")[2] for path in site.notes.glob(f"{stage}-*")} for stage in ("startup", "shutdown"))
    return startup, shutdown


def _modern(package: str) -> str:
    """An interpreter that has ``package``: this one, or that of the environment with applications of today."""
    return sys.executable if importlib.util.find_spec(package) else str(ROOT / ".venv-modern" / "bin" / "python")


def _site(name: str, redis: str, notes: Path) -> Site:
    if name == "flask":
        return Site(name, "tests.soak.flask_site:app", _modern("flask"), options=["--wsgi"])
    if name == "starlette":
        environment = {"SOAK_NOTES": str(notes)}
        return Site(name, "tests.soak.starlette_site:app", _modern("starlette"), notes, options=["--asgi"], environment=environment)
    url = {"SOAK_REDIS": redis}
    django = {**url, "DJANGO_SETTINGS_MODULE": "tests.soak.settings"}
    if name == "memory":
        return Site(name)
    if name == "redis":
        return Site(name, environment=url)
    if name == "redis-channels":
        return Site(name, "tests.soak.project:channel_layer", environment=django)
    if name == "redis-workers":
        return Site(name, options=[], environment=url, command=[sys.executable, "-m", "tests.soak.worker"], ready="Listening on channels")
    if name == "redis-runworker":
        return Site(name, options=[], environment=django, command=[sys.executable, *RUNWORKER], ready="Listening on channels")
    backend = {"SOAK_BACKEND": "asgi_redis.RedisChannelLayer"}
    return Site(name, options=[], environment={**django, **backend}, command=asgi_redis.command(*RUNWORKER), ready="Listening on channels")


#: The names of the sites.
MEMORY, LEGACY = "memory", "legacy"
SITES = (MEMORY, "redis", "redis-channels", "redis-workers", "redis-runworker", LEGACY)
#: Those that serve an application, which needs another environment than Channels 1.
APPLICATIONS = ("flask", "starlette")
#: Those whose workers are processes of their own.
EXTERNAL = ("redis-workers", "redis-runworker", LEGACY)


@contextlib.contextmanager
def site(name: str) -> Iterator[Site]:
    """A site with its Redis and its external workers while the block runs."""
    with contextlib.ExitStack() as stack:
        redis = "" if name in (MEMORY, *APPLICATIONS) else stack.enter_context(redis_server()).url
        found = _site(name, redis, Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="soak-notes-"))))
        stack.callback(found.end)
        if found.command:
            for _ in range(PROCESSES):
                found.start_worker()
        yield found
