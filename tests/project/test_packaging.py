"""The package as it is installed: a wheel of the checkout has every module and every file that the server needs.

The other tests run on the checkout itself, where nothing can be missing.
"""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
import zipfile
from collections.abc import Iterator
from pathlib import Path

import pytest
import requests

from greendaphne import __version__
from greendaphne.core.toml import loads
from tests.support import legacy

PACKAGE = legacy.ROOT / "greendaphne"
#: Seconds for pip.
INSTALLATION = 120.0
#: What in a package's directory is not part of it.
NO_PART = ("__pycache__",)
#: What a wheel is made from besides the package.
SOURCES = ("LICENSE", "MANIFEST.in", "README.rst", "pyproject.toml", "setup.py")


def pip(*arguments: str, directory: Path) -> None:
    command = [sys.executable, "-m", "pip", "--quiet", "--disable-pip-version-check", "--no-input", *arguments]
    done = subprocess.run(command, cwd=directory, capture_output=True, text=True, timeout=INSTALLATION, check=False)
    assert done.returncode == 0, done.stderr


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A wheel, built from a copy so that no build directory appears in the checkout or is taken from it."""
    directory = tmp_path_factory.mktemp("wheel")
    source = directory / "source"
    shutil.copytree(PACKAGE, source / PACKAGE.name, ignore=shutil.ignore_patterns(*NO_PART))
    for name in SOURCES:
        shutil.copy(legacy.ROOT / name, source)
    pip("wheel", "--no-deps", "--wheel-dir", str(directory), str(source), directory=directory)
    (built,) = directory.glob("*.whl")
    return built


@pytest.fixture(scope="module")
def environment(wheel: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """Variables with which Python finds the installed package, ahead of the checkout."""
    target = tmp_path_factory.mktemp("installed")
    pip("install", "--no-deps", "--no-index", "--target", str(target), str(wheel), directory=target)
    return {**os.environ, "PYTHONPATH": str(target), "PYTHONUNBUFFERED": "1"}


@pytest.fixture(scope="module")
def elsewhere(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A working directory in which there is nothing to import."""
    return tmp_path_factory.mktemp("elsewhere")


@pytest.fixture(scope="module")
def url(environment: dict[str, str], elsewhere: Path) -> Iterator[str]:
    """The address of the installed demo."""
    command = [*legacy.GREENDAPHNE, "--inline-workers", "2", "-p", "0", "greendaphne.demo:channel_layer"]
    process = legacy.Process(command, elsewhere / "server.log", environment, elsewhere)
    try:
        yield f"http://127.0.0.1:{process.port()}"
    finally:
        assert process.stop() == 0
    legacy.assert_no_traceback(process.output())


def python(environment: dict[str, str], directory: Path, *arguments: str) -> str:
    command = [sys.executable, *arguments]
    done = subprocess.run(command, cwd=directory, env=environment, capture_output=True, text=True, timeout=legacy.PATIENCE, check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout.strip()


def test_the_wheel_has_what_the_checkout_has(wheel: Path) -> None:
    files = {path.relative_to(legacy.ROOT).as_posix() for path in PACKAGE.rglob("*") if path.is_file() and not {*NO_PART} & {*path.parts}}
    with zipfile.ZipFile(wheel) as archive:
        packed = {name for name in archive.namelist() if not name.split("/")[0].endswith(".dist-info")}
    assert packed == {*files, "greendaphne-names.pth"}


def test_the_installation_stands_in_for_a_missing_daphne_and_gives_way_to_an_installed_one(
    environment: dict[str, str], elsewhere: Path, tmp_path: Path
) -> None:
    target = environment["PYTHONPATH"]
    # The installed package alone: no directory of the environment that runs the test.
    head = f"import site, sys; sys.path[:] = [p for p in sys.path if 'compat/names' not in p]; site.addsitedir({target!r}); import daphne"
    show = (
        "; from importlib.util import find_spec; print(daphne.__spec__.origin, daphne.__version__, find_spec('daphne.server') is not None)"
    )
    assert python(environment, elsewhere, "-c", head + show) == "greendaphne 1.4.2 True"
    (tmp_path / "daphne").mkdir()
    (tmp_path / "daphne" / "__init__.py").write_text("__version__ = 'real'\n")
    real = {**environment, "PYTHONPATH": os.pathsep.join([target, str(tmp_path)])}
    assert python(real, elsewhere, "-c", f"{head}; print(daphne.__version__)") == "real"
    # One that a finder of an editable installation finds, after all directories.
    finder = f"""
import sys
from importlib.machinery import PathFinder

class Finder:
    def find_spec(self, fullname, path, target=None):
        return PathFinder.find_spec(fullname, [{str(tmp_path)!r}]) if path is None else None

sys.meta_path.append(Finder())
"""
    assert python(environment, elsewhere, "-c", f"{finder}\n{head}; print(daphne.__version__)") == "real"


def test_the_package_comes_from_the_installation(environment: dict[str, str], elsewhere: Path) -> None:
    file = python(environment, elsewhere, "-c", "import greendaphne; print(greendaphne.__file__)")
    assert file == str(Path(environment["PYTHONPATH"]) / "greendaphne" / "__init__.py")


def test_version(environment: dict[str, str], elsewhere: Path) -> None:
    assert __version__ in python(environment, elsewhere, "-m", "greendaphne", "--version")


def test_every_module_can_be_imported(environment: dict[str, str], elsewhere: Path) -> None:
    paths = [path for path in PACKAGE.rglob("*.py") if path.stem not in ("__init__", "__main__")]
    modules = sorted(".".join(path.relative_to(legacy.ROOT).with_suffix("").parts) for path in paths)
    # Commands need a project; tests/modern runs them.
    modules = [name for name in modules if ".management." not in name]
    if sys.version_info >= (3, 12):
        modules = [name for name in modules if not needs_django(name)]
    python(environment, elsewhere, "-c", f"import importlib\nfor name in {modules}: importlib.import_module(name)")


def needs_django(module: str) -> bool:
    source = legacy.ROOT.joinpath(*module.split(".")).with_suffix(".py").read_text()
    return re.search(r"^(from|import) (django|channels)\b", source, re.MULTILINE) is not None


def test_the_demo_is_served(url: str) -> None:
    page = requests.get(f"{url}/", timeout=legacy.PATIENCE)
    assert page.status_code == 200
    names = re.findall(r'(?:href|src)="(/static/[^"]+)"', page.text)
    assert names
    for name in names:
        answer = requests.get(url + name, timeout=legacy.PATIENCE)
        assert answer.status_code == 200, name
        assert answer.content == (PACKAGE / "demo" / "static" / name.rpartition("/")[2]).read_bytes()


def test_the_requirements_file_works_from_any_directory_and_agrees_with_the_setup() -> None:
    """pip takes paths in such a file as relative to where it is called, so there are none."""
    lines = (legacy.ROOT / "requirements.txt").read_text(encoding="utf-8").splitlines()
    found = {line for line in lines if line and not line.startswith("#")}
    project = loads((legacy.ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    assert found == {*project["dependencies"], *project["optional-dependencies"]["redis"]}
