"""Latencies, counted in buckets of 1.6 % width: a run of any length costs the same memory, and runs merge exactly."""

from array import array

_SUB_BITS = 6
_SUB = 1 << _SUB_BITS
_MAX_MICROSECONDS = (1 << 36) - 1
_BUCKETS = (36 - _SUB_BITS + 1) * _SUB


class Histogram:
    """Durations in seconds go in, percentiles in seconds come out. A percentile is the upper edge of its bucket."""

    __slots__ = ("counts", "maximum", "total")

    def __init__(self) -> None:
        self.counts = array("Q", bytes(8 * _BUCKETS))
        self.total = 0
        self.maximum = 0.0

    def add(self, seconds: float, count: int = 1) -> None:
        microseconds = min(int(seconds * 1e6), _MAX_MICROSECONDS)
        shift = max(microseconds.bit_length() - _SUB_BITS - 1, 0)
        self.counts[shift * _SUB + (microseconds >> shift)] += count
        self.total += count
        self.maximum = max(self.maximum, seconds)

    def merge(self, other: "Histogram") -> None:
        for bucket, count in enumerate(other.counts):
            if count:
                self.counts[bucket] += count
        self.total += other.total
        self.maximum = max(self.maximum, other.maximum)

    def percentile(self, fraction: float) -> float | None:
        """The duration that `fraction` of all were not longer than; None when nothing was counted."""
        rank, seen = max(fraction * self.total, 1.0), 0
        for bucket, count in enumerate(self.counts):
            seen += count
            if seen >= rank:
                return min(_upper_edge(bucket), self.maximum)
        return None

    def summary_ms(self) -> dict[str, float | int | None]:
        """Count, p50, p95, p99 and maximum in milliseconds, as the report shows them."""
        points = {"p50": 0.50, "p95": 0.95, "p99": 0.99}
        summary: dict[str, float | int | None] = {"count": self.total}
        for name, fraction in points.items():
            seconds = self.percentile(fraction)
            summary[name] = None if seconds is None else round(seconds * 1e3, 3)
        summary["max"] = round(self.maximum * 1e3, 3) if self.total else None
        return summary


def _upper_edge(bucket: int) -> float:
    """The first two rows of _SUB buckets are single microseconds; in each further row they are twice as wide."""
    shift = max(bucket // _SUB - 1, 0)
    return ((bucket - shift * _SUB + 1) << shift) / 1e6
