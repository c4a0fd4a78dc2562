"""A handful of numbers as the figures a report shows."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np


@dataclass(frozen=True)
class Distribution:
    """Mean, variance (of the sample, n - 1), percentiles (linear between ranks) and ends of `count` values."""

    count: int
    mean: float
    variance: float
    minimum: float
    p50: float
    p90: float
    p95: float
    p99: float
    maximum: float

    @classmethod
    def of(cls, values: Iterable[float]) -> Distribution | None:
        """The distribution of some values; None when there are none."""
        given = np.fromiter(values, dtype=np.float64)
        if not len(given):
            return None
        p50, p90, p95, p99 = (float(at) for at in np.percentile(given, (50, 90, 95, 99)))
        return cls(
            count=len(given),
            mean=float(given.mean()),
            variance=float(given.var(ddof=1)) if len(given) > 1 else 0.0,
            minimum=float(given.min()),
            p50=p50,
            p90=p90,
            p95=p95,
            p99=p99,
            maximum=float(given.max()),
        )
