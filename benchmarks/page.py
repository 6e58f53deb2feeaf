"""Results as one HTML page with plots and tables, which needs nothing else: no script, no font, no server."""

from __future__ import annotations

from html import escape
from pathlib import Path
from typing import Final

from .results import Case, Measure, Results, Row, Section, Table, ratio, summary
from .text import about, number, ratio_text

_STYLE: Final = """
:root { color-scheme: light dark; --text: #1b1f23; --back: #fff; --line: #d0d7de; --ours: #1a7f47; --theirs: #8794a3; --soft: #f4f6f8;
  --bad: #b42318; --link: #0b5cad }
@media (prefers-color-scheme: dark) { :root { --text: #e3e8ee; --back: #14181d; --line: #3b444f; --ours: #3fb970; --theirs: #6f7d8c;
  --soft: #1d232a; --bad: #ff8f85; --link: #79b8ff } }
body { margin: 0 auto; padding: 1rem; max-width: 80rem; color: var(--text); background: var(--back); font: 1rem/1.5 system-ui, sans-serif }
a { color: var(--link) } h2 { margin-top: 3rem; border-bottom: 1px solid var(--line) } h4 { margin-bottom: .3rem }
nav ul { display: flex; flex-wrap: wrap; gap: .3rem 1.2rem; padding: 0; list-style: none }
.wide { overflow-x: auto } svg { display: block; max-width: 100%; height: auto } svg * { stroke-linejoin: round; stroke-linecap: butt }
table { border-collapse: collapse; font-size: .88rem; font-variant-numeric: tabular-nums }
th, td { padding: .25rem .6rem; border-bottom: 1px solid var(--line); text-align: right; vertical-align: top; white-space: nowrap }
th { background: var(--soft) } th:first-child, td:first-child, .about th, .about td { text-align: left }
.about td { white-space: normal } .ours td:first-child { font-weight: 600 }
code { padding: .1rem .3rem; background: var(--soft); border-radius: .2rem; font-size: .85em } summary { cursor: pointer }
.error { color: var(--bad); text-align: left; white-space: normal } td details[open] { white-space: normal }
"""
_READING: Final = (
    "Each figure is the median of the rounds, in which the servers take turns, each new in every round; least is the best round, spread "
    "the difference between the best and the worst, and quartiles bound the middle half of the rounds. The line across a bar of a plot "
    "goes from the least to the greatest. Ratios divide the figure of the first server of a case by that of the row: for costs, less than "
    "1 says that the first is cheaper. The ratio of the best rounds is in brackets; on a busy machine it is the better one. Each server is "
    "bound to the first core, the load to the second. CPU time is user and system time of the server with all its processes and threads, "
    "with the application that runs in them."
)


def write(results: Results, path: Path) -> None:
    """Write the page to ``path``, whose directory is made."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(html(results), encoding="utf-8")


def html(results: Results) -> str:
    """The page."""
    facts = "".join(f"<tr><th scope=row>{escape(name)}</th><td>{escape(value)}</td></tr>" for name, value in about(results))
    links = "".join(f'<li><a href="#{escape(each.name)}">{escape(each.title)}</a></li>' for each in results.sections)
    return (
        '<!DOCTYPE html>\n<html lang="en"><head><meta charset="utf-8"><meta name="viewport" content="width=device-width, initial-scale=1">'
        f"<title>greendaphne beside other servers</title><style>{_STYLE}</style></head><body>\n<h1>greendaphne beside other servers</h1>\n"
        f"<nav><ul>{links}</ul></nav>\n<p>{_READING}</p>\n<h2>Machine and versions</h2>\n"
        f'<div class="wide"><table class="about"><tbody>{facts}</tbody></table></div>\n'
        + "\n".join(_section(section) for section in results.sections)
        + "\n</body></html>\n"
    )


def _section(section: Section) -> str:
    load = " to ".join(f"{values[0]:g}" for values in section.load_average)
    error = f'<p class="error">Not measured: {escape(section.error)}</p>' if section.error else ""
    return (
        f'<section id="{escape(section.name)}"><h2>{escape(section.title)}</h2>\n<p>{escape(section.method)}</p>\n'
        f"<p>Repeat: <code>{escape(section.command)}</code>. {section.rounds} rounds took {section.seconds:,.0f} s; "
        f"load average of the machine meanwhile: {load}.</p>{error}\n"
        + "\n".join(_table(section, table) for table in section.tables)
        + "</section>"
    )


def _table(section: Section, table: Table) -> str:
    note = f"<p>{escape(table.note)}</p>" if table.note else ""
    cases = "\n".join(_case(table, case, f"{section.name}-{table.name}-{number}") for number, case in enumerate(table.cases))
    return f"<h3>{escape(table.title)}</h3>{note}\n{cases}"


def _case(table: Table, case: Case, name: str) -> str:
    # matplotlib takes half a second to import; the command without a report does not need it.
    from .plots import bars

    first, *others = table.measures
    title = ["server", first.title, "least", "spread", "quartiles", "ratio"]
    title += [cell for each in others for cell in (each.title, "spread")]
    head = "".join(f'<th scope="col">{escape(each)}</th>' for each in [*title, "repeat"])
    rows = "\n".join(_row(table, case, row) for row in case.rows)
    return (
        f"<h4>{escape(case.name)}</h4>\n{bars(case, first, name)}\n"
        f'<div class="wide"><table><thead><tr>{head}</tr></thead><tbody>{rows}</tbody></table></div>'
    )


def _row(table: Table, case: Case, row: Row) -> str:
    first, *others = table.measures
    cells = [escape(row.server)]
    cells += _first(case, row, first)
    for measure in others:
        found = summary(row.samples.get(measure.key, []))
        cells += ["-", "-"] if found is None else [number(found.median, measure.digits), number(found.spread, measure.digits)]
    cells.append(f"<details><summary>command</summary><code>{escape(row.command)}</code></details>")
    kind = ' class="ours"' if row.server.startswith("greendaphne") else ""
    made = f"<tr{kind}>{''.join(f'<td>{cell}</td>' for cell in cells)}</tr>"
    if row.error:
        made += f'<tr><td class="error" colspan="{len(cells)}">{escape(row.server)}: {escape(row.error)}</td></tr>'
    return made


def _first(case: Case, row: Row, measure: Measure) -> list[str]:
    found = summary(row.samples.get(measure.key, []))
    if found is None:
        return ["-"] * 5
    figures = [number(value, measure.digits) for value in (found.median, found.minimum, found.spread)]
    quartiles = f"{number(found.lower_quartile, measure.digits)} to {number(found.upper_quartile, measure.digits)}"
    return [*figures, quartiles, ratio_text(ratio(case, row, measure))]
