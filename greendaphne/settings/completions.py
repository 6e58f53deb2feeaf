"""Completions for shells, generated from the table of options: ``python -m greendaphne.settings.completions bash`` (or ``zsh``,
``fish``)."""

from __future__ import annotations

import re
import shlex
import sys
from collections.abc import Callable
from typing import Final

from .option import Option, Takes
from .options import OPTIONS

#: Options without a row in the table.
_INFORMATION: Final = (("-h", "Show the everyday options."), ("--help", "Show all options."), ("--version", "Show the version."))


def words(item: Option) -> list[str]:
    """Return the values of ``item`` if they are a few words, such as ``debug`` or ``info``."""
    if not item.metavar or item.number:
        return []
    try:
        item.convert("\0")
    except ValueError as error:
        # The sentence of core.converters.choice().
        match = re.fullmatch(r"must be ((?:[\w.-]+, )*[\w.-]+) or ([\w.-]+)", str(error))
        return [*match[1].split(", "), match[2]] if match else []
    return []


def bash() -> str:
    """Return the completions for bash, to be sourced or put into ``bash-completion/completions/greendaphne``."""
    names = " ".join([*(name for item in OPTIONS for name in item.names), *(name for name, _ in _INFORMATION)])
    cases = []
    for item in OPTIONS:
        if item.takes is Takes.NOTHING:
            continue
        pattern = "|".join([*item.names, *([item.short] if item.short else [])])
        reply = {
            "file": 'mapfile -t COMPREPLY < <(compgen -f -- "$value")',
            "directory": 'mapfile -t COMPREPLY < <(compgen -d -- "$value")',
        }
        action = reply.get(item.completes, "COMPREPLY=()")
        if choices := words(item):
            action = f'mapfile -t COMPREPLY < <(compgen -W {shlex.quote(" ".join(choices))} -- "$value")'
        cases.append(f"        {pattern}) {action}; return ;;")
    return f"""\
# bash completion for greendaphne
_greendaphne() {{
    local value="${{COMP_WORDS[COMP_CWORD]}}" option="${{COMP_WORDS[COMP_CWORD-1]}}"
    COMPREPLY=()
    # An equals sign is a word of its own.
    if [[ $value == = ]]; then value=""; elif [[ $option == = ]]; then option="${{COMP_WORDS[COMP_CWORD-2]}}"; fi
    case "$option" in
{chr(10).join(cases)}
    esac
    if [[ $value == -* ]]; then mapfile -t COMPREPLY < <(compgen -W {shlex.quote(names)} -- "$value"); fi
}}
complete -F _greendaphne greendaphne
"""


def zsh() -> str:
    """Return the completions for zsh, to be put into a directory of ``fpath`` as ``_greendaphne``."""

    def escaped(text: str) -> str:
        return re.sub(r"([\[\]:\\])", r"\\\1", text)

    lines = []
    for item in OPTIONS:
        value = ""
        if item.takes is not Takes.NOTHING:
            choices = words(item)
            action = f"({' '.join(choices)})" if choices else {"file": "_files", "directory": "_files -/"}.get(item.completes, " ")
            value = f":{escaped(item.metavar)}:{action}"
        repeated = "*" if item.takes in (Takes.EACH, Takes.MANY) else ""
        for name in (*item.names, *([item.short] if item.short else [])):
            equals = "=" if value and name.startswith("--") else ""
            lines.append(f"    {shlex.quote(f'{repeated}{name}{equals}[{escaped(item.help)}]{value}')}")
    lines += [f"    {shlex.quote(f'{name}[{escaped(text)}]')}" for name, text in _INFORMATION]
    lines.append(f"    {shlex.quote('1:channel layer: ')}")
    return "#compdef greendaphne\n\n_arguments -s -S \\\n" + " \\\n".join(lines) + "\n"


def fish() -> str:
    """Return the completions for fish, to be put into ``fish/completions/greendaphne.fish``."""
    lines = ["# fish completion for greendaphne", "complete -c greendaphne -f"]
    for item in OPTIONS:
        parts = ["complete -c greendaphne"]
        parts += [f"-l {name.removeprefix('--')}" for name in item.names]
        if item.short:
            parts.append(f"-s {item.short[1]}")
        if item.takes is not Takes.NOTHING:
            choices = words(item)
            if choices:
                parts.append(f"-x -a {_fish_quoted(' '.join(choices))}")
            elif item.completes == "directory":
                parts.append("-x -a '(__fish_complete_directories)'")
            else:
                parts.append("-r -F" if item.completes else "-x")
        parts.append(f"-d {_fish_quoted(item.help)}")
        lines.append(" ".join(parts))
    for name, text in _INFORMATION:
        kind = f"-l {name[2:]}" if name.startswith("--") else f"-s {name[1:]}"
        lines.append(f"complete -c greendaphne {kind} -d {_fish_quoted(text)}")
    return "\n".join(lines) + "\n"


def _fish_quoted(text: str) -> str:
    escaped = text.replace("\\", "\\\\").replace("'", "\\'")
    return f"'{escaped}'"


SHELLS: Final[dict[str, Callable[[], str]]] = {"bash": bash, "zsh": zsh, "fish": fish}


def main(argv: list[str]) -> int:
    """Print the completions of the shell that the only argument names; return the exit code."""
    make = SHELLS.get(argv[0]) if len(argv) == 1 else None
    if make is None:
        print(f"usage: python -m greendaphne.settings.completions {'|'.join(SHELLS)}", file=sys.stderr)
        return 2
    sys.stdout.write(make())
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
