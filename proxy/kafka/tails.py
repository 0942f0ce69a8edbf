"""Reads one partition from its end on: what is there already is nobody's business any more."""

import asyncio
import logging
from collections.abc import Callable
from typing import Any

from aiokafka import ConsumerRecord, TopicPartition

from proxy import limits
from proxy.kafka.readers import new_consumer, start_consumer, stop_client
from proxy.kafka.topics import UNREACHABLE

log = logging.getLogger(__name__)


class PartitionTail:
    """`on_batch` gets the records of each answer. What is missed in an outage that outlasts the topic's retention is
    lost: whoever wrote it has stopped waiting.
    """

    def __init__(
        self, options: dict[str, Any], topic: str, partition: int, on_batch: Callable[[list[ConsumerRecord]], None]
    ) -> None:
        self._partition = TopicPartition(topic, partition)
        self._on_batch = on_batch
        self._consumer = new_consumer(options)

    async def start(self) -> None:
        """Returns when whatever is written from now on will be read. Raises aiokafka's errors."""
        await start_consumer(self._consumer)
        self._consumer.assign([self._partition])
        ends = await self._consumer.end_offsets([self._partition])
        self._consumer.seek(self._partition, ends[self._partition])

    async def follow(self) -> None:
        """Reads what comes, until it is cancelled."""
        while True:
            try:
                batches = await self._consumer.getmany(
                    timeout_ms=limits.LOG_POLL_MS, max_records=limits.LOG_BATCH_RECORDS_MAX
                )
            except UNREACHABLE as error:
                log.warning("inbox cannot be read", extra={"topic": self._partition.topic, "error": repr(error)})
                await asyncio.sleep(limits.RETRY_SECONDS)
                continue
            for records in batches.values():
                self._on_batch(records)
            if batches:
                await asyncio.sleep(limits.COMMAND_GATHER_SECONDS)

    async def stop(self) -> None:
        await stop_client(self._consumer.stop, self._partition.topic)
