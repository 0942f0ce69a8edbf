"""The receive window: PUBACKs leave in the order of receipt, whatever the order in which Kafka settles."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from proxy.session.acks import ReceiveWindow
from tests.support.packets import examples


def window_of(*packet_ids: int) -> ReceiveWindow:
    window = ReceiveWindow()
    for packet_id in packet_ids:
        window.open(packet_id)
    return window


def test_settled_in_order() -> None:
    window = window_of(5, 3, 9)
    assert window.settle([5], 0) == [(5, 0)]
    assert window.settle([3, 9], 0) == [(3, 0), (9, 0)]
    assert len(window) == 0


def test_the_youngest_waits_for_its_elders() -> None:
    window = window_of(1, 2, 3)
    assert window.settle([3], 0) == []
    assert window.settle([2], 0x10) == []
    assert len(window) == 3
    assert window.settle([1], 0x97) == [(1, 0x97), (2, 0x10), (3, 0)]


def test_only_what_no_unsettled_one_precedes() -> None:
    window = window_of(1, 2, 3, 4)
    window.settle([2, 4], 0)
    assert window.settle([1], 0) == [(1, 0), (2, 0)]
    assert [packet_id in window for packet_id in (1, 2, 3, 4)] == [False, False, True, True]


def test_settling_what_nobody_waits_for() -> None:
    window = window_of(1)
    with pytest.raises(KeyError):
        window.settle([2], 0)
    assert len(window) == 1


def test_settling_twice() -> None:
    window = window_of(1, 2)
    window.settle([2], 0)
    with pytest.raises(KeyError):
        window.settle([2], 0)
    window.settle([1], 0)
    with pytest.raises(KeyError):
        window.settle([1], 0)


def test_an_identifier_is_free_once_it_is_released() -> None:
    window = window_of(1, 2)
    window.settle([1], 0)
    window.open(1)
    assert window.settle([1], 0) == []
    assert window.settle([2], 0) == [(2, 0), (1, 0)]


@given(st.lists(st.integers(1, 65_535), unique=True, max_size=30), st.data())
@examples(100)
def test_any_order_of_settling(packet_ids: list[int], data: st.DataObject) -> None:
    window = window_of(*packet_ids)
    waiting = data.draw(st.permutations(packet_ids))
    released: list[int] = []
    while waiting:
        count = data.draw(st.integers(1, len(waiting)))
        batch, waiting = waiting[:count], waiting[count:]
        released += [packet_id for packet_id, _ in window.settle(batch, 0)]
        assert released == packet_ids[: len(released)]
        assert len(window) == len(packet_ids) - len(released)
    assert released == packet_ids
