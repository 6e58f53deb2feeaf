"""Plots as SVG to stand inside an HTML page, whose style sheet gives them their colours."""

from __future__ import annotations

import io
import re
from statistics import median
from typing import Any, Final

from cycler import cycler
from matplotlib import rc_context
from matplotlib.figure import Figure

from .results import Case, Measure
from .text import number

#: Colours that stand for the custom properties of the page's style sheet, so that a plot follows its light or dark theme.
COLOURS: Final = {"#010203": "var(--text)", "#010204": "var(--ours)", "#010205": "var(--theirs)", "#010206": "var(--line)"}
_TEXT, _OURS, _THEIRS, _LINE = COLOURS
_WIDTH, _BAR, _MARGIN = 7.6, 0.27, 0.55
_SETTINGS: Final[dict[Any, Any]] = {
    "font.family": "sans-serif",
    "font.size": 9.0,
    "svg.fonttype": "none",
    "text.color": _TEXT,
    "axes.prop_cycle": cycler(color=[_TEXT]),
    "axes.edgecolor": _LINE,
    "axes.labelcolor": _TEXT,
    "xtick.color": _TEXT,
    "ytick.color": _TEXT,
    # A name with a dollar sign is no formula.
    "text.parse_math": False,
}


def bars(case: Case, measure: Measure, name: str) -> str:
    """A bar for the median of each server, with a line from the minimum to the maximum of the rounds.

    :param name: part of the identifiers within the plot, which are unique in a page.
    :returns: an ``svg`` element, or an empty text where there are no figures.
    """
    rows = [row for row in case.rows if row.samples.get(measure.key)]
    if not rows:
        return ""
    middles = [median(row.samples[measure.key]) for row in rows]
    below = [middle - min(row.samples[measure.key]) for middle, row in zip(middles, rows, strict=True)]
    above = [max(row.samples[measure.key]) - middle for middle, row in zip(middles, rows, strict=True)]
    with rc_context({**_SETTINGS, "svg.hashsalt": name}):
        figure = Figure(figsize=(_WIDTH, _MARGIN + _BAR * len(rows)), layout="constrained")
        axes = figure.add_subplot()
        colours = [_OURS if row.server.startswith("greendaphne") else _THEIRS for row in rows]
        places = range(len(rows))
        axes.barh(places, middles, color=colours, height=0.7)
        axes.errorbar(middles, places, xerr=(below, above), fmt="none", color=_TEXT, ecolor=_TEXT, elinewidth=1, capsize=2.5)
        for place, middle, more in zip(places, middles, above, strict=True):
            label = number(middle, measure.digits)
            axes.annotate(label, (middle + more, place), xytext=(4, 0), textcoords="offset points", va="center", fontsize=8)
        axes.set_yticks(places, [row.server for row in rows])
        axes.invert_yaxis()
        axes.set_xlim(0, max(middle + more for middle, more in zip(middles, above, strict=True)) * 1.12 or 1)
        axes.set_xlabel(f"{measure.title} ({'less' if measure.less_is_better else 'more'} is better)")
        axes.spines[["top", "right"]].set_visible(False)
        axes.grid(axis="x", color=_LINE, linewidth=0.5)
        axes.set_axisbelow(True)
        output = io.StringIO()
        figure.savefig(output, format="svg", transparent=True, metadata={"Date": None, "Creator": None, "Format": None, "Type": None})
    return _inline(output.getvalue())


def _inline(document: str) -> str:
    """The ``svg`` element of an SVG document."""
    element = document[document.index("<svg") :].strip()
    element = re.sub(r"<metadata>.*?</metadata>", "", element, flags=re.DOTALL)
    # It would hold for the whole page; the page's own style sheet has it.
    element = re.sub(r"<defs>\s*<style.*?</style>\s*</defs>", "", element, flags=re.DOTALL)
    # HTML knows the namespaces by itself.
    element = re.sub(r' xmlns(:\w+)?="[^"]*"', "", element).replace("xlink:href", "href")
    for colour, value in COLOURS.items():
        element = element.replace(colour, value)
    return re.sub(r"font: ([^;\"]*?)px [^;\"]*", r"font-size: \1px", element)
