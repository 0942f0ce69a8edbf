"""Reads topics as one of a consumer group, whose members divide the partitions among themselves.

What a member has read it commits when it is done with it, which is not when it has read it; before a partition goes to
another member it may say how far it is. Where a group begins that has never committed is decided here, once: aiokafka's
`latest` would skip, at each start, what came before the first commit. The metadata of each commit says how many
partitions the topic had, so that those which are added later are read from their first record.
"""

import asyncio
import logging
from collections.abc import Collection, Mapping, Sequence
from typing import Any, Literal, Protocol

from aiokafka import ConsumerRebalanceListener, ConsumerRecord, OffsetAndMetadata, TopicPartition
from aiokafka.admin import AIOKafkaAdminClient

from proxy import limits
from proxy.kafka.readers import new_consumer, start_consumer, stop_client
from proxy.kafka.topics import UNREACHABLE

log = logging.getLogger(__name__)


class Member(Protocol):
    """Who does the work; `flows/commands.py`."""

    def assigned(self, positions: Mapping[TopicPartition, int]) -> None:
        """These partitions are this member's now, no others; reading begins there."""

    async def revoked(self) -> None:
        """They may go to others once this returns, in a bounded time."""


class GroupReader(ConsumerRebalanceListener):  # type: ignore[misc]
    """One member of the group."""

    def __init__(
        self,
        options: dict[str, Any],
        group: str,
        topics: Sequence[str],
        begin: Literal["latest", "earliest"],
        member: Member,
    ) -> None:
        self._group = group
        self._topics = topics
        self._begin = begin
        self._member = member
        # What retention took before it was read is gone; what is left begins there.
        self._consumer = new_consumer(options, begin="earliest", group=group)
        self._admin = AIOKafkaAdminClient(**options)
        self._mine: frozenset[TopicPartition] = frozenset()
        #: Partitions of each topic when they were divided last.
        self._counts: dict[str, int] = {}

    async def start(self) -> None:
        """Raises aiokafka's errors when the cluster does not answer."""
        await self._admin.start()
        await start_consumer(self._consumer)
        self._consumer.subscribe(list(self._topics), listener=self)

    async def read(self) -> dict[TopicPartition, list[ConsumerRecord]]:
        """What has come, in order per partition; after a while nothing. Raises aiokafka's errors."""
        batches = await self._consumer.getmany(
            timeout_ms=int(limits.COMMAND_POLL_SECONDS * 1000), max_records=limits.COMMAND_BATCH_RECORDS_MAX
        )
        return {partition: records for partition, records in batches.items() if partition in self._mine}

    async def commit(self, offsets: Mapping[TopicPartition, int]) -> bool:
        """False when it could not be said, for instance because the partition is another member's now."""
        try:
            async with asyncio.timeout(limits.KAFKA_REQUEST_SECONDS_MAX):
                await self._consumer.commit(
                    {
                        partition: OffsetAndMetadata(offset, str(self._counts.get(partition.topic, 0)))
                        for partition, offset in offsets.items()
                    }
                )
        except (*UNREACHABLE, ValueError) as error:
            log.info("offsets not committed", extra={"error": repr(error)})
            return False
        return True

    async def stop(self) -> None:
        names = ", ".join(self._topics)
        await asyncio.gather(stop_client(self._consumer.stop, names), stop_client(self._admin.close, names))

    async def on_partitions_revoked(self, revoked: Collection[TopicPartition]) -> None:
        """As aiokafka calls it, before every change."""
        if self._mine:
            await self._member.revoked()
        self._mine = frozenset()

    async def on_partitions_assigned(self, assigned: Collection[TopicPartition]) -> None:
        """As aiokafka calls it. Nothing is handed out before each partition stands where its reading begins."""
        while True:
            try:
                positions = await self._positions(assigned)
                break
            except UNREACHABLE as error:
                log.warning("offsets of the group cannot be read", extra={"error": repr(error)})
                await asyncio.sleep(limits.RETRY_SECONDS)
        for partition, offset in positions.items():
            self._consumer.seek(partition, offset)
        self._mine = frozenset(positions)
        self._member.assigned(positions)

    async def _positions(self, assigned: Collection[TopicPartition]) -> dict[TopicPartition, int]:
        self._counts = {topic: len(self._consumer.partitions_for_topic(topic) or ()) for topic in self._topics}
        everything = [TopicPartition(topic, number) for topic in self._topics for number in range(self._counts[topic])]
        committed = {
            partition: said
            for partition, said in (
                await self._admin.list_consumer_group_offsets(self._group, partitions=everything)
            ).items()
            if said.offset >= 0
        }
        positions = {partition: committed[partition].offset for partition in assigned if partition in committed}
        new = [partition for partition in assigned if partition not in committed]
        if new:
            found = await self._beginnings(new, committed)
            # From now on the group has been there, whether or not there is ever a command.
            await self.commit(found)
            positions |= found
        return positions

    async def _beginnings(
        self, new: list[TopicPartition], committed: Mapping[TopicPartition, OffsetAndMetadata]
    ) -> dict[TopicPartition, int]:
        latest = [each for each in new if self._begin == "latest" and not _was_added(each, committed)]
        earliest = [each for each in new if each not in latest]
        found: dict[TopicPartition, int] = {}
        if latest:
            found |= await self._consumer.end_offsets(latest)
        if earliest:
            found |= await self._consumer.beginning_offsets(earliest)
        return found


def _was_added(partition: TopicPartition, committed: Mapping[TopicPartition, OffsetAndMetadata]) -> bool:
    """Whether the topic had fewer partitions when the group committed in it."""
    said = [mark.metadata for other, mark in committed.items() if other.topic == partition.topic]
    counts = [int(metadata) for metadata in said if metadata and metadata.isdecimal()]
    return bool(counts) and partition.partition >= min(counts)
