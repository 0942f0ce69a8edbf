"""One partition from its end on."""

import asyncio

from confluent_kafka import Producer

from proxy.kafka.readers import ConsumerRecord
from proxy.kafka.tails import PartitionTail
from tests.kafka.conftest import until
from tests.support.kafka_broker import KafkaBroker


async def test_it_reads_what_comes_to_its_partition(kafka: KafkaBroker, topic: str) -> None:
    kafka.create_topic(topic, 2)
    producer = Producer({"bootstrap.servers": kafka.bootstrap})
    producer.produce(topic, b"before", b"key", 1)
    producer.flush(30)
    read: list[bytes] = []

    def take(records: list[ConsumerRecord]) -> None:
        read.extend(record.value for record in records)

    tail = PartitionTail({"bootstrap_servers": kafka.bootstrap}, topic, 1, take)
    await tail.start()
    # Written before anybody follows: it is read all the same.
    for value, partition in ((b"one", 1), (b"other", 0), (b"two", 1)):
        producer.produce(topic, value, b"key", partition)
    producer.flush(30)
    following = asyncio.create_task(tail.follow())
    try:
        await until(lambda: len(read) == 2 or following.done(), "both are read")
        assert read == [b"one", b"two"]
    finally:
        following.cancel()
        await asyncio.wait((following,))
        await tail.stop()
