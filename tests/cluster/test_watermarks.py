"""What may be committed: never past a record that is not settled."""

from hypothesis import given
from hypothesis import strategies as st

from proxy.cluster.watermarks import Watermark


def test_it_waits_for_the_first() -> None:
    mark = Watermark(10)
    for offset in (10, 11, 14):
        mark.begin(offset)
    mark.settle(11)
    mark.settle(14)
    assert (mark.offset, len(mark), mark.unsettled) == (10, 3, 1)
    mark.settle(10)
    assert (mark.offset, len(mark), mark.unsettled) == (15, 0, 0)


@given(st.permutations(range(20)))
def test_any_order(order: list[int]) -> None:
    mark, settled = Watermark(0), set[int]()
    for offset in range(20):
        mark.begin(offset)
    for offset in order:
        mark.settle(offset)
        settled.add(offset)
        assert mark.offset == next(each for each in range(21) if each not in settled)
    assert len(mark) == 0
