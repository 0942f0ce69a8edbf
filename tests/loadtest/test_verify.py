"""The check of a Kafka log finds exactly what is wrong with it, and nothing where nothing is."""

import json
from typing import Any

import pytest

from loadtest.payload import Payloads
from loadtest.ranges import SequenceRanges
from loadtest.verify import Acknowledged, LogCheck, passed

PAYLOADS = Payloads(b"run-0001", 32)
TOPIC = "tlink_device_msg"


def acknowledged(*counts: int, promised: bool = True) -> Acknowledged:
    """Device k was acknowledged its first `counts[k]` messages."""
    acked = {index: SequenceRanges([(0, count)]) for index, count in enumerate(counts)}
    return Acknowledged(PAYLOADS.run_id, 32, "dev", acked, promised)


def verify(promise: Acknowledged, log: dict[tuple[str, int], list[tuple[int, int]]]) -> dict[str, Any]:
    """`log`: (topic, partition) → its records in order, each (connection, sequence)."""
    check = LogCheck(promise)
    for (topic, partition), records in log.items():
        for offset, (connection, sequence) in enumerate(records):
            check.add(topic, partition, offset, PAYLOADS.payload(connection, sequence))
    return check.result()


def counts(result: dict[str, Any]) -> tuple[int, int, int, int]:
    return result["lost"], result["duplicated"], result["reordered"], result["corrupted"]


def test_a_perfect_log() -> None:
    log = {(TOPIC, 0): [(0, 0), (2, 0), (0, 1), (2, 1)], (TOPIC, 1): [(1, 0)]}
    result = verify(acknowledged(2, 1, 2), log)
    assert counts(result) == (0, 0, 0, 0)
    assert (result["records"], result["devices"], result["acknowledged"]) == (5, 3, 5)
    assert passed(result, acknowledged(2, 1, 2), exactly_once=True)


def test_one_lost_one_duplicated_one_reordered() -> None:
    """Device 0 lost its message 2, device 1 has message 0 twice, device 2 has message 1 after message 2."""
    log = {
        (TOPIC, 0): [(0, 0), (1, 0), (2, 0), (0, 1), (1, 1), (2, 2), (0, 3), (1, 0), (2, 1)],
        (TOPIC, 1): [],
    }
    promise = acknowledged(4, 2, 3)
    result = verify(promise, log)
    assert counts(result) == (1, 1, 1, 0)
    assert result["examples"] == {
        "lost": ["dev000000 message 2: acknowledged, in no topic that was read"],
        "duplicated": ["dev000001 message 0: tlink_device_msg-0 offset 7"],
        "reordered": ["dev000002 message 1: tlink_device_msg-0 offset 8, after 2"],
        "corrupted": [],
    }
    assert not passed(result, promise, exactly_once=False)


@pytest.mark.parametrize(
    ("records", "at_least_once", "exactly_once"),
    [
        ([(0, 0), (0, 1), (0, 2)], True, True),
        ([(0, 0), (0, 1), (0, 2), (0, 1), (0, 2)], True, False),
        ([(0, 0), (0, 2)], False, False),
        ([(0, 0), (0, 2), (0, 1)], False, False),
    ],
)
def test_what_passes(records: list[tuple[int, int]], at_least_once: bool, exactly_once: bool) -> None:
    result = verify(acknowledged(3), {(TOPIC, 0): records})
    assert passed(result, acknowledged(3), exactly_once=False) is at_least_once
    assert passed(result, acknowledged(3), exactly_once=True) is exactly_once


def test_the_resending_of_a_whole_window_is_not_a_reordering() -> None:
    log = {(TOPIC, 0): [(0, 0), (0, 1), (0, 2), (0, 0), (0, 1), (0, 2), (0, 3)]}
    assert counts(verify(acknowledged(4), log)) == (0, 3, 0, 0)


def test_qos_0_promises_nothing_but_order() -> None:
    promise = acknowledged(3, promised=False)
    assert passed(verify(promise, {(TOPIC, 0): [(0, 1)]}), promise, exactly_once=False)
    assert not passed(verify(promise, {(TOPIC, 0): [(0, 1), (0, 0)]}), promise, exactly_once=False)


def test_a_record_in_two_topics_is_not_a_duplicate() -> None:
    assert counts(verify(acknowledged(1), {("a", 0): [(0, 0)], ("b", 0): [(0, 0)]})) == (0, 0, 0, 0)


def test_a_record_in_two_partitions_is_one_and_the_device_counts_as_spread() -> None:
    result = verify(acknowledged(2), {(TOPIC, 0): [(0, 1)], (TOPIC, 1): [(0, 0), (0, 1)]})
    assert counts(result) == (0, 1, 0, 0)
    assert result["spread"] == 1


def test_a_damaged_record_did_not_arrive() -> None:
    check = LogCheck(acknowledged(1))
    damaged = bytearray(PAYLOADS.payload(0, 0))
    damaged[-1] ^= 1
    check.add(TOPIC, 0, 0, bytes(damaged))
    result = check.result()
    assert counts(result) == (1, 0, 0, 1)
    assert not passed(result, acknowledged(0), exactly_once=False)


def test_other_runs_and_empty_records_do_not_count() -> None:
    check = LogCheck(acknowledged(1))
    for value in (None, b"", b"status", Payloads(b"run-0002", 32).payload(0, 0)):
        check.add(TOPIC, 0, 0, value)
    result = check.result()
    assert (result["records"], result["lost"]) == (0, 1)


def test_what_nobody_was_promised_is_told_apart() -> None:
    result = verify(acknowledged(1), {(TOPIC, 0): [(0, 0), (0, 1), (5, 0)]})
    assert counts(result) == (0, 0, 0, 0)
    assert result["unacknowledged"] == 2


def test_examples_are_bounded_and_counts_are_not() -> None:
    result = verify(acknowledged(1_000_000), {(TOPIC, 0): []})
    assert result["lost"] == 1_000_000
    assert len(result["examples"]["lost"]) == 10


def test_what_was_acknowledged_survives_its_file() -> None:
    promise = Acknowledged(b"run-0001", 32, "dev", {3: SequenceRanges([(0, 5), (7, 9)])}, promised=False)
    assert Acknowledged.from_json(json.loads(json.dumps(promise.to_json()))) == promise
