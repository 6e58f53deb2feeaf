"""Build the source distribution and the wheel into ``dist``, check them, and write a bill of materials and checksums: ``make dist``.

Both files are the same, byte for byte, wherever and whenever a commit is built.  Times come from ``SOURCE_DATE_EPOCH``, by default the
time of the commit; modes, owners and the order of files are set; the tools have the versions of requirements-release.txt.  Each build is
made twice, in directories and with umasks that differ, and compared.
"""

from __future__ import annotations

import argparse
import gzip
import hashlib
import io
import os
import shutil
import subprocess
import sys
import tarfile
import tempfile
import zipfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from release import sbom
from release.environments import ROOT, say

#: What a checkout has and a source distribution does not need.
NOT_PACKED = {".gitignore"}
#: Directories that are no part of the source; where there is no git that says so.
NO_SOURCE = {".git", ".cache", "__pycache__", "build", "dist", "artefacts", ".hypothesis", ".mypy_cache", ".pytest_cache", ".ruff_cache"}
#: The earliest time that a zip archive can hold, 1980-01-01.
EARLIEST = 315532800


def sources() -> list[str]:
    """The files of the project, as paths relative to its top."""
    if (ROOT / ".git").exists():
        listed = subprocess.run(["git", "ls-files", "-z"], cwd=ROOT, capture_output=True, text=True, check=True).stdout.split("\0")
        return sorted(name for name in listed if name and (ROOT / name).is_file())
    found = []
    for directory, directories, files in os.walk(ROOT):
        directories[:] = [
            name for name in directories if name not in NO_SOURCE and not name.startswith(".venv") and ".egg-info" not in name
        ]
        found += [str((Path(directory) / name).relative_to(ROOT)) for name in files]
    # What a source distribution adds to the source.
    return sorted(name for name in found if name not in ("PKG-INFO", "setup.cfg"))


def epoch() -> int:
    """Seconds since 1970 for all times in the packages."""
    if given := os.environ.get("SOURCE_DATE_EPOCH"):
        return int(given)
    if (ROOT / ".git").exists():
        return int(subprocess.run(["git", "log", "-1", "--format=%ct"], cwd=ROOT, capture_output=True, text=True, check=True).stdout)
    # A source distribution: all its files have the time of its commit.
    return int((ROOT / "pyproject.toml").stat().st_mtime)


@contextmanager
def umask(value: int) -> Iterator[None]:
    previous = os.umask(value)
    try:
        yield
    finally:
        os.umask(previous)


def _run_build(kind: str, source: Path, target: Path, time: int) -> Path:
    """Run the build backend in this environment and return the file that it made."""
    command = [sys.executable, "-m", "build", f"--{kind}", "--no-isolation", "--outdir", str(target), str(source)]
    variables = {**os.environ, "SOURCE_DATE_EPOCH": str(time), "PYTHONHASHSEED": "0", "TZ": "UTC"}
    # The backend makes files of its own, with the modes that the umask leaves.
    done = subprocess.run(command, env=variables, capture_output=True, text=True, timeout=300, umask=0o022, check=False)
    if done.returncode != 0:
        raise SystemExit(done.stdout[-4000:] + done.stderr[-4000:])
    if "Warning" in done.stdout + done.stderr:
        lines = [line for line in (done.stdout + done.stderr).splitlines() if "Warning" in line]
        raise SystemExit("the build warns:\n" + "\n".join(lines))
    (made,) = target.glob("*.tar.gz" if kind == "sdist" else "*.whl")
    return made


def normalise(archive: Path, time: int) -> None:
    """Set what setuptools takes from the machine: times, owners, modes, the order, and the time in gzip's header."""
    with tarfile.open(archive) as packed:
        members = [
            (member, file.read() if (file := packed.extractfile(member)) else b"")
            for member in sorted(packed.getmembers(), key=lambda member: member.name)
        ]
    raw = io.BytesIO()
    with tarfile.open(fileobj=raw, mode="w", format=tarfile.PAX_FORMAT) as output:
        for member, content in members:
            clean = tarfile.TarInfo(member.name)
            clean.type, clean.size, clean.mtime = member.type, len(content), time
            clean.mode = 0o755 if member.isdir() or member.mode & 0o100 else 0o644
            output.addfile(clean, io.BytesIO(content))
    with archive.open("wb") as file, gzip.GzipFile(filename="", fileobj=file, mode="wb", mtime=time) as compressed:
        compressed.write(raw.getvalue())


def build(directory: Path, time: int) -> list[Path]:
    """Build both packages below ``directory``; the wheel is made from the source distribution."""
    source, made = directory / "source", directory / "made"
    for name in sources():
        target = source / name
        target.parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(ROOT / name, target)
    sdist = _run_build("sdist", source, made, time)
    normalise(sdist, time)
    with tarfile.open(sdist) as packed:
        # Names and modes are those of normalise.
        packed.extractall(directory / "unpacked")
    (unpacked,) = (directory / "unpacked").iterdir()
    return [sdist, _run_build("wheel", unpacked, made, time)]


def check_contents(sdist: Path, wheel: Path) -> None:
    """Both packages have each file that they must have."""
    wanted = {name for name in sources() if name not in NOT_PACKED}
    with tarfile.open(sdist) as packed:
        inside = {name.partition("/")[2] for name in packed.getnames()}
    if missing := sorted(wanted - inside):
        raise SystemExit("the source distribution lacks " + ", ".join(missing[:10]))
    with zipfile.ZipFile(wheel) as archive:
        inside = set(archive.namelist())
    if missing := sorted({name for name in wanted if name.startswith("greendaphne/")} - inside):
        raise SystemExit("the wheel lacks " + ", ".join(missing[:10]))


def digest(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument(
        "--directory", type=Path, default=ROOT / "dist", metavar="DIRECTORY", help="where the files go, in place of older ones"
    )
    parser.add_argument("--no-sbom", action="store_true", help="write no bill of materials, which needs the package index")
    arguments = parser.parse_args()
    time = max(epoch(), EARLIEST)
    with tempfile.TemporaryDirectory(prefix="greendaphne-") as temporary:
        first, second = Path(temporary, "first"), Path(temporary, "another-name")
        say(f"building, with SOURCE_DATE_EPOCH={time}")
        with umask(0o022):
            built = build(first, time)
        say("building again, elsewhere, and comparing")
        with umask(0o077):
            again = build(second, time)
        for one, other in zip(built, again, strict=True):
            if one.name != other.name or digest(one) != digest(other):
                raise SystemExit(f"{one.name} is not reproducible")
        check_contents(*built)
        say("checking the metadata")
        subprocess.run([sys.executable, "-m", "twine", "--no-color", "check", "--strict", *built], check=True)
        arguments.directory.mkdir(parents=True, exist_ok=True)
        for old in arguments.directory.glob("greendaphne-*"):
            old.unlink()
        files = [Path(shutil.copy(path, arguments.directory)) for path in built]
    if not arguments.no_sbom:
        files.append(sbom.write(files[1], arguments.directory, time))
    lines = [f"{digest(path)}  {path.name}\n" for path in files]
    (arguments.directory / "SHA256SUMS").write_text("".join(lines))
    print("".join(lines), end="")


if __name__ == "__main__":
    main()
