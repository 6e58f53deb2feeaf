"""The dashboard for Grafana in ``examples`` asks for what a running server has, and the documentation shows the same queries."""

from __future__ import annotations

import json
import re
from itertools import combinations
from pathlib import Path
from typing import Any

import pytest

from tests.support.certificates import Authority
from tests.support.monitoring import scrape
from tests.support.server import serve

ROOT = Path(__file__).resolve().parents[2]
PAGE = ROOT / "docs" / "monitoring.rst"
DASHBOARD: dict[str, Any] = json.loads((ROOT / "examples" / "grafana" / "greendaphne.json").read_text(encoding="utf-8"))
PANELS = [panel for panel in DASHBOARD["panels"] if panel["type"] != "row"]
QUERIES = [target["expr"] for panel in PANELS for target in panel["targets"]]
NAME = r"\b(?:greendaphne|process)_\w+"
#: What Prometheus adds to each sample, and the label of buckets.
ADDED = {"instance", "job", "le"}


def documented_labels() -> dict[str, set[str]]:
    """The labels of each metric, as the page has them."""
    rows = re.findall(r"^``(greendaphne_\w+)`` +(?:counter|gauge|histogram)  (.{24})", PAGE.read_text(encoding="utf-8"), re.MULTILINE)
    return {name: set(re.findall(r"\w+", labels)) for name, labels in rows}


@pytest.fixture(scope="module")
def samples(tmp_path_factory: pytest.TempPathFactory) -> set[str]:
    """The names of the metrics of a server with TLS, as queries write them."""
    directory = tmp_path_factory.mktemp("tls")
    pem = Authority.make(directory).server("localhost").write(directory / "server.pem")
    with serve(endpoints=[f"ssl:0:{pem}:interface=127.0.0.1"], metrics="tcp:0:interface=127.0.0.1", watchdog=5) as server:
        names = set()
        for name, kind in scrape(server).kinds.items():
            base = name.removesuffix("_total")
            names |= {"counter": {f"{base}_total"}, "histogram": {f"{base}_{end}" for end in ("bucket", "sum", "count")}}.get(kind, {name})
        return names


@pytest.mark.parametrize("query", [*QUERIES, *(each["expr"] for each in DASHBOARD["annotations"]["list"])])
def test_a_query_is_about_metrics_and_labels_that_exist(query: str, samples: set[str]) -> None:
    names = set(re.findall(NAME, query))
    assert names
    assert names <= samples
    labels = set(re.findall(r"(\w+)(?:=~|!=|!~|=)\"", query)) | {
        each for by in re.findall(r"by \((.+?)\)", query) for each in by.split(", ")
    }
    known = documented_labels()
    for name in names:
        assert labels - ADDED <= known.get(re.sub("_bucket$", "", name), set()), (name, labels)


def test_the_documentation_has_the_same_queries() -> None:
    text = PAGE.read_text(encoding="utf-8")
    table = text[text.index("Grafana\n-------") : text.index("The watchdog\n------------")]
    assert re.findall(rf"``(.*?{NAME}.*?)``", table) == QUERIES
    assert re.findall(r"\* - (.*)\n +- ``", table) == [panel["title"] for panel in PANELS]


def test_panels_stand_side_by_side() -> None:
    identifiers = [panel["id"] for panel in DASHBOARD["panels"]]
    assert len(set(identifiers)) == len(identifiers)
    places = [panel["gridPos"] for panel in DASHBOARD["panels"]]
    assert all(place["x"] + place["w"] <= 24 for place in places)
    for one, other in combinations(places, 2):
        beside = one["x"] + one["w"] <= other["x"] or other["x"] + other["w"] <= one["x"]
        below = one["y"] + one["h"] <= other["y"] or other["y"] + other["h"] <= one["y"]
        assert beside or below, (one, other)


def test_panels_take_the_data_source_of_the_variable() -> None:
    assert [variable["name"] for variable in DASHBOARD["templating"]["list"]] == ["datasource"]
    for panel in PANELS:
        assert {target["datasource"]["uid"] for target in panel["targets"]} == {"${datasource}"}
        assert panel["description"]
        assert re.fullmatch(r"[A-Z].*\S", panel["title"])
