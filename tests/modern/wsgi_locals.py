"""An application that tells what earlier requests have left: a context variable, a thread-local, threads that are registered."""

from __future__ import annotations

import threading
from contextvars import ContextVar
from typing import Any

variable: ContextVar[str] = ContextVar("variable", default="nothing")
storage = threading.local()


def app(environ: dict[str, Any], start_response: Any) -> list[bytes]:
    threads = sum(type(thread).__name__ == "_DummyThread" for thread in list(threading._active.values()))  # type: ignore[attr-defined]
    threading.current_thread()
    text = f"{variable.get()} {getattr(storage, 'value', 'nothing')} {min(threads, 2) or 1}"
    variable.set("left")
    storage.value = "left"
    start_response("200 OK", [("Content-Type", "text/plain")])
    return [text.encode()]
