"""The tutorials as a reader follows them: files are saved, commands are given one after the other, outputs are compared."""

from __future__ import annotations

import re
import shlex
import textwrap

import docutils.core
import docutils.nodes

from tests.support.pages import DOCS, commands, output_of, run_on_a_machine

#: What stands in for commands that need the network.
_INSTEAD = [
    (r"python3(\.\d+)? -m venv (.*)", r"python3 -m venv --without-pip \2"),
    (r"pip install .*", r'install_here "$VIRTUAL_ENV"'),
    (r"apt-get install -y redis-server", "redis-server --port 6379 --save '' --daemonize yes --logfile /dev/null"),
    (r"(curl .*)", r"eventually \1 && echo"),
]
#: The file that is continued, rather than made, by a block with such a name.
_CONTINUED = re.compile(r"end-of-(.*?\.py)(?:-\d+)?$")
#: A reader would end the server with Ctrl-C.  Its number is the file ``/run/NAME``.
_END = "if [ -e /run/{0} ]; then kill $(cat /run/{0}); tail --pid=$(cat /run/{0}) -f /dev/null; fi"


def _save(name: str, text: str) -> str:
    continued = _CONTINUED.match(name)
    return f"printf '%s\\n' {shlex.quote(text)} {'>>' if continued else '>'} {continued[1] if continued else name}"


def _give(line: str) -> list[str]:
    """The commands that stand in for one that a reader gives."""
    for pattern, replacement in _INSTEAD:
        line = re.sub(f"^{pattern}$", replacement, line)
    if line.startswith(("greendaphne ", "python manage.py runworker")):
        name = line.split(maxsplit=1)[0]
        return [_END.format(name), f"{line} > /run/{name}.log 2>&1 &", f"echo $! > /run/{name}"]
    if line.startswith("venv/bin/python "):
        # The server that was started last may not listen yet.
        return [f"eventually {line}"]
    return [line]


def follow(page: str) -> None:
    """Follow the tutorial ``page``, relative to ``docs``; each output that it shows must be the real one."""
    document = docutils.core.publish_doctree((DOCS / page).read_text(encoding="utf-8"))
    lines: list[str] = []
    expected: list[tuple[int, str]] = []
    for block in document.findall(docutils.nodes.literal_block):
        if block["names"]:
            lines.append(_save(block["names"][0], textwrap.dedent(block.astext())))
        elif "text" in block["classes"]:
            expected.append((len(lines) - 1, block.astext()))
        else:
            indented = "\n".join(f"    {line}" for line in block.astext().split("\n"))
            for line in commands(f"::\n\n{indented}"):
                lines += _give(line)
    # A line is told from the same line later by its number.
    marked = [f"{line} #{number}" if "\n" not in line and not line.endswith("&") else line for number, line in enumerate(lines)]
    result = run_on_a_machine(["mkdir /srv/reader", "cd /srv/reader", *marked, "cat /run/*.log"])
    for number, text in expected:
        # Above it is what curl printed while the server was not yet there.
        lines = text.strip().split("\n")
        assert output_of(result, marked[number]).strip().split("\n")[-len(lines) :] == lines, page
    assert "Traceback" not in result.stdout, result.stdout
