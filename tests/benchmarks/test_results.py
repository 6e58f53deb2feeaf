"""The benchmarks keep the figures of all rounds, and what fails is a line of the report instead of the end of the run."""

from __future__ import annotations

import sys
from collections.abc import Iterator, Sequence
from pathlib import Path

import pytest

from benchmarks import attacks, candidates, environment, http1, load, memory
from benchmarks.environment import BenchmarkError
from benchmarks.family import Family, Layout, Plan, Sample, Trial, cpu_us
from benchmarks.results import Case, Measure, Results, Row, ratio, read, summary
from benchmarks.runner import Selection, run
from benchmarks.servers import Command, Server, running

PLAN = Plan(rounds=2, seconds=0.2, idle=30, members=30)
EVERYTHING = Selection()


def figures(cases: Sequence[str], plan: Plan) -> Iterator[tuple[str, Sample]]:
    for case in cases:
        yield case, {"cpu_us": 40.0}


def does_not_start(cases: Sequence[str], plan: Plan) -> Iterator[tuple[str, Sample]]:
    with running("broken", Command((sys.executable, "-c", "raise SystemExit('no such module')"))):
        yield from figures(cases, plan)


def fails_in_the_middle(cases: Sequence[str], plan: Plan) -> Iterator[tuple[str, Sample]]:
    yield cases[0], {"cpu_us": 50.0}
    raise BenchmarkError("3 of 4 requests failed")


def family(*trials: Trial, name: str = "some") -> Family:
    layout = Layout("hello", "Hello", (cpu_us("request"),))
    return Family(name, "Some servers", "How it was measured.", (layout,), lambda plan: list(trials))


def rows(results: Results, section: int = 0, table: int = 0) -> dict[tuple[str, str], Row]:
    return {(case.name, row.server): row for case in results.sections[section].tables[table].cases for row in case.rows}


def test_every_round_is_kept() -> None:
    found = rows(run([family(Trial("hello", "ours", ("a", "b"), figures))], PLAN, EVERYTHING))
    assert {key: row.samples for key, row in found.items()} == {("a", "ours"): {"cpu_us": [40, 40]}, ("b", "ours"): {"cpu_us": [40, 40]}}


def test_a_server_that_does_not_start_is_a_line() -> None:
    trials = [Trial("hello", "ours", ("a",), figures), Trial("hello", "broken", ("a",), does_not_start)]
    found = rows(run([family(*trials)], PLAN, EVERYTHING))
    assert found["a", "ours"].samples == {"cpu_us": [40, 40]}
    assert found["a", "broken"].samples == {}
    assert found["a", "broken"].error == "round 2: broken did not start: no such module"


def test_a_server_that_fails_in_the_middle_keeps_its_figures() -> None:
    found = rows(run([family(Trial("hello", "half", ("a", "b"), fails_in_the_middle))], PLAN, EVERYTHING))
    assert (found["a", "half"].samples, found["a", "half"].error) == ({"cpu_us": [50, 50]}, None)
    assert (found["b", "half"].samples, found["b", "half"].error) == ({}, "round 2: 3 of 4 requests failed")


def test_a_server_that_fails_twice_in_succession_is_given_up() -> None:
    rounds = iter([False, True, False, False, True, True, True])

    def run_round(cases: Sequence[str], plan: Plan) -> Iterator[tuple[str, Sample]]:
        assert next(rounds), "an error of the benchmark"
        yield from figures(cases, plan)

    found = rows(run([family(Trial("hello", "weak", ("a",), run_round))], PLAN._replace(rounds=7), EVERYTHING))
    assert found["a", "weak"].samples == {"cpu_us": [40]}
    assert (found["a", "weak"].error or "").startswith("round 4: AssertionError: an error of the benchmark")
    assert len(list(rounds)) == 3


def test_figures_are_kept_after_each_family() -> None:
    kept = []
    families = [family(Trial("hello", "ours", ("a",), figures), name=name) for name in ("first", "second")]
    run(families, PLAN, EVERYTHING, lambda results: kept.append(len(results.sections)))
    assert kept == [1, 2]


def test_a_family_that_fails_does_not_end_the_run() -> None:
    def missing(plan: Plan) -> list[Trial]:
        raise BenchmarkError("h2load is missing: apt-get install nghttp2-client")

    broken = family(name="broken")._replace(trials=missing)
    results = run([broken, family(Trial("hello", "ours", ("a",), figures))], PLAN, EVERYTHING)
    assert [section.error for section in results.sections] == ["h2load is missing: apt-get install nghttp2-client", None]
    assert rows(results, 1)["a", "ours"].samples


