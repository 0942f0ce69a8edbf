"""SequenceRanges behaves like a set of numbers and stays as small as its gaps allow."""

from itertools import pairwise

from hypothesis import given
from hypothesis import strategies as st

from loadtest.ranges import SequenceRanges

ranges = st.lists(st.tuples(st.integers(0, 60), st.integers(1, 8)).map(lambda pair: (pair[0], sum(pair))))


def numbers(pairs: list[tuple[int, int]]) -> set[int]:
    return {number for start, stop in pairs for number in range(start, stop)}


@given(ranges)
def test_is_the_set_that_was_added(pairs: list[tuple[int, int]]) -> None:
    kept, expected = SequenceRanges(pairs), numbers(pairs)
    assert list(kept.numbers()) == sorted(expected)
    assert len(kept) == len(expected)
    assert [number in kept for number in range(80)] == [number in expected for number in range(80)]


@given(ranges)
def test_has_no_range_too_many(pairs: list[tuple[int, int]]) -> None:
    kept = list(SequenceRanges(pairs))
    assert all(stop < start for (_, stop), (start, _) in pairwise(kept))


@given(ranges, ranges)
def test_without(pairs: list[tuple[int, int]], others: list[tuple[int, int]]) -> None:
    rest = SequenceRanges(pairs).without(SequenceRanges(others))
    assert list(rest.numbers()) == sorted(numbers(pairs) - numbers(others))


def test_equality_is_by_content() -> None:
    assert SequenceRanges([(0, 2), (2, 5)]) == SequenceRanges([(0, 5)])
    assert SequenceRanges([(0, 5)]) != SequenceRanges([(0, 4)])
