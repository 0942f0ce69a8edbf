"""How long Kafka itself takes to acknowledge one record at a time: what a proxy before it cannot undercut.

Measured with both client libraries there are for Python, each used in its quickest way, at a fixed rate.
"""

import asyncio
import time

from aiokafka import AIOKafkaProducer
from confluent_kafka import KafkaException, Message, Producer

from loadtest.errors import LoadError
from loadtest.histogram import Histogram

WARM_UP_SECONDS = 1.0
ANSWER_SECONDS = 30.0
KEY = b"tlink/lt/dev000000/up"
HEADERS: list[tuple[str, str | bytes | None]] = [("mqtt.topic", KEY), ("mqtt.clientid", b"dev000000")]


def measure_aiokafka(bootstrap: str, topic: str, size: int, rate: float, seconds: float) -> Histogram:
    """One record per `send_batch`, to partition 0, idempotent, acks=all."""
    return asyncio.run(_measure_aiokafka(bootstrap, topic, bytes(size), rate, seconds))


async def _measure_aiokafka(bootstrap: str, topic: str, value: bytes, rate: float, seconds: float) -> Histogram:
    producer = AIOKafkaProducer(bootstrap_servers=bootstrap, acks="all", enable_idempotence=True, linger_ms=0)
    await producer.start()
    histogram = Histogram()
    try:
        began = due = time.monotonic()
        while due < began + seconds:
            await asyncio.sleep(due - time.monotonic())
            sent = time.monotonic()
            batch = producer.create_batch()
            batch.append(key=KEY, value=value, timestamp=None, headers=HEADERS)
            batch.close()
            await (await producer.send_batch(batch, topic, partition=0))
            if sent > began + WARM_UP_SECONDS:
                histogram.add(time.monotonic() - sent)
            due += 1 / rate
    finally:
        await producer.stop()
    return histogram


def measure_librdkafka(bootstrap: str, topic: str, size: int, rate: float, seconds: float) -> Histogram:
    """One record per `produce`, linger 0, to partition 0, idempotent, acks=all."""
    producer = Producer({"bootstrap.servers": bootstrap, "enable.idempotence": True, "acks": "all", "linger.ms": 0})
    histogram, value = Histogram(), bytes(size)
    delivered: list[float] = []

    def on_delivery(error: object, _: Message) -> None:
        if error is not None:
            raise KafkaException(error)
        delivered.append(time.monotonic())

    began = due = time.monotonic()
    while due < began + seconds:
        time.sleep(max(due - time.monotonic(), 0.0))
        sent = time.monotonic()
        producer.produce(topic, value, KEY, partition=0, on_delivery=on_delivery, headers=HEADERS)
        while not delivered:
            if time.monotonic() > sent + ANSWER_SECONDS:
                raise LoadError(f"Kafka at {bootstrap} acknowledged nothing within {ANSWER_SECONDS:.0f} s")
            producer.poll(0.1)
        if sent > began + WARM_UP_SECONDS:
            histogram.add(delivered.pop() - sent)
        delivered.clear()
        due += 1 / rate
    return histogram
