"""A set of sequence numbers that is kept as ranges, because almost all of them arrive in order."""

from bisect import bisect_left
from collections.abc import Iterable, Iterator


class SequenceRanges:
    """Sorted, disjoint, non-adjacent half-open ranges. Adding in order costs a comparison; elsewhere a bisection."""

    __slots__ = ("_starts", "_stops")

    def __init__(self, ranges: Iterable[tuple[int, int]] = ()) -> None:
        self._starts: list[int] = []
        self._stops: list[int] = []
        for start, stop in ranges:
            self.add(start, stop)

    def add(self, start: int, stop: int) -> None:
        """Add every number from `start` up to, not including, `stop`."""
        starts, stops = self._starts, self._stops
        if not stops or start > stops[-1]:
            starts.append(start)
            stops.append(stop)
        elif start == stops[-1]:
            stops[-1] = stop
        else:
            self._merge(start, stop)

    def _merge(self, start: int, stop: int) -> None:
        starts, stops = self._starts, self._stops
        low = bisect_left(stops, start)
        high = low
        while high < len(starts) and starts[high] <= stop:
            start, stop = min(start, starts[high]), max(stop, stops[high])
            high += 1
        starts[low:high] = [start]
        stops[low:high] = [stop]

    def __contains__(self, sequence: int) -> bool:
        position = bisect_left(self._stops, sequence + 1)
        return position < len(self._starts) and self._starts[position] <= sequence

    def __iter__(self) -> Iterator[tuple[int, int]]:
        return zip(self._starts, self._stops, strict=True)

    def __len__(self) -> int:
        """How many sequence numbers, not how many ranges."""
        return sum(self._stops) - sum(self._starts)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, SequenceRanges) and list(self) == list(other)

    __hash__ = None  # type: ignore[assignment]  # it changes

    def numbers(self) -> Iterator[int]:
        for start, stop in self:
            yield from range(start, stop)

    def without(self, other: "SequenceRanges") -> "SequenceRanges":
        """The numbers that are here and not in `other`."""
        rest = SequenceRanges()
        for start, stop in self:
            position, begin = bisect_left(other._stops, start + 1), start
            while position < len(other._starts) and other._starts[position] < stop:
                if begin < other._starts[position]:
                    rest.add(begin, other._starts[position])
                begin = other._stops[position]
                position += 1
            if begin < stop:
                rest.add(begin, stop)
        return rest
