"""Interpreters of this machine, and virtual environments made with them."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

ROOT = Path(__file__).resolve().parents[1]
#: Directories of environments that the tools keep.
KEPT = ROOT / ".cache" / "environments"
#: The versions of Python that pyproject.toml allows.
VERSIONS = ("3.10", "3.11", "3.12", "3.13", "3.14")
#: Extras for users; ``test`` is for developers.
EXTRAS = ("acme", "channels1", "metrics", "redis")
#: Seconds for an installation.
INSTALLATION = 600.0


def project() -> dict[str, object]:
    """The table ``project`` of pyproject.toml."""
    table: dict[str, object] = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    return table


def say(text: str) -> None:
    """Tell the progress, in the manner of the Makefile."""
    print(f"==> {text}", flush=True)


def _candidates(version: str) -> Iterator[Path]:
    """Paths where an interpreter of ``version`` may be, the preferred one first."""
    # From "make python3.14".
    yield ROOT / ".cache" / f"python{version}" / "usr" / "bin" / f"python{version}"
    home = Path(os.environ.get("PYENV_ROOT", "~/.pyenv")).expanduser()
    releases = [path for path in (home / "versions").glob(f"{version}.*") if re.fullmatch(r"[\d.]+", path.name)]
    for path in sorted(releases, key=lambda path: [int(part) for part in path.name.split(".")], reverse=True):
        yield path / "bin" / "python"
    found = shutil.which(f"python{version}")
    if found:
        yield Path(found)


def _runs(path: Path, version: str) -> bool:
    """Whether ``path`` is a complete interpreter of ``version``, with the modules that an environment needs."""
    code = "import ssl, venv, ensurepip, sys; print('%d.%d' % sys.version_info[:2])"
    try:
        done = subprocess.run([path, "-c", code], capture_output=True, text=True, timeout=60, check=False)
    except OSError:
        return False
    return done.returncode == 0 and done.stdout.strip() == version


def interpreters(versions: Sequence[str] = VERSIONS) -> dict[str, Path | None]:
    """The interpreter of each version, or None for a version that is not on this machine."""
    return {version: next((path for path in _candidates(version) if path.exists() and _runs(path, version)), None) for version in versions}


def make(directory: Path, interpreter: Path) -> Path:
    """Make a new environment in ``directory`` and return its Python."""
    shutil.rmtree(directory, ignore_errors=True)
    subprocess.run([interpreter, "-m", "venv", directory], check=True, timeout=INSTALLATION)
    return directory / "bin" / "python"


def pip(python: Path, *arguments: str, directory: Path | None = None) -> None:
    """Run pip of an environment; its output is shown if it fails.

    :raises SystemExit: pip failed.
    """
    command = [str(python), "-m", "pip", "--disable-pip-version-check", "--no-input", *arguments]
    done = subprocess.run(command, cwd=directory, capture_output=True, text=True, timeout=INSTALLATION, check=False)
    if done.returncode != 0:
        raise SystemExit(f"pip {' '.join(arguments)}\n{done.stdout[-2000:]}{done.stderr[-4000:]}")
