"""Reading back: everything from the beginning, then what comes; and whose turn it is."""

import asyncio
import contextlib
from collections.abc import AsyncIterator, Iterable

import pytest
from aiokafka import ConsumerRecord
from aiokafka import errors as kafka_errors
from confluent_kafka import Consumer, Producer, TopicPartition
from confluent_kafka.admin import AdminClient

from proxy import limits
from proxy.kafka.readers import CompactionPassedError, LogReader, Turns, tail
from tests.kafka.conftest import gateway_settings, new_gateway, until
from tests.kafka.outcomes import Outcomes, send
from tests.support.kafka_broker import KafkaBroker
from tests.support.processes import free_port


async def take(records: AsyncIterator[ConsumerRecord], count: int) -> list[ConsumerRecord]:
    async with asyncio.timeout(30):
        return [await anext(records) for _ in range(count)]


async def test_a_tail_begins_at_the_beginning_and_goes_on(kafka: KafkaBroker, topic: str) -> None:
    gateway, outcomes = new_gateway(gateway_settings(kafka, partitions=3)), Outcomes()
    other = f"{topic}-other"
    await gateway.start([topic, other])
    records = tail({"bootstrap_servers": kafka.bootstrap}, [topic, other])
    try:
        send(gateway, topic, b"", outcomes, [1, 2])
        send(gateway, other, b"a", outcomes, [3])
        assert await gateway.flush(30) == 0
        first = await take(records, 3)
        assert sorted((record.topic, record.key, record.value) for record in first) == [
            (topic, b"", b"1"),
            (topic, b"", b"2"),
            (other, b"a", b"3"),
        ]
        send(gateway, topic, b"a", outcomes, [4])
        [record] = await take(records, 1)
        assert (record.topic, record.partition, record.offset, record.value) == (topic, 0x61 % 3, 0, b"4")
    finally:
        await records.aclose()
        await gateway.stop()


async def test_a_tail_of_a_kafka_that_is_not_there_says_so() -> None:
    with pytest.raises(kafka_errors.KafkaConnectionError):
        await take(tail({"bootstrap_servers": f"127.0.0.1:{free_port()}"}, ["topic"]), 1)


# ---- a log that is followed ----


def write(kafka: KafkaBroker, topic: str, values: Iterable[int], partition: int = 0, padding: int = 0) -> None:
    producer = Producer({"bootstrap.servers": kafka.bootstrap})
    for value in values:
        producer.produce(topic, (b"%d" % value).ljust(padding), b"key", partition)
    assert producer.flush(30) == 0


def end_of(kafka: KafkaBroker, topic: str) -> int:
    consumer = Consumer({"bootstrap.servers": kafka.bootstrap, "group.id": "tests"})
    try:
        _, end = consumer.get_watermark_offsets(TopicPartition(topic, 0), 10)
    finally:
        consumer.close()
    return int(end)


class Followed:
    """A reader, and what it has read."""

    def __init__(self, kafka: KafkaBroker, topic: str, *, gapless: bool = True) -> None:
        self.read: list[tuple[int, bytes | None]] = []
        self.reader = LogReader({"bootstrap_servers": kafka.bootstrap}, topic, self._take, gapless=gapless)

    def _take(self, records: list[ConsumerRecord]) -> None:
        assert len({record.partition for record in records}) == 1
        assert len(records) <= limits.LOG_BATCH_RECORDS_MAX
        self.read += [(record.partition, record.value) for record in records]

    @contextlib.asynccontextmanager
    async def following(self) -> AsyncIterator["asyncio.Task[None]"]:
        task = asyncio.create_task(self.reader.follow())
        try:
            yield task
        finally:
            task.cancel()
            await asyncio.wait((task,))
            await self.reader.stop()


