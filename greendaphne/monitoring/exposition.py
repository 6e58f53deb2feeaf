"""Metrics as Prometheus reads them.

This is the only module that imports ``prometheus_client``, which writes the text: Prometheus' own format, or OpenMetrics for whoever asks
for it.  Its objects are made of families at each scrape and thrown away.
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
    """Return the content type and the text of ``families``, in the format that ``accept`` asks for."""
    try:
        encode, content_type = exposition.choose_encoder(accept)
    except (TypeError, ValueError):
        # A version that is none.
        encode, content_type = exposition.choose_encoder("")
    return content_type, encode(_Families(families))


_process = process_collector.ProcessCollector(registry=None)


def process_families() -> list[Family]:
    """A source of metrics on this process: processor time, memory, descriptors, start; where there is ``/proc``."""
    result = []
    for metric in _process.collect():
        samples = [Sample(sample.name.removeprefix(metric.name), sample.labels, sample.value) for sample in metric.samples]
        result.append(Family(metric.name, metric.type, metric.documentation, samples))
    return result
