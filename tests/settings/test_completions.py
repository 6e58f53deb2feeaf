"""The manual page and the completions for shells, tried in the shells that are installed."""

from __future__ import annotations

import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from greendaphne.settings import completions
from greendaphne.settings.man import manual
from greendaphne.settings.options import OPTIONS

PATIENCE = 60


def shell(*command: str, **options: str) -> str:
    result = subprocess.run(command, capture_output=True, text=True, timeout=PATIENCE, check=True, stdin=subprocess.DEVNULL, **options)  # type: ignore[call-overload]
    assert result.stderr == ""
    return str(result.stdout)


def needs(program: str) -> pytest.MarkDecorator:
    return pytest.mark.skipif(shutil.which(program) is None, reason=f"{program} is not installed")


def test_the_manual_has_every_option() -> None:
    page = manual().replace("\\-", "-")
    for item in OPTIONS:
        for name in item.names:
            assert f"\\fB{name}\\fR" in page


@needs("man")
def test_man_formats_the_manual_without_a_warning(tmp_path: Path) -> None:
    (tmp_path / "greendaphne.1").write_text(shell(sys.executable, "-m", "greendaphne.settings.man"), encoding="utf-8")
    result = subprocess.run(
        ["man", "--warnings", "-E", "ascii", "-l", "greendaphne.1"],
        capture_output=True,
        text=True,
        timeout=PATIENCE,
        check=True,
        cwd=tmp_path,
    )
    assert result.stderr == ""
    assert "--inline-workers=NUMBER" in result.stdout


def bash(script: Path, *words: str) -> set[str]:
    """What bash offers for the last of ``words``."""
    line = f'. {script}; COMP_WORDS=({" ".join(words)}); COMP_CWORD={len(words) - 1}; _greendaphne; printf "%s\\n" "${{COMPREPLY[@]}}"'
    return set(shell("bash", "--norc", "-c", line, cwd=str(script.parent)).split())


@needs("bash")
def test_bash(tmp_path: Path) -> None:
    script = tmp_path / "greendaphne"
    script.write_text(completions.bash(), encoding="utf-8")
    (tmp_path / "cert.pem").write_text("", encoding="utf-8")
    assert bash(script, "greendaphne", "--websocket-max-") == {"--websocket-max-message-size", "--websocket-max-frame-size"}
    assert bash(script, "greendaphne", "--log-level", "") == {"debug", "info", "warning", "error", "critical"}
    assert bash(script, "greendaphne", "--log-level", "=", "d") == {"debug"}
    assert bash(script, "greendaphne", "--certfile", "ce") == {"cert.pem"}
    assert bash(script, "greendaphne", "-p", "") == set()


@needs("fish")
def test_fish(tmp_path: Path) -> None:
    (tmp_path / "c.fish").write_text(completions.fish(), encoding="utf-8")
    environment = {"HOME": str(tmp_path), "PATH": "/usr/bin:/bin", "XDG_CONFIG_HOME": str(tmp_path), "XDG_DATA_HOME": str(tmp_path)}

    def offered(line: str) -> set[str]:
        command = ["fish", "--no-config", "-c", f"source c.fish; complete -C '{line}'"]
        result = subprocess.run(command, capture_output=True, text=True, timeout=PATIENCE, check=True, cwd=tmp_path, env=environment)
        assert result.stderr == ""
        return {line.partition("\t")[0] for line in result.stdout.splitlines()}

    assert offered("greendaphne --websocket-max-") == {"--websocket-max-message-size", "--websocket-max-frame-size"}
    assert offered("greendaphne --log-level=d") == {"--log-level=debug"}
    assert offered("greendaphne --log-level ") == {"debug", "info", "warning", "error", "critical"}


@needs("zsh")
def test_zsh(tmp_path: Path) -> None:
    (tmp_path / "_greendaphne").write_text(completions.zsh(), encoding="utf-8")
    # What _arguments hands to compadd is what a terminal would show.
    script = """
fpath=($PWD $fpath)
autoload -Uz compinit
compinit -u -D
zmodload zsh/zpty
zpty shell zsh -f
send() { zpty -w shell "$1"; }
send 'PS1=; PROMPT=; unsetopt zle_bracketed_paste; fpath=('$PWD' $fpath); autoload -Uz compinit; compinit -u -D; LISTMAX=10000'
send 'echo ready'
zpty -r -m shell line '*ready*ready*'
zpty -w -n shell $'greendaphne --websocket-max-\\t\\t'
zpty -r -m shell line '*message-size*'
print -r -- $line
zpty -d shell
"""
    result = subprocess.run(
        ["zsh", "-f", "-c", script], capture_output=True, text=True, timeout=PATIENCE, check=False, cwd=tmp_path, stdin=subprocess.DEVNULL
    )
    assert "--websocket-max-message-size" in result.stdout, (result.stdout, result.stderr)
    assert "--websocket-max-frame-size" in result.stdout


def test_the_module_prints_them() -> None:
    for name, make in completions.SHELLS.items():
        assert shell(sys.executable, "-m", "greendaphne.settings.completions", name) == make()
    result = subprocess.run(
        [sys.executable, "-m", "greendaphne.settings.completions", "csh"], capture_output=True, text=True, timeout=PATIENCE, check=False
    )
    assert (result.returncode, result.stderr) == (2, "usage: python -m greendaphne.settings.completions bash|zsh|fish\n")
