"""Writes metrics for Prometheus.

Only this module imports ``prometheus_client``, which writes the text: Prometheus' own format, or OpenMetrics for clients that request it.
Its objects are created from families at each scrape and discarded.
"""

from __future__ import annotations

from collections.abc import Iterable

from .families import Family, Sample

try:
    from prometheus_client import exposition, process_collector
    from prometheus_client.core import Metric
    from prometheus_client.registry import Collector
except ImportError as error:
    raise ImportError(f"Metrics need prometheus_client ({error}); it comes with greendaphne[metrics].") from None


class _Families(Collector):
    def __init__(self, families: Iterable[Family]) -> None:
        self._families = families

    def collect(self) -> Iterable[Metric]:
        for family in self._families:
            metric = Metric(family.name, family.help, family.kind)
            for suffix, labels, value in family.samples:
                metric.add_sample(family.name + suffix, labels, value)
            yield metric


def render(families: Iterable[Family], accept: str) -> tuple[str, bytes]:
    """Return the content type and the text of ``families``, in the format that the ``Accept`` field ``accept`` requests."""
    try:
        encode, content_type = exposition.choose_encoder(accept)
    except (TypeError, ValueError):
        # An invalid version in the field.
        encode, content_type = exposition.choose_encoder("")
    return content_type, encode(_Families(families))


_process = process_collector.ProcessCollector(registry=None)


def process_families() -> list[Family]:
    """A source of metrics on this process: processor time, memory, descriptors, start; empty without ``/proc``."""
    result = []
    for metric in _process.collect():
        samples = [Sample(sample.name.removeprefix(metric.name), sample.labels, sample.value) for sample in metric.samples]
        result.append(Family(metric.name, metric.type, metric.documentation, samples))
    return result
