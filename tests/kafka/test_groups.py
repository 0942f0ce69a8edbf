"""One member among others: where a group begins, who reads what, and what is committed."""

import asyncio
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from typing import Any, Literal

import pytest
from confluent_kafka import Producer

from proxy import limits
from proxy.kafka.groups import GroupReader
from tests.kafka.conftest import add_partitions, until
from tests.support.kafka_broker import KafkaBroker

Begin = Literal["latest", "earliest"]


def write(kafka: KafkaBroker, topic: str, *values: int, partition: int = 0) -> None:
    producer = Producer({"bootstrap.servers": kafka.bootstrap})
    for value in values:
        producer.produce(topic, b"%d" % value, b"key", partition)
    assert producer.flush(30) == 0


class Reading:
    """A member that commits what it reads when `commits` is set."""

    def __init__(self, kafka: KafkaBroker, topic: str, begin: Begin, group: str = "") -> None:
        self.values: list[int] = []
        self.positions: dict[Any, int] = {}
        self.ends: dict[Any, int] = {}
        self.revocations = 0
        self.commits = True
        options = {"bootstrap_servers": kafka.bootstrap}
        self.reader = GroupReader(options, group or f"{topic}-group", [topic], begin, self)

    def assigned(self, positions: Mapping[Any, int]) -> None:
        self.positions = dict(positions)
        self.ends = {}

    async def revoked(self) -> None:
        self.revocations += 1
        await self.commit()
        self.positions = {}

    async def commit(self) -> None:
        if self.ends and self.commits:
            await self.reader.commit(self.ends)

    async def _run(self) -> None:
        while True:
            for partition, records in (await self.reader.read()).items():
                self.values += [int(record.value) for record in records]
                self.ends[partition] = records[-1].offset + 1
            await self.commit()

    @asynccontextmanager
    async def running(self) -> AsyncIterator["Reading"]:
        await self.reader.start()
        task = asyncio.create_task(self._run())
        try:
            await until(lambda: bool(self.positions) or task.done(), "it has its share")
            yield self
        finally:
            task.cancel()
            await asyncio.wait((task,))
            await self.reader.stop()


async def test_a_group_that_never_committed_begins_at_the_end_once(kafka: KafkaBroker, topic: str) -> None:
    kafka.create_topic(topic, 2)
    write(kafka, topic, 1)
    async with Reading(kafka, topic, "latest").running() as first:
        assert sorted(first.positions.values()) == [0, 1]
    assert first.values == []
    write(kafka, topic, 2)
    async with Reading(kafka, topic, "latest").running() as second:
        await until(lambda: bool(second.values), "what came while nobody was there")
        write(kafka, topic, 3)
        await until(lambda: second.values == [2, 3], "what comes")
    async with Reading(kafka, topic, "latest").running() as third:
        write(kafka, topic, 4)
        await until(lambda: third.values == [4], "nothing twice")


async def test_or_at_the_beginning(kafka: KafkaBroker, topic: str) -> None:
    kafka.create_topic(topic, 1)
    write(kafka, topic, 1, 2)
    async with Reading(kafka, topic, "earliest").running() as reading:
        await until(lambda: reading.values == [1, 2], "all of it")


async def test_what_was_not_committed_is_read_again(kafka: KafkaBroker, topic: str) -> None:
    kafka.create_topic(topic, 1)
    reading = Reading(kafka, topic, "earliest")
    reading.commits = False
    async with reading.running():
        write(kafka, topic, 1)
        await until(lambda: reading.values == [1], "it is read")
    async with Reading(kafka, topic, "earliest").running() as again:
        await until(lambda: again.values == [1], "once more")


async def test_members_share_and_say_how_far_they_are(kafka: KafkaBroker, topic: str) -> None:
    kafka.create_topic(topic, 2)
    async with Reading(kafka, topic, "earliest").running() as one:
        write(kafka, topic, 1)
        await until(lambda: one.values == [1], "the first reads it")
        async with Reading(kafka, topic, "earliest").running() as two:
            await until(lambda: len(one.positions) == len(two.positions) == 1, "they share")
            assert one.revocations == 1
            for partition in range(2):
                write(kafka, topic, 2 + partition, partition=partition)
            await until(lambda: sorted(one.values + two.values) == [1, 2, 3], "each reads its own")
        await until(lambda: len(one.positions) == 2, "the first has them all again")
        write(kafka, topic, 4, partition=0)
        write(kafka, topic, 5, partition=1)
        await until(lambda: {4, 5} <= set(one.values), "and goes on")
    assert sorted(one.values + two.values) == [1, 2, 3, 4, 5]


async def test_a_partition_that_is_added_is_read_from_its_first_record(
    kafka: KafkaBroker, topic: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(limits, "LOG_METADATA_MS", 500)
    kafka.create_topic(topic, 1)
    async with Reading(kafka, topic, "latest").running() as reading:
        add_partitions(kafka, topic, 2)
        await until(lambda: kafka.topics()[topic] == 2, "there are two")
        write(kafka, topic, 7, partition=1)
        await until(lambda: reading.values == [7], "though nobody knew of it")
