"""The structure of the package is what the documentation says: who imports whom, what stands at the top, how long functions are."""

from __future__ import annotations

import ast
import graphlib
import itertools
import re
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import pytest

ROOT = Path(__file__).resolve().parents[2]
PACKAGE = ROOT / "greendaphne"
TABLE = ROOT / "docs" / "design" / "packages.rst"
#: Modules that belong to no package of the table: the package itself, and what runs it.
OUTSIDE = {"__init__", "__main__"}
#: Lines that a function has at most, without a reason beside it.
LONGEST = 80
#: Why these functions are longer.
LONG_FOR_A_REASON = {
    "http2/fields.py:parse_request": "the rules of RFC 9113 section 8.3 in their order, on the path of each request",
    "websocket/connection.py:receive_until": "one loop, since each further frame on the stack costs each silent WebSocket memory",
}


class Module(NamedTuple):
    """A module of the package: its path, and the unit of the table that it belongs to."""

    path: Path
    name: str
    unit: str


def modules(package: Path = PACKAGE) -> Iterator[Module]:
    for path in sorted(package.rglob("*.py")):
        parts = path.relative_to(package.parent).with_suffix("").parts
        name = ".".join(parts[:-1] if parts[-1] == "__init__" else parts)
        yield Module(path, name, parts[1])


def imported(module: Module) -> Iterator[str]:
    """The names of the package's modules that ``module`` imports, wherever the import stands."""
    is_package = module.path.name == "__init__.py"
    base = module.name.split(".") if is_package else module.name.split(".")[:-1]
    for node in ast.walk(ast.parse(module.path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            start = base[: len(base) - node.level + 1] if node.level else []
            place = ".".join([*start, *([node.module] if node.module else [])])
            yield from (f"{place}.{alias.name}" for alias in node.names)


def table() -> dict[str, set[str]]:
    """The units of the documentation in their order, each with what it imports."""
    rows: dict[str, set[str]] = {}
    unit = ""
    for line in TABLE.read_text(encoding="utf-8").splitlines():
        names = re.findall(r"``([a-z0-9_]+)``", line)
        if line.startswith("``"):
            unit, *names = names
            rows[unit] = set()
            # What it is for may name things as well.
            names = re.findall(r"``([a-z0-9_]+)``", line[98:])
        elif not line.startswith(" " * 90):
            continue
        rows[unit] |= set(names)
    return rows


def real() -> dict[str, set[str]]:
    units = {module.unit for module in modules()} - OUTSIDE
    found: dict[str, set[str]] = {unit: set() for unit in units}
    for module in modules():
        if module.unit in OUTSIDE:
            continue
        for name in imported(module):
            parts = name.split(".")
            if parts[0] == "greendaphne" and len(parts) > 1 and parts[1] in units and parts[1] != module.unit:
                found[module.unit].add(parts[1])
    return found


def test_the_table_has_the_real_imports() -> None:
    assert table() == real()


def test_imports_go_in_one_direction() -> None:
    above: set[str] = set()
    for unit, imports in table().items():
        assert imports <= above, unit
        above.add(unit)


def around(name: str) -> Iterator[str]:
    """The packages that ``name`` belongs to, which an import of it executes."""
    while name := name.rpartition(".")[0]:
        yield name


def needs(module: Module, names: set[str]) -> Iterator[str]:
    """The modules among ``names`` that ``module`` imports; another name stands for the package whose ``__init__`` has it."""
    own = {module.name, *around(module.name)}
    for name in imported(module):
        target = name if name in names else name.rpartition(".")[0]
        if target in names and target != module.name:
            yield target
            yield from (package for package in around(target) if package not in own)


def circle(package: Path) -> str:
    """A circle of imports in ``package``, with a line for each import; empty where there is none."""
    names = {module.name for module in modules(package)}
    graph = {module.name: {*needs(module, names)} for module in modules(package)}
    try:
        graphlib.TopologicalSorter(graph).prepare()
    except graphlib.CycleError as error:
        found = error.args[1][::-1]
        return "\n".join(f"{one} imports {other}" for one, other in itertools.pairwise(found))
    return ""


def test_no_modules_import_each_other() -> None:
    """Imports for type checkers and those inside functions count.  What two modules need belongs in a third, or is a protocol class."""
    found = circle(PACKAGE)
    assert not found, f"a circle of imports:\n{found}"


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ("from .other import thing", "from . import one"),
        ("from typing import TYPE_CHECKING\nif TYPE_CHECKING:\n    from made.other import Thing", "import made.one"),
        ("def late():\n    from . import other", "from .one import late"),
        ("from . import CONSTANT", ""),
    ],
    ids=["plain", "type-checking", "late", "package"],
)
def test_a_circle_is_found(one: str, other: str, tmp_path: Path) -> None:
    package = tmp_path / "made"
    package.mkdir()
    (package / "__init__.py").write_text("" if other else "from .one import thing\nCONSTANT = 1\n")
    (package / "one.py").write_text(one)
    (package / "other.py").write_text(other)
    lines = (
        {"made imports made.one", "made.one imports made"} if not other else {"made.one imports made.other", "made.other imports made.one"}
    )
    assert {*circle(package).splitlines()} == lines


def test_what_stands_at_the_top_is_documented() -> None:
    """The top level holds what the documentation tells users to import or run."""
    documentation = "".join(path.read_text(encoding="utf-8") for path in [*ROOT.glob("*.rst"), *(ROOT / "docs").rglob("*.rst")])
    for path in PACKAGE.glob("*.py"):
        name = path.stem
        named = {
            "__init__": "greendaphne",
            "__main__": "-m greendaphne",
            "cli": "greendaphne",
            "apps": '"greendaphne"',
            "pytest_plugin": "pytest",
        }
        assert named.get(name, f"greendaphne.{name}") in documentation, name


def test_the_design_pages_name_files_that_exist() -> None:
    for page in (ROOT / "docs" / "design").glob("*.rst"):
        for name in re.findall(r"``([a-z0-9_/]+\.(?:py|rst|toml))``", page.read_text(encoding="utf-8")):
            assert (PACKAGE / name).exists() or (ROOT / name).exists() or (page.parent / name).exists(), (page.name, name)


def test_every_package_says_what_it_is_for() -> None:
    for path in PACKAGE.rglob("__init__.py"):
        assert ast.get_docstring(ast.parse(path.read_text(encoding="utf-8"))), path


def test_functions_are_short_or_have_a_reason() -> None:
    long = set()
    for module in modules():
        for node in ast.walk(ast.parse(module.path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef) and (node.end_lineno or 0) - node.lineno >= LONGEST:
                long.add(f"{module.path.relative_to(PACKAGE).as_posix()}:{node.name}")
    assert long <= LONG_FOR_A_REASON.keys()


def test_no_test_module_imports_another() -> None:
    for path in (ROOT / "tests").rglob("test_*.py"):
        module = Module(path, ".".join(path.relative_to(ROOT).with_suffix("").parts), "tests")
        for name in imported(module):
            assert not any(part.startswith("test_") for part in name.split(".")), (path, name)
