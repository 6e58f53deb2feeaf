"""Build the documentation site: ``python docs/site/build.py``, or ``make docs``.

The pages in ``docs`` link to each other, and to files of the checkout, by relative paths, so that they can be read on a code host too.
Sphinx wants all of them below one directory.  So this program lays out a copy below ``build/docs/source``: the pages under the same names,
the pages of ``docs/site`` over them, one page for each directory of ``examples``, the change log and the benchmarks.  :mod:`links` turns
the relative paths into links of the site.  Each warning of Sphinx is an error.
"""

from __future__ import annotations

import json
import shutil
import sys
from pathlib import Path

from sphinx.cmd.build import main as sphinx_build

ROOT = Path(__file__).resolve().parents[2]
SITE = ROOT / "docs" / "site"
SOURCE = ROOT / "build" / "docs" / "source"
DOCTREES = ROOT / "build" / "docs" / "doctrees"
OUTPUT = ROOT / "build" / "site"
#: Pages outside of ``docs``, by their name on the site.
OTHERS = {"changelog.rst": "CHANGELOG.rst", "benchmarks.rst": "benchmarks/README.rst"}
#: What the pages of examples show, by the end of the name; a file without such an end is shown as well.
LANGUAGES = {
    ".py": "python",
    ".html": "html+jinja",
    ".toml": "toml",
    ".ini": "ini",
    ".service": "ini",
    ".socket": "ini",
    ".target": "ini",
    ".env": "ini",
    ".yml": "yaml",
    ".lua": "lua",
}
#: Files of at most this many bytes are shown on the page of their example.
SHOWN = 25_000


def shown(path: Path) -> bool:
    """Whether the page of an example shows the file ``path``."""
    if path.suffix not in LANGUAGES and path.suffix not in ("", ".conf", ".cfg"):
        return False
    return 0 < path.stat().st_size <= SHOWN and not {"migrations", "__pycache__"} & set(path.parts)


def example(directory: Path) -> str:
    """The page of the example in ``directory``: its README, then its files."""
    readme = directory / "README.rst"
    name = directory.name
    title = f"Example: {name}"
    lines = [readme.read_text(encoding="utf-8") if readme.exists() else f"{title}\n{'=' * len(title)}\n"]
    lines.append("Files\n-----\n" if readme.exists() else "")
    for path in sorted(directory.rglob("*")):
        if path.is_file() and shown(path):
            relative = path.relative_to(directory).as_posix()
            heading = f"``{relative}``"
            lines += [f".. _file-{path.relative_to(ROOT).as_posix()}:\n", f"{heading}\n{'~' * len(heading)}\n"]
            lines.append(f".. literalinclude:: /examples/{name}/{relative}\n   :language: {LANGUAGES.get(path.suffix, 'none')}\n")
        elif path.suffix == ".json":
            lines.append(f":download:`{path.name} </examples/{name}/{path.relative_to(directory).as_posix()}>`\n")
    return "\n".join(lines)


def layout() -> dict[str, str]:
    """Write the source of the site; return the page of each path of the checkout that has one."""
    pages: dict[str, str] = {}

    def page(target: str, text: str, *origins: str) -> None:
        path = SOURCE / target
        path.parent.mkdir(parents=True, exist_ok=True)
        # Sphinx reads only pages that have changed.
        if not path.exists() or path.read_text(encoding="utf-8") != text:
            path.write_text(text, encoding="utf-8")
        pages.update(dict.fromkeys(origins, target.removesuffix(".rst")))

    kept = set()
    for path in sorted((ROOT / "docs").rglob("*.rst")):
        relative = path.relative_to(ROOT / "docs").as_posix()
        target = "pages.rst" if relative == "index.rst" else relative.removeprefix("site/")
        page(target, path.read_text(encoding="utf-8"), f"docs/{relative}")
        kept.add(target)
    for target, origin in OTHERS.items():
        page(target, (ROOT / origin).read_text(encoding="utf-8"), origin, str(Path(origin).parent))
        kept.add(target)
    pages["README.rst"] = "index"
    pages["SECURITY.md"] = "security"
    directories = sorted(path for path in (ROOT / "examples").iterdir() if path.is_dir())
    for directory in directories:
        target = f"examples/{directory.name}.rst"
        page(target, example(directory), f"examples/{directory.name}", f"examples/{directory.name}/README.rst")
        kept.add(target)
        for path in directory.rglob("*"):
            if path.is_file() and shown(path):
                pages[path.relative_to(ROOT).as_posix()] = f"examples/{directory.name}#file-{path.relative_to(ROOT).as_posix()}"
    for path in SOURCE.rglob("*.rst"):
        if path.relative_to(SOURCE).as_posix() not in kept:
            path.unlink()
    ignore = shutil.ignore_patterns("*.rst", "__pycache__", "*.sqlite3", "*.pyc")
    shutil.copytree(ROOT / "examples", SOURCE / "examples", ignore=ignore, dirs_exist_ok=True)
    shutil.copytree(ROOT / "docs" / "pictures", SOURCE / "pictures", dirs_exist_ok=True)
    shutil.copy2(ROOT / "docs" / "design" / "overview.svg", SOURCE / "design")
    return pages


def main() -> int:
    SOURCE.mkdir(parents=True, exist_ok=True)
    origins = ROOT / "build" / "docs" / "pages.json"
    origins.write_text(json.dumps(layout()), encoding="utf-8")
    strict = ["--fail-on-warning", "--keep-going", "--nitpicky", "--quiet", "--write-all"]
    return sphinx_build([*strict, "-b", "html", "-c", str(SITE), "-d", str(DOCTREES), str(SOURCE), str(OUTPUT), *sys.argv[1:]])


if __name__ == "__main__":
    sys.exit(main())