def test_a_selection_has_the_first_server_too() -> None:
    trials = [Trial("hello", server, ("1 connection", "64 connections"), figures) for server in ("ours", "granian", "uvicorn")]
    found = rows(run([family(*trials)], PLAN, Selection("hello: 64", "Granian")))
    assert list(found) == [("64 connections", "ours"), ("64 connections", "granian")]
    assert found["64 connections", "granian"].command == (
        "python -m benchmarks --only some --case 'hello: 64 connections' --server granian"
    )


def test_rehearsals_are_not_counted() -> None:
    found = rows(run([family(Trial("hello", "ours", ("a",), figures))._replace(rehearse=True)], PLAN, EVERYTHING))
    assert found["a", "ours"].samples == {"cpu_us": [40, 40]}


def test_the_file_has_everything(tmp_path: Path) -> None:
    trials = [Trial("hello", "ours", ("a",), figures), Trial("hello", "half", ("a", "b"), fails_in_the_middle)]
    results = run([family(*trials)], PLAN, EVERYTHING)
    results.write(tmp_path / "new" / "results.json")
    assert read(tmp_path / "new" / "results.json") == results


@pytest.mark.parametrize("text", ["", "[]", "{}", '{"format": 0}', '{"format": 1}', '{"format": 1, "sections": [{}]}'])
def test_another_file_is_refused(tmp_path: Path, text: str) -> None:
    path = tmp_path / "results.json"
    path.write_text(text)
    with pytest.raises(BenchmarkError, match=r"results\.json"):
        read(path)


def test_statistics() -> None:
    found = summary([4.0, 1.0, 2.0, 8.0, 3.0, 7.0, 5.0])
    assert found is not None
    assert (found.minimum, found.median, found.maximum, found.spread, found.rounds) == (1, 4, 8, 7, 7)
    assert (found.lower_quartile, found.upper_quartile) == (2.5, 6)
    assert summary([]) is None
    assert summary([2.0]) == (2, 2, 2, 2, 2, 1)


def test_the_ratio_is_the_first_servers_figure_to_anothers() -> None:
    first = Row("ours", "", {"cpu": [10, 20, 40], "rate": [100.0]})
    other = Row("other", "", {"cpu": [40, 40, 40], "rate": [50.0]})
    case = Case("a", [first, other, Row("failed", "")])
    assert ratio(case, other, Measure("cpu", "")) == (0.5, 0.25)
    assert ratio(case, other, Measure("rate", "", less_is_better=False)) == (2, 2)
    assert ratio(case, first, Measure("cpu", "")) is None
    assert ratio(case, case.rows[2], Measure("cpu", "")) is None


def test_memory_of_idle_connections_of_each_protocol() -> None:
    results = run([memory.FAMILY], PLAN._replace(rounds=1), Selection(server="greendaphne, channel layer"))
    found = rows(results)
    assert {case for case, _ in found} == {"HTTP/1.1", "HTTP/2", "WebSocket"}
    assert [row.error for row in found.values()] == [None] * 3
    assert all(row.samples["open_us"][0] > 0 for row in found.values())


def test_hello_over_http1() -> None:
    found = rows(run([http1.FAMILY], PLAN._replace(rounds=1), Selection(server="channel layer")))
    assert list(found) == [("1 connection", "greendaphne, channel layer"), ("64 connections", "greendaphne, channel layer")]
    for row in found.values():
        assert row.error is None
        assert set(row.samples) == {measure.key for measure in http1.MEASURES}
        assert min(figures[0] for figures in row.samples.values()) > 0


@pytest.fixture(scope="module")
def server() -> Iterator[Server]:
    with running("greendaphne", candidates.layer()) as made:
        yield made


@pytest.mark.parametrize(("program", "fresh"), [("wrk", False), ("wrk", True), (None, False)])
def test_load_ends_after_a_part_of_a_second(server: Server, program: str | None, fresh: bool) -> None:
    wrk = program and environment.tool("wrk", "wrk")
    found = load.generate(wrk, server.port, connections=4, seconds=0.3, core=environment.cores().client, fresh=fresh)
    assert found.requests > 0
    assert found.errors == 0
    assert 0.1 < found.seconds < 20
    assert 0 < found.median_ms <= found.p99_ms


def test_the_promises_to_clients_beside_an_attacker() -> None:
    """10 ms more for the client, and 20 ms of the hub, by the clock or by its CPU time; other servers do not tell about theirs."""
    assert attacks.kept({"more": 10.0, "lag": 20.0, "busy": 80.0})
    assert attacks.kept({"more": 10.0, "lag": 80.0, "busy": 20.0}, "busy")
    assert attacks.kept({"more": -1.0})
    assert not attacks.kept({"more": 10.1, "lag": 1.0, "busy": 1.0})
    assert not attacks.kept({"more": 10.1, "lag": 1.0, "busy": 1.0}, "busy")
    assert not attacks.kept({"more": 1.0, "lag": 20.1, "busy": 1.0})
    assert not attacks.kept({"more": 1.0, "lag": 1.0, "busy": 20.1}, "busy")
