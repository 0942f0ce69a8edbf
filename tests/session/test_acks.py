"""Both windows: acknowledgements leave in the order of receipt, whatever the order in which Kafka settles, and
identifiers of ours are not used twice at a time.
"""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from proxy.mqtt.packets import PUBACK, PUBCOMP, PUBREC
from proxy.session.acks import ReceiveWindow, SendWindow
from tests.support.packets import examples


def window_of(*packet_ids: int, qos: int = 1) -> ReceiveWindow:
    window = ReceiveWindow()
    for packet_id in packet_ids:
        window.open(packet_id, qos)
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


def test_a_message_that_is_stored_and_waits_for_its_elders_is_unreleased() -> None:
    """Its session has to remember it: the device, which was not told, will repeat it."""
    window = window_of(1)
    for packet_id in (2, 3, 4):
        window.open(packet_id, 2)
    window.settle([2], 0)
    window.settle([3], 0x97)
    assert window.unreleased == [2]
    for packet_id, reason in window.settle([1], 0):
        window.receive_of(packet_id, refused=reason >= 0x80)
    assert window.unreleased == [2]
    window.release(2)
    assert window.unreleased == []


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
    window.open(1, 1)
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


def test_a_message_of_qos_2_counts_until_it_is_released() -> None:
    window = window_of(1, qos=2)
    assert window.settle([1], 0) == [(1, 0)]
    assert window.receive_of(1, refused=False)
    assert (len(window), window.unsettled, 1 in window) == (1, 0, True)
    assert window.release(1)
    assert (len(window), 1 in window) == (0, False)
    assert not window.release(1)


def test_a_message_of_qos_2_that_is_refused_is_free_at_once() -> None:
    window = window_of(1, qos=2)
    window.settle([1], 0x97)
    assert window.receive_of(1, refused=True)
    assert (len(window), 1 in window) == (0, False)
    assert not window.release(1)


def test_nothing_of_qos_1_is_released() -> None:
    window = window_of(1)
    assert not window.has_exactly_once
    assert not window.release(1)
    window.settle([1], 0)
    assert not window.receive_of(1, refused=False)


# ---- what we have sent ----


def test_a_message_of_qos_1_is_done_with_its_puback() -> None:
    window = SendWindow(2)
    window.open(7, 1)
    assert window.receive(PUBREC, 7, refused=False) is None
    assert window.receive(PUBCOMP, 7, refused=False) is None
    assert window.receive(PUBACK, 8, refused=False) is None
    assert window.receive(PUBACK, 7, refused=False) is True
    assert window.receive(PUBACK, 7, refused=False) is None
    assert len(window) == 0


def test_a_message_of_qos_2_is_done_with_its_pubcomp() -> None:
    window = SendWindow(2)
    window.open(7, 2)
    assert window.receive(PUBACK, 7, refused=False) is None
    assert window.receive(PUBCOMP, 7, refused=False) is None
    assert window.receive(PUBREC, 7, refused=False) is False
    assert len(window) == 1
    assert window.receive(PUBREC, 7, refused=False) is None
    assert window.receive(PUBCOMP, 7, refused=False) is True
    assert len(window) == 0


def test_a_message_of_qos_2_that_is_refused_is_done() -> None:
    window = SendWindow(1)
    window.open(7, 2)
    assert window.full
    assert window.receive(PUBREC, 7, refused=True) is True
    assert not window.full


def test_identifiers_begin_again_and_skip_what_is_in_use() -> None:
    """0 is none."""
    window = SendWindow(65_535)
    given = []
    for _ in range(65_535):
        given.append(window.next_id())
        window.open(given[-1], 1)
    assert sorted(given) == list(range(1, 65_536))
    assert window.full
    for packet_id in (9, 3):
        window.receive(PUBACK, packet_id, refused=False)
    assert window.next_id() == 3
    window.open(3, 1)
    assert window.next_id() == 9
