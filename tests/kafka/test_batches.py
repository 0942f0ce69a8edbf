"""The bookkeeping of what waits: FIFO, withdrawal, deadline, pace, MD5; and what a record costs while it waits."""

import gc
import os
import tracemalloc
from collections.abc import Callable
from hashlib import md5

import pytest
from hypothesis import given
from hypothesis import strategies as st

from proxy import limits
from proxy.errors import GatewayError
from proxy.kafka.batches import BatchPace, Entry, PartitionQueue, md5_partition, settle_entries
from proxy.kafka.gateway import Destination, Recipient
from tests.kafka.outcomes import Outcomes


def entry(token: int, recipient: Recipient, taken_at: float = 0.0, size: int = 100) -> Entry:
    destination = Destination("up", 0, b"key-%d" % token, 1, PartitionQueue(0))
    return (destination, b"value-%d" % token, [], recipient, token, taken_at, size)


def queue_of(*entries: Entry) -> PartitionQueue:
    queue = PartitionQueue(0)
    queue.entries.extend(entries)
    return queue


def tokens(entries: list[Entry]) -> list[int]:
    return [each[4] for each in entries]


class Builder:
    """Takes so many records, then says that it is full."""

    def __init__(self, records_max: int) -> None:
        self.taken: list[tuple[int, bytes, bytes]] = []
        self._records_max = records_max

    def append(self, *, timestamp: int, key: bytes, value: bytes, headers: object) -> object:
        if len(self.taken) == self._records_max:
            return None
        self.taken.append((timestamp, key, value))
        return self


# ---- MD5 ----


@pytest.mark.parametrize(
    ("key", "partitions", "partition"),
    [
        # MD5 of nothing is d41d8cd98f00b204e9800998ecf8427e, of "a" 0cc175b9c0f1b6a831c399e269772661 (RFC 1321).
        (b"", 12, 0x7E % 12),
        (b"a", 12, 0x61 % 12),
        (b"abc", 100, 0x72 % 100),
        (b"message digest", 256, 0xD0),
        (b"", 1, 0),
        (b"", 127, 126),
        # One byte counts, so nothing beyond the first 256 partitions is ever reached.
        (b"", 1000, 0x7E),
        (b"message digest", 300, 0xD0),
    ],
)
def test_the_partition_is_the_last_byte_of_md5_modulo_the_partitions(
    key: bytes, partitions: int, partition: int
) -> None:
    assert md5_partition(key, partitions) == partition


@given(st.binary(max_size=100), st.integers(1, 10_000))
def test_the_partition_exists_and_is_below_256(key: bytes, partitions: int) -> None:
    partition = md5_partition(key, partitions)
    assert 0 <= partition < min(partitions, 256)
    assert partition == int(md5(key, usedforsecurity=False).hexdigest()[-2:], 16) % partitions


# ---- the queue ----


def test_what_moves_into_a_batch_leaves_from_the_head() -> None:
    outcomes = Outcomes()
    queue = queue_of(*(entry(token, outcomes, taken_at=token / 8) for token in range(5)))
    builder = Builder(10)
    taken: list[Entry] = []
    queue.move(taken, builder.append, 1_000_000.0, 3)
    assert tokens(taken) == [0, 1, 2]
    assert builder.taken == [
        (1_000_000, b"key-0", b"value-0"),
        (1_000_125, b"key-1", b"value-1"),
        (1_000_250, b"key-2", b"value-2"),
    ]
    assert tokens(list(queue.entries)) == [3, 4]
    assert queue.oldest == 3 / 8


def test_a_batch_that_is_full_leaves_the_rest_where_it_was() -> None:
    outcomes = Outcomes()
    queue = queue_of(*(entry(token, outcomes) for token in range(5)))
    taken: list[Entry] = []
    queue.move(taken, Builder(2).append, 0.0, 100)
    assert (tokens(taken), len(queue)) == ([0, 1], 3)
    queue.move(taken, Builder(0).append, 0.0, 100)
    assert (tokens(taken), len(queue)) == ([0, 1], 3)


def test_a_record_that_cannot_be_packed_stays_at_the_head() -> None:
    def append(*, timestamp: int, key: bytes, value: bytes, headers: object) -> object:
        if value == b"value-1":
            raise TypeError("value")
        return key

    outcomes = Outcomes()
    queue = queue_of(*(entry(token, outcomes) for token in range(3)))
    taken: list[Entry] = []
    with pytest.raises(TypeError):
        queue.move(taken, append, 0.0, 100)
    assert (tokens(taken), tokens(queue.take_head()), tokens(list(queue.entries))) == ([0], [1], [2])


def test_an_empty_queue_has_no_head() -> None:
    queue = PartitionQueue(0)
    assert (queue.take_head(), queue.oldest, len(queue), bool(queue)) == ([], None, 0, False)


def test_what_comes_back_is_first_again() -> None:
    outcomes = Outcomes()
    queue = queue_of(*(entry(token, outcomes) for token in range(4)))
    taken: list[Entry] = []
    queue.move(taken, Builder(10).append, 0.0, 3)
    queue.put_back(taken)
    assert tokens(list(queue.entries)) == [0, 1, 2, 3]


