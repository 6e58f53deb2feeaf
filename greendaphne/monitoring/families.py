"""Families of samples as plain values, and the counters that they are read from.

A :class:`Family` is a metric family of Prometheus.  It is a tuple of plain values, so that it can be passed between processes as JSON
without a library; ``exposition`` turns it into text.  Counting uses plain integers, dicts and, for distributions, :class:`Histogram`,
without locks, because only one hub counts, and without lookups of labels.
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Mapping, Sequence
from math import inf
from typing import Any, Final, NamedTuple

#: Upper bounds in seconds for the duration of requests: from a cached page to the time limit of a worker.
REQUEST_BUCKETS: Final = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0, 120.0)
#: Upper bounds in seconds for calls of the channel layer and for the hub's lag.
LATENCY_BUCKETS: Final = (0.0001, 0.00025, 0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0)

Labels = dict[str, str]


class Sample(NamedTuple):
    """One number; ``suffix`` follows the family's name, such as ``_total`` or ``_bucket``."""

    suffix: str
    labels: Labels
    value: float


class Family(NamedTuple):
    """Samples of one name and meaning; ``kind`` is ``counter``, ``gauge`` or ``histogram``, ``name`` is without ``_total``."""

    name: str
    kind: str
    help: str
    samples: list[Sample]


class Histogram:
    """Counts values by size.

    :param bounds: upper bounds, inclusive and ascending; an unlimited last one is added.
    """

    __slots__ = ("_bounds", "_counts", "_sum")

    def __init__(self, bounds: Sequence[float]) -> None:
        self._bounds = tuple(bounds)
        self._counts = [0] * (len(self._bounds) + 1)
        self._sum = 0.0

    def observe(self, value: float) -> None:
        """Count ``value``."""
        self._counts[bisect_left(self._bounds, value)] += 1
        self._sum += value

    @property
    def count(self) -> int:
        """The number of counted values."""
        return sum(self._counts)

    def samples(self, labels: Labels) -> list[Sample]:
        """The samples of a histogram with these labels."""
        total = 0
        result = []
        for bound, count in zip((*self._bounds, inf), self._counts, strict=True):
            total += count
            # repr() like every client library, so that equal bounds have equal labels.
            result.append(Sample("_bucket", {**labels, "le": "+Inf" if bound == inf else repr(float(bound))}, total))
        result.append(Sample("_count", labels, total))
        result.append(Sample("_sum", labels, self._sum))
        return result


def counter(name: str, text: str, value: float) -> Family:
    """A counter without labels."""
    return Family(name, "counter", text, [Sample("_total", {}, value)])


def counters(name: str, text: str, labels: tuple[str, ...], values: Mapping[Any, float]) -> Family:
    """A counter with labels: ``values`` has a number for each tuple of label values, which are strings."""
    return Family(name, "counter", text, [Sample("_total", dict(zip(labels, key, strict=True)), value) for key, value in values.items()])


def gauge(name: str, text: str, value: float) -> Family:
    """A gauge without labels."""
    return Family(name, "gauge", text, [Sample("", {}, value)])


def gauges(name: str, text: str, labels: tuple[str, ...], values: Mapping[Any, float]) -> Family:
    """A gauge with labels; the parameters are those of :func:`counters`."""
    return Family(name, "gauge", text, [Sample("", dict(zip(labels, key, strict=True)), value) for key, value in values.items()])


def histogram(name: str, text: str, value: Histogram) -> Family:
    """A histogram without labels."""
    return Family(name, "histogram", text, value.samples({}))


def histograms(name: str, text: str, label: str, values: Mapping[str, Histogram]) -> Family:
    """A histogram with one label."""
    return Family(name, "histogram", text, [sample for key, value in values.items() for sample in value.samples({label: key})])
