"""Reads records back from Kafka: a topic from its beginning and then on, and whose turn it is among the replicas."""

import asyncio
import logging
from collections.abc import AsyncIterator, Awaitable, Callable, Collection, Sequence
from typing import Any, Literal

from aiokafka import AIOKafkaConsumer, ConsumerRebalanceListener, ConsumerRecord, OffsetAndMetadata, TopicPartition
from aiokafka import errors as kafka_errors
from aiokafka.admin import AIOKafkaAdminClient

from proxy import limits
from proxy.clock import monotonic, wall_ms
from proxy.kafka.metadata import pace

log = logging.getLogger(__name__)

__all__ = ["CompactionPassedError", "ConsumerRecord", "LogReader", "Turns", "tail"]


async def tail(options: dict[str, Any], topics: Sequence[str]) -> AsyncIterator[ConsumerRecord]:
    """Every record of these topics from their beginning, then each as it arrives; all partitions, no group."""
    consumer = new_consumer(options, *topics, begin="earliest")
    try:
        await start_consumer(consumer)
        async for record in consumer:
            yield record
    finally:
        await consumer.stop()


class CompactionPassedError(Exception):
    """Records were removed before they were read: what was derived from the log can no longer be trusted."""


class LogReader:
    """Follows every partition of one topic. `on_batch` gets the records of each answer, in order per partition. One
    that is `gapless` ends with CompactionPassedError when a record was removed before it was read.
    """

    def __init__(
        self, options: dict[str, Any], topic: str, on_batch: Callable[[list[ConsumerRecord]], None], *, gapless: bool
    ) -> None:
        self.topic = topic
        self._gapless = gapless
        self.records = 0
        self._on_batch = on_batch
        # Subscribed without a group it is assigned every partition.
        self._consumer = new_consumer(options, topic, begin="none")
        self._partitions: list[TopicPartition] = []
        self._next: dict[TopicPartition, int] = {}

    @property
    def partitions(self) -> int:
        """How many the topic has; known once started."""
        return len(self._partitions)

    async def start(self) -> None:
        """Raises aiokafka's errors when the cluster does not answer."""
        await start_consumer(self._consumer)
        self._partitions = sorted(self._consumer.assignment())

    async def replay(self) -> None:
        """Reads everything that is there now. Raises aiokafka's errors."""
        ends = await self._consumer.end_offsets(self._partitions)
        starts = await self._consumer.beginning_offsets(self._partitions)
        total = sum(ends.values()) - sum(starts.values())
        for partition, start in starts.items():
            self._consumer.seek(partition, start)
        told = monotonic()
        while not await self._has_reached(ends):
            await self._poll(replaying=True)
            if monotonic() - told > limits.REPLAY_PROGRESS_SECONDS:
                told = monotonic()
                log.info("replaying", extra={"topic": self.topic, "records": self.records, "offsets": total})

    async def follow(self) -> None:
        """Reads what comes, until it is cancelled. Raises CompactionPassedError."""
        for partition in self._partitions:
            self._next[partition] = await self._consumer.position(partition)
        while True:
            await self._poll(replaying=False)

    @property
    def silence_seconds(self) -> float:
        """How long ago the longest silent partition was heard of."""
        heard = [self._consumer.last_poll_timestamp(partition) or 0 for partition in self._partitions]
        return max(0.0, (wall_ms() - min(heard, default=0)) / 1000)

    async def has_read_since(self, since_ms: int) -> bool:
        """Whether every partition was heard of after that time (wall clock), and all of it has been read."""
        for partition in self._partitions:
            heard = self._consumer.last_poll_timestamp(partition) or 0
            end = self._consumer.highwater(partition) or 0
            if heard <= since_ms or await self._consumer.position(partition) < end:
                return False
        return True

    async def stop(self) -> None:
        await stop_client(self._consumer.stop, self.topic)

    async def _has_reached(self, ends: dict[TopicPartition, int]) -> bool:
        return all([await self._consumer.position(partition) >= end for partition, end in ends.items()])

    async def _poll(self, *, replaying: bool) -> None:
        try:
            batches = await self._consumer.getmany(
                timeout_ms=limits.LOG_POLL_MS, max_records=limits.LOG_BATCH_RECORDS_MAX
            )
        except kafka_errors.OffsetOutOfRangeError as error:
            raise CompactionPassedError(f"{self.topic}: {error!r}") from None
        except kafka_errors.KafkaError as error:
            log.warning("log cannot be read", extra={"topic": self.topic, "error": repr(error)})
            await asyncio.sleep(limits.RETRY_SECONDS)
            return
        for partition, records in batches.items():
            if self._gapless and not replaying:
                self._check_gapless(partition, records)
            self.records += len(records)
            self._on_batch(records)
            # A long replay shares the event loop.
            await asyncio.sleep(0)

    def _check_gapless(self, partition: TopicPartition, records: list[ConsumerRecord]) -> None:
        """Producers without transactions leave no holes, so a hole is what compaction took before we read it."""
        expected = self._next[partition]
        for record in records:
            if record.offset != expected:
                raise CompactionPassedError(f"{partition}: offset {record.offset} follows {expected - 1}")
            expected = record.offset + 1
        self._next[partition] = expected