async def test_a_reader_replays_what_is_there_and_follows_what_comes(kafka: KafkaBroker, topic: str) -> None:
    kafka.create_topic(topic, 3)
    write(kafka, topic, range(1_200), partition=0)
    write(kafka, topic, range(5), partition=2)
    followed = Followed(kafka, topic)
    await followed.reader.start()
    assert followed.reader.partitions == 3
    await followed.reader.replay()
    assert [value for partition, value in followed.read if partition == 0] == [b"%d" % each for each in range(1_200)]
    assert [value for partition, value in followed.read if partition == 2] == [b"%d" % each for each in range(5)]
    assert followed.reader.records == 1_205
    followed.read.clear()
    async with followed.following() as task:
        write(kafka, topic, [7, 8], partition=1)
        await until(lambda: len(followed.read) == 2 or task.done(), "the new records are read")
        assert followed.read == [(1, b"7"), (1, b"8")]
        await until(lambda: followed.reader.silence_seconds < 2, "the brokers answer")


async def test_an_empty_log_is_replayed_at_once(kafka: KafkaBroker, topic: str) -> None:
    kafka.create_topic(topic, 2)
    followed = Followed(kafka, topic)
    await followed.reader.start()
    async with asyncio.timeout(30):
        await followed.reader.replay()
    await followed.reader.stop()
    assert followed.read == []


async def test_records_that_were_removed_before_they_were_read(kafka: KafkaBroker, topic: str) -> None:
    kafka.create_topic(topic)
    followed = Followed(kafka, topic)
    await followed.reader.start()
    await followed.reader.replay()
    # More than is fetched ahead while nobody follows.
    count = 3 * limits.LOG_FETCH_BYTES // 10_000
    write(kafka, topic, range(count), padding=10_000)
    admin = AdminClient({"bootstrap.servers": kafka.bootstrap})
    await asyncio.to_thread(
        lambda: [answer.result(10) for answer in admin.delete_records([TopicPartition(topic, 0, count)]).values()]
    )
    async with followed.following() as task:
        await until(task.done, "the reader gives up")
        with pytest.raises(CompactionPassedError, match=topic):
            task.result()
    assert followed.reader.records < count


@pytest.mark.parametrize("gapless", [True, False])
async def test_a_hole_is_what_compaction_took(kafka: KafkaBroker, topic: str, gapless: bool) -> None:
    """The end of a transaction takes an offset that nobody sees, as a record does that was compacted away."""
    kafka.create_topic(topic)
    followed = Followed(kafka, topic, gapless=gapless)
    await followed.reader.start()
    await followed.reader.replay()
    producer = Producer({"bootstrap.servers": kafka.bootstrap, "transactional.id": topic})
    await asyncio.to_thread(producer.init_transactions, 30)
    producer.begin_transaction()
    producer.produce(topic, b"1", b"key", 0)
    await asyncio.to_thread(producer.commit_transaction, 30)
    # The end of the transaction is in the log a moment after the producer has its answer.
    await until(lambda: end_of(kafka, topic) == 2, "the transaction has ended")
    write(kafka, topic, [2])
    async with followed.following() as task:
        await until(lambda: task.done() or len(followed.read) == 2, "both are read, or the reader gives up")
        if gapless:
            with pytest.raises(CompactionPassedError, match="offset 2 follows 0"):
                task.result()
        else:
            assert followed.read == [(0, b"1"), (0, b"2")]


# ---- turns ----


async def test_members_share_the_partitions_and_marks_survive_them(kafka: KafkaBroker, topic: str) -> None:
    kafka.create_topic(topic, 4)
    options = {"bootstrap_servers": kafka.bootstrap}
    one, two = (Turns(options, f"{topic}-group", topic) for _ in range(2))
    every = frozenset(range(4))
    try:
        await one.start()
        await until(lambda: one.mine == every, "the first has them all")
        assert await one.marks(4) == {}
        assert await one.mark({0: (7, "100"), 3: (9, "")})
        await two.start()
        await until(lambda: bool(one.mine) and bool(two.mine) and one.mine | two.mine == every, "they share")
        assert not one.mine & two.mine
        assert await two.marks(4) == {0: (7, "100"), 3: (9, "")}
        (others, *_) = two.mine
        assert not await one.mark({others: (50, "")}), "not its turn"
        assert (await two.marks(4)).get(others) != (50, "")
        for each in (one, two):
            await each.keep_alive()
        await one.stop()
        await until(lambda: two.mine == every, "the second has them all")
        assert await two.mark({0: (8, "200")})
        assert await two.marks(4) == {0: (8, "200"), 3: (9, "")}
    finally:
        await two.stop()
