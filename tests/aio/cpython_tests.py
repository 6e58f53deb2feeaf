"""Runs modules of CPython's own ``test.test_asyncio`` with HubLoop as the event loop, as a process of its own.

``python -m tests.aio.cpython_tests OUTPUT MODULE...`` writes the result to the file OUTPUT as JSON: ``{"run": 12, "skipped": 1, "loops": 5,
"failed": {name: traceback}}``, where ``loops`` counts the HubLoops made.  HubLoop takes the place of ``asyncio.SelectorEventLoop`` and of
the default policy's loop, so that the tests make one wherever they make a real loop.  Tests that make a ``BaseEventLoop`` with a mock for a
selector run as they are.
"""

from __future__ import annotations

import asyncio
import gc
import importlib
import json
import sys
import unittest
import warnings
from pathlib import Path
from typing import Any, cast

from greendaphne.aio.hub import install
from greendaphne.aio.loop import HubLoop


class Loop(HubLoop):
    """A HubLoop that is made with a selector, as the tests do, and waits in the hub all the same."""

    made = 0

    def __init__(self, selector: Any = None) -> None:
        Loop.made += 1
        if selector is not None:
            selector.close()
        super().__init__()


def substitute() -> None:
    """Make the loop the one that tests get."""
    module: Any = asyncio
    module.SelectorEventLoop = Loop
    module.EventLoop = Loop
    policy = cast(Any, asyncio.unix_events)
    for name in ("_UnixDefaultEventLoopPolicy", "_DefaultEventLoopPolicy"):
        if hasattr(policy, name):
            getattr(policy, name)._loop_factory = Loop


def short(name: str) -> str:
    return name.removeprefix("test.test_asyncio.")


class Result(unittest.TextTestResult):
    """Collects the garbage of each test, which is in cycles.

    ``test_start_tls`` may close its loop before the server's side has read the end of the connection.  A later test,
    ``test_unclosed_resource_warnings``, counts all warnings that a collection causes.
    """

    def stopTest(self, test: unittest.TestCase) -> None:  # noqa: N802 - the name is that of unittest
        with warnings.catch_warnings(record=True):
            gc.collect()
        super().stopTest(test)


def main(output: str, *modules: str) -> None:
    assert install()
    substitute()
    suite = unittest.TestSuite()
    for module in modules:
        suite.addTests(unittest.defaultTestLoader.loadTestsFromModule(importlib.import_module(f"test.test_asyncio.{module}")))
    result = unittest.TextTestRunner(verbosity=2, resultclass=cast(Any, Result)).run(suite)
    failed = {short(test.id()): text for test, text in [*result.failures, *result.errors]}
    failed.update({short(test.id()): "unexpected success" for test in result.unexpectedSuccesses})
    Path(output).write_text(json.dumps({"run": result.testsRun, "skipped": len(result.skipped), "loops": Loop.made, "failed": failed}))


if __name__ == "__main__":
    main(*sys.argv[1:])
