"""What pyproject.toml cannot say about the package: its long description, which is the README with absolute links."""

from __future__ import annotations

import re
import sys
from pathlib import Path

from setuptools import setup
from setuptools.command.build_py import build_py

#: Puts the directory with the stand-in for a missing daphne at the end of ``sys.path``, see ``greendaphne/compat``.
PATH_FILE = "greendaphne-names.pth"
NAMES = Path("greendaphne", "compat", "names")
HERE = Path(__file__).resolve().parent
#: The target of a link of the README to a file of the project: no address, and no fragment of the page.
RELATIVE = re.compile(r"<((?!\w+:|#)[^<>`\s]+)>`__")


def repository() -> str:
    """The address of the repository, from pyproject.toml; a line of it, since Python 3.10 has no reader of TOML."""
    match = re.search(r'^Source = "([^"]+)"$', (HERE / "pyproject.toml").read_text(encoding="utf-8"), re.MULTILINE)
    if match is None:
        raise RuntimeError("pyproject.toml states no Source")
    return match[1]


def version() -> str:
    """The version, read rather than imported: the dependencies are not there yet when a package is built."""
    match = re.search(r'^__version__ = "([^"]+)"$', (HERE / "greendaphne" / "core" / "version.py").read_text(encoding="utf-8"), re.MULTILINE)
    if match is None:
        raise RuntimeError("greendaphne/core/version.py states no version")
    return match[1]


def description() -> str:
    """The README for a page outside of the repository, such as PyPI's.

    A relative link leads to the file as it was in this version.  docutils takes a link text that equals an older one for the same target,
    which stays true: equal texts had equal targets.
    """
    readme = HERE / "README.rst"
    if not readme.exists():
        print("README.rst is missing; the package has no long description", file=sys.stderr)
        return ""

    def absolute(match: re.Match[str]) -> str:
        kind = "tree" if (HERE / match[1]).is_dir() else "blob"
        return f"<{repository()}/{kind}/{version()}/{match[1]}>`__"

    return RELATIVE.sub(absolute, readme.read_text(encoding="utf-8"))


class BuildWithPathFile(build_py):  # type: ignore[misc]
    """Builds the package, and the file that adds its directory of names to Python's path."""

    def run(self) -> None:
        super().run()
        if self.editable_mode:
            target, place = self.get_finalized_command("install").install_purelib, HERE / NAMES
        else:
            target, place = self.build_lib, NAMES
        Path(target, PATH_FILE).write_text(f"{place.as_posix()}\n", encoding="utf-8")


setup(long_description=description(), long_description_content_type="text/x-rst", cmdclass={"build_py": BuildWithPathFile})
