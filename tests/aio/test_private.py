"""The private names of CPython and gevent that the package uses: they are there, and they are listed."""

from __future__ import annotations

import ast
import importlib
import re
import sys
from collections.abc import Iterator, Mapping

import pytest

from greendaphne.aio import private
from greendaphne.aio.hub import AsyncioHub
from greendaphne.aio.loop import HubLoop
from greendaphne.aio.selector import HubSelector
from tests.support.scripts import ROOT, run_script

PACKAGE = ROOT / "greendaphne" / "aio"
TABLES: list[Mapping[str, tuple[str, ...]]] = [
    private.ASYNCIO,
    private.ASYNCIO_SINCE_3_14 if sys.version_info >= (3, 14) else private.ASYNCIO_BEFORE_3_14,
    private.SELECTORS,
    private.GEVENT,
]


@pytest.mark.parametrize(("module", "name"), [(module, name) for table in TABLES for module, names in table.items() for name in names])
def test_the_name_is_there(module: str, name: str) -> None:
    value: object = importlib.import_module(module)
    for part in name.split("."):
        if part.startswith("_") and "." in name and not hasattr(value, part):
            # A slot's or an instance's attribute.
            assert part in getattr(value, "__slots__", ()), name
            return
        value = getattr(value, part)


def test_the_attributes_are_there(hub: AsyncioHub, limit: None) -> None:
    loop = HubLoop()
    assert all(hasattr(loop, name) for name in private.LOOP_ATTRIBUTES)
    loop.close()
    selector = HubSelector()
    assert all(hasattr(selector, name) for name in private.SELECTOR_ATTRIBUTES)
    selector.close()


def test_nothing_is_missing() -> None:
    assert private.MISSING == []


def used() -> Iterator[tuple[str, str]]:
    """Private names that the modules use of other objects than their own ``self``, or that the superclasses give to ``self``."""
    for path in sorted(PACKAGE.glob("*.py")):
        tree = ast.parse(path.read_text())
        own = {node.attr for node in ast.walk(tree) if isinstance(node, ast.Attribute) and isinstance(node.ctx, ast.Store)}
        own |= {node.name for node in ast.walk(tree) if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)}
        # Public, in spite of the underscore.
        own.add("_replace")
        for node in ast.walk(tree):
            if isinstance(node, ast.Attribute) and re.match(r"_[a-z]", node.attr) and node.attr not in own:
                yield path.name, node.attr


def test_every_private_name_is_listed() -> None:
    listed = {name.rpartition(".")[2] for table in TABLES for names in table.values() for name in names}
    listed |= {*private.LOOP_ATTRIBUTES, *private.SELECTOR_ATTRIBUTES}
    assert {name for _, name in used()} <= listed


def test_gevent_has_an_upper_bound() -> None:
    """A new version may change what the tables list: the bound is raised when these tests have passed with it."""
    (bound,) = re.findall(r'"(gevent>=[^"]*)"', (ROOT / "pyproject.toml").read_text())
    assert re.fullmatch(r"gevent>=[\d.]+,<\d+", bound)


def test_python_has_an_upper_bound() -> None:
    assert re.search(r'^requires-python = ">=3\.10,<3\.15"$', (ROOT / "pyproject.toml").read_text(), re.MULTILINE)


def test_the_package_imports_gevent_and_the_standard_library_only() -> None:
    for path in PACKAGE.glob("*.py"):
        for node in ast.walk(ast.parse(path.read_text())):
            names = [alias.name for alias in node.names] if isinstance(node, ast.Import) else []
            if isinstance(node, ast.ImportFrom):
                assert node.level <= 1, path
                names = [] if node.level else [node.module or ""]
            for name in names:
                top = name.partition(".")[0]
                assert top in {"gevent", "_typeshed"} or top in sys.stdlib_module_names, (path, name)


def test_importing_makes_no_hub_and_no_loop() -> None:
    """So that a process can fork afterwards."""
    source = """
        import greendaphne.aio.hub, greendaphne.aio.loop, greendaphne.aio.selector, greendaphne.aio.tasks
        from gevent._hub_local import get_hub_if_exists
        import os
        print(get_hub_if_exists(), len(os.listdir("/proc/self/task")))
    """
    assert run_script(source, patched=False) == "None 1"