class Turns(ConsumerRebalanceListener):  # type: ignore[misc]
    """Whose turn it is: a consumer group divides the partitions of a topic among the replicas. Nothing is fetched; the
    committed offsets are the marks up to which the work is done, with a word of ours as their metadata.
    """

    def __init__(self, options: dict[str, Any], group: str, topic: str) -> None:
        self.mine: frozenset[int] = frozenset()
        self._group = group
        self._topic = topic
        self._consumer = new_consumer(options, group=group)
        self._admin = AIOKafkaAdminClient(**options)

    async def start(self) -> None:
        """Raises aiokafka's errors when the cluster does not answer."""
        await self._admin.start()
        await start_consumer(self._consumer)
        self._consumer.subscribe([self._topic], listener=self)

    async def marks(self, partitions: int) -> dict[int, tuple[int, str]]:
        """For each partition with a mark: the offset behind it, and its metadata. Raises aiokafka's errors."""
        asked = [TopicPartition(self._topic, number) for number in range(partitions)]
        found = await self._admin.list_consumer_group_offsets(self._group, partitions=asked)
        return {
            partition.partition: (committed.offset, committed.metadata or "")
            for partition, committed in found.items()
            if committed.offset >= 0
        }

    async def mark(self, marks: dict[int, tuple[int, str]]) -> bool:
        """Commits; False when it is not this replica's turn any more."""
        try:
            await self._consumer.commit(
                {
                    TopicPartition(self._topic, number): OffsetAndMetadata(offset, metadata)
                    for number, (offset, metadata) in marks.items()
                }
            )
        except (kafka_errors.KafkaError, ValueError) as error:
            log.info("mark not committed", extra={"error": repr(error)})
            return False
        return True

    async def keep_alive(self) -> None:
        """Tells the group that this replica works. aiokafka asks for a poll now and then; all partitions are paused."""
        try:
            await self._consumer.getmany(timeout_ms=0)
        except kafka_errors.KafkaError as error:
            log.warning("group of sweepers does not answer", extra={"error": repr(error)})

    async def stop(self) -> None:
        await asyncio.gather(stop_client(self._consumer.stop, self._topic), stop_client(self._admin.close, self._topic))

    async def on_partitions_revoked(self, revoked: Collection[TopicPartition]) -> None:
        """As aiokafka calls it."""
        self.mine = frozenset()

    async def on_partitions_assigned(self, assigned: Collection[TopicPartition]) -> None:
        """As aiokafka calls it."""
        self._consumer.pause(*assigned)
        self.mine = frozenset(partition.partition for partition in assigned)


def new_consumer(
    options: dict[str, Any],
    *topics: str,
    begin: Literal["earliest", "latest", "none"] = "latest",
    group: str | None = None,
) -> AIOKafkaConsumer:
    """What every reader of ours is made with. `begin` is for a partition of which no offset is known any more."""
    return AIOKafkaConsumer(
        *topics,
        **options,
        group_id=group,
        enable_auto_commit=False,
        auto_offset_reset=begin,
        session_timeout_ms=int(limits.TURN_SESSION_SECONDS * 1000),
        heartbeat_interval_ms=int(limits.TURN_HEARTBEAT_SECONDS * 1000),
        # A broker answers at once when there is something; this is for when there is nothing.
        fetch_max_wait_ms=limits.LOG_FETCH_WAIT_MS,
        max_partition_fetch_bytes=limits.LOG_FETCH_BYTES,
        metadata_max_age_ms=limits.LOG_METADATA_MS,
    )


async def start_consumer(consumer: AIOKafkaConsumer) -> None:
    await consumer.start()
    pace(consumer._client)


async def stop_client(stop: Callable[[], Awaitable[None]], topic: str) -> None:
    """aiokafka may wait for brokers that do not answer."""
    try:
        async with asyncio.timeout(limits.PRODUCER_STOP_SECONDS_MAX):
            await stop()
    except Exception as error:
        log.warning("kafka client did not stop cleanly", extra={"topic": topic, "error": repr(error)})
