"""Reading back: everything from the beginning, then what comes."""

import asyncio
from collections.abc import AsyncIterator

import pytest
from aiokafka import ConsumerRecord
from aiokafka import errors as kafka_errors

from proxy.kafka.readers import tail
from tests.kafka.conftest import gateway_settings, new_gateway
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
