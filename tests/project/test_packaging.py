"""The package as it is installed: a wheel of the checkout has every module and every file that the server needs.

The other tests run on the checkout itself, where nothing can be missing.
"""

from __future__ import annotations

import email
import io
import os
import re
import shutil
import subprocess
import sys
import tarfile
import zipfile
from collections.abc import Iterator
from email.message import Message
from pathlib import Path

import docutils.core
import docutils.nodes
import pytest
import requests
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

import release.build
from greendaphne import __version__
from release import bounds
from release.environments import EXTRAS, VERSIONS
from tests.support import legacy

PACKAGE = legacy.ROOT / "greendaphne"
#: Seconds for pip.
INSTALLATION = 120.0
#: What in a package's directory is not part of it.
NO_PART = ("__pycache__",)
#: What a wheel is made from besides the package.
SOURCES = ("LICENSE", "MANIFEST.in", "README.rst", "pyproject.toml", "setup.py")
#: The time of all files in a package, in seconds since 1970.
EPOCH = "1700000000"


def pip(*arguments: str, directory: Path) -> None:
    command = [sys.executable, "-m", "pip", "--quiet", "--disable-pip-version-check", "--no-input", *arguments]
    done = subprocess.run(command, cwd=directory, capture_output=True, text=True, timeout=INSTALLATION, check=False)
    assert done.returncode == 0, done.stderr


def build(directory: Path) -> Path:
    """A wheel, built from a copy so that no build directory appears in the checkout or is taken from it."""
    source = directory / "source"
    shutil.copytree(PACKAGE, source / PACKAGE.name, ignore=shutil.ignore_patterns(*NO_PART))
    for name in SOURCES:
        shutil.copy(legacy.ROOT / name, source)
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("SOURCE_DATE_EPOCH", EPOCH)
        pip("wheel", "--no-deps", "--wheel-dir", str(directory), str(source), directory=directory)
    (built,) = directory.glob("*.whl")
    return built


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The package as it is installed."""
    return build(tmp_path_factory.mktemp("wheel"))


@pytest.fixture(scope="module")
def metadata(wheel: Path) -> Message:
    """What the wheel says about the package; the payload is the description."""
    with zipfile.ZipFile(wheel) as archive:
        (name,) = [name for name in archive.namelist() if name.endswith(".dist-info/METADATA")]
        return email.message_from_bytes(archive.read(name))


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


def test_a_second_build_gives_the_same_bytes(wheel: Path, tmp_path: Path) -> None:
    again = build(tmp_path / "a-directory-with-another-name")
    assert again.name == wheel.name
    assert again.read_bytes() == wheel.read_bytes()


def test_the_metadata(metadata: Message) -> None:
    assert metadata["License-Expression"] == "BSD-3-Clause"
    assert metadata["Keywords"]
    urls = dict(text.split(", ", 1) for text in metadata.get_all("Project-URL", []))
    assert {"Source", "Documentation", "Changelog", "Issues", "Security"} <= {*urls}
    named = re.findall(r"Python :: (3\.[0-9]+)", "\n".join(metadata.get_all("Classifier", [])))
    assert tuple(named) == VERSIONS
    assert {*metadata["Requires-Python"].split(",")} == {f">={VERSIONS[0]}", f"<3.{int(VERSIONS[-1].partition('.')[2]) + 1}"}
    assert {*metadata.get_all("Provides-Extra", [])} == {*EXTRAS, "test"}


def test_the_links_of_the_description_lead_to_files_from_anywhere(metadata: Message) -> None:
    """PyPI shows the README, beside which there are no files."""
    urls = dict(text.split(", ", 1) for text in metadata.get_all("Project-URL", []))
    text = metadata.get_payload(decode=True)
    assert isinstance(text, bytes)
    tree = docutils.core.publish_doctree(text.decode(), settings_overrides={"halt_level": 2, "report_level": 5})
    targets = [node["refuri"] for node in tree.findall(docutils.nodes.reference) if "refuri" in node]
    assert len(targets) > 10
    assert [target for target in targets if not target.startswith(("https://", "http://", "mailto:"))] == []
    ours = [target.removeprefix(urls["Source"]).split("/", 3) for target in targets if target.startswith(urls["Source"])]
    assert {version for _, _, version, _ in ours} == {__version__}
    assert [path for _, _, _, path in ours if not (legacy.ROOT / path).exists()] == []


def requirement_lines(name: str) -> list[str]:
    return [line for line in (legacy.ROOT / name).read_text(encoding="utf-8").splitlines() if line and not line.startswith("#")]


def test_the_requirements_file_works_from_any_directory_and_agrees_with_the_metadata() -> None:
    """pip takes paths in such a file as relative to where it is called, so there are none."""
    assert sorted(map(str, map(Requirement, requirement_lines("requirements.txt")))) == sorted(map(str, bounds.requirements(["redis"])))


@pytest.mark.parametrize("version", VERSIONS)
def test_the_constraints_hold_what_the_metadata_asks_for(version: str) -> None:
    """constraints.txt has an allowed version of each dependency, except where two were tested."""
    variables = {"python_version": version, "python_full_version": f"{version}.0"}
    fixed: dict[str, str] = {}
    for line in map(Requirement, requirement_lines("constraints.txt")):
        if line.marker is None or line.marker.evaluate(variables):
            assert line.name not in fixed
            (only,) = line.specifier
            assert only.operator == "=="
            fixed[canonicalize_name(line.name)] = only.version
    for requirement in bounds.requirements(EXTRAS):
        name = canonicalize_name(requirement.name)
        if name not in bounds.NOT_CONSTRAINED and (requirement.marker is None or requirement.marker.evaluate(variables)):
            assert fixed[name] in requirement.specifier


def test_every_bound_has_its_reason_beside_it() -> None:
    text = (legacy.ROOT / "pyproject.toml").read_text(encoding="utf-8")
    start, end = text.index("\ndependencies = ["), text.index("\ntest = [")
    lines = [line for line in text[start:end].splitlines() if re.search(r'"[^"]+[<>=]=?', line)]
    assert len(lines) >= 10
    assert [line for line in lines if "#" not in line] == []


def test_every_dependency_has_a_lowest_version_for_every_python() -> None:
    for version in VERSIONS:
        assert {"gevent", "h2", "httptools", "redis"} <= {*bounds.lowest(version, EXTRAS)}


def test_times_owners_and_modes_of_a_source_distribution_are_not_those_of_the_machine(tmp_path: Path) -> None:
    made = []
    for number in (1, 2):
        path = tmp_path / f"{number}.tar.gz"
        with tarfile.open(path, "w:gz") as archive:
            for name in ("a", "b") if number == 1 else ("b", "a"):
                member = tarfile.TarInfo(f"greendaphne/{name}")
                member.size, member.mtime, member.uid, member.uname, member.mode = 1, number, number, f"user{number}", 0o600 + number
                archive.addfile(member, io.BytesIO(b"x"))
        release.build.normalise(path, int(EPOCH))
        made.append(path.read_bytes())
    assert made[0] == made[1]
    with tarfile.open(tmp_path / "1.tar.gz") as archive:
        assert [(member.name, member.mode, member.mtime, member.uid) for member in archive] == [
            ("greendaphne/a", 0o644, int(EPOCH), 0),
            ("greendaphne/b", 0o644, int(EPOCH), 0),
        ]