def test_recipients_leave_and_the_others_keep_their_order() -> None:
    gone, also_gone, stays = Outcomes(), Outcomes(), Outcomes()
    queue = queue_of(entry(0, gone), entry(1, stays), entry(2, also_gone), entry(3, gone), entry(4, stays))
    before = queue.entries
    assert queue.remove({Outcomes()}) == []
    assert queue.entries is before  # Nothing is copied for those who have nothing here.
    assert tokens(queue.remove({gone, also_gone})) == [0, 2, 3]
    assert tokens(list(queue.entries)) == [1, 4]


def test_what_is_overdue_leaves() -> None:
    outcomes = Outcomes()
    queue = queue_of(*(entry(token, outcomes, taken_at=float(token)) for token in range(5)))
    assert queue.take_older_than(0.0) == []
    assert tokens(queue.take_older_than(2.0)) == [0, 1]
    assert tokens(queue.take_older_than(100.0)) == [2, 3, 4]
    assert queue.take_older_than(100.0) == []


# ---- settling ----


class Calls:
    """A recipient that remembers each call."""

    def __init__(self, name: str, calls: list[tuple[str, list[int], float]]) -> None:
        self._name = name
        self._calls = calls

    def settle(self, tokens: list[int], error: GatewayError | None, seconds: float) -> None:
        assert error is None
        self._calls.append((self._name, tokens, seconds))


def test_one_call_covers_a_run_of_records_of_one_recipient_and_one_time() -> None:
    calls: list[tuple[str, list[int], float]] = []
    one, two = Calls("one", calls), Calls("two", calls)
    entries = [entry(1, one, 1.0), entry(2, one, 1.0), entry(3, two, 1.0), entry(4, one, 1.0), entry(5, one, 2.0)]
    assert settle_entries(entries, None, 3.0) == []
    assert calls == [("one", [1, 2], 2.0), ("two", [3], 2.0), ("one", [4], 2.0), ("one", [5], 1.0)]


def test_nothing_is_settled_for_nobody() -> None:
    assert settle_entries([], None, 0.0) == []


def test_what_recipients_raise_is_returned_and_everybody_is_told() -> None:
    class Broken:
        def settle(self, tokens: list[int], error: GatewayError | None, seconds: float) -> None:
            raise ValueError(tokens)

    outcomes, broken = Outcomes(), Broken()
    error = GatewayError("not delivered")
    bugs = settle_entries([entry(1, broken), entry(2, outcomes), entry(3, broken)], error, 0.0)
    assert [str(bug) for bug in bugs] == ["[1]", "[3]"]
    assert outcomes.errors == {2: error}


# ---- pace ----


def test_few_batches_wait_for_nobody() -> None:
    pace = BatchPace(per_second=200.0, burst=20, tick_seconds=0.02)
    assert [pace.delay(10.0 + number * 0.005) for number in range(1000)] == [0.0] * 1000


def test_after_a_pause_a_burst_starts_at_once_and_the_rest_on_a_common_tick() -> None:
    pace = BatchPace(per_second=200.0, burst=20, tick_seconds=0.02)
    delays = [pace.delay(100.013) for _ in range(30)]
    assert delays[:21] == [0.0] * 21
    assert delays[21:] == pytest.approx([0.007] * 9)
    # A lone batch soon after is free again.
    assert pace.delay(100.013 + 0.02) == 0.0


@given(st.lists(st.floats(0.0, 0.05), max_size=300))
def test_no_batch_waits_for_longer_than_a_tick(gaps: list[float]) -> None:
    pace = BatchPace(limits.FREE_BATCHES_PER_SECOND, limits.FREE_BATCHES_BURST, limits.BATCH_TICK_SECONDS)
    now, free = 50.0, 0
    for gap in gaps:
        now += gap
        delay = pace.delay(now)
        assert 0.0 <= delay <= limits.BATCH_TICK_SECONDS
        free += delay == 0.0
    # The bound that the pace is there for, whatever the gaps are.
    assert free <= 1 + limits.FREE_BATCHES_BURST + (now - 50.0) * limits.FREE_BATCHES_PER_SECOND + 1


# ---- memory ----

SHARED = [("mqtt.topic", b"tlink/pk/dev1/up"), ("mqtt.clientid", b"dev1")]


def shared(token: int) -> list[tuple[str, bytes]]:
    return SHARED


def all_there_are(token: int) -> list[tuple[str, bytes]]:
    own = [("mqtt.retain", b"1"), ("mqtt.dup", b"1"), ("mqtt.qos", b"%d" % 1), ("mqtt.packet_id", b"%d" % token)]
    return SHARED + own


@pytest.mark.parametrize("headers_of", [shared, all_there_are])
@pytest.mark.parametrize("payload_bytes", [64, 128, 10_000])
def test_a_waiting_record_costs_no_more_memory_than_is_counted(
    headers_of: Callable[[int], list[tuple[str, bytes]]], payload_bytes: int
) -> None:
    queue, outcomes, payload = PartitionQueue(0), Outcomes(), os.urandom(payload_bytes + 1)
    destination = Destination("up", 0, b"tlink/pk/dev1/up", 1, queue)
    counted = 0
    gc.collect()
    tracemalloc.start()
    try:
        before, _ = tracemalloc.get_traced_memory()
        for token in range(1_000, 11_000):
            value = payload[:payload_bytes]
            # Each one is taken at a time of its own, as with devices that send one message each.
            size = destination.bytes + len(value)
            queue.entries.append((destination, value, headers_of(token), outcomes, token, token / 7, size))
            counted += size
        after, _ = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert after - before <= counted
    if headers_of is all_there_are:
        # The bound is not generous either: what the limit says was measured.
        assert counted - (after - before) < 0.1 * counted
