"""Reads records back from Kafka."""

from collections.abc import AsyncIterator, Mapping, Sequence
from typing import Any

from aiokafka import AIOKafkaConsumer, ConsumerRecord


async def tail(
    bootstrap_servers: list[str], topics: Sequence[str], client: Mapping[str, Any] | None = None
) -> AsyncIterator[ConsumerRecord]:
    """Every record of these topics from their beginning, then each as it arrives; all partitions, no group. `client` is
    made by `security.client_options`.
    """
    consumer = AIOKafkaConsumer(
        *topics,
        bootstrap_servers=bootstrap_servers,
        auto_offset_reset="earliest",
        enable_auto_commit=False,
        **(client or {}),
    )
    try:
        await consumer.start()
        async for record in consumer:
            yield record
    finally:
        await consumer.stop()
