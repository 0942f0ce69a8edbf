"""What commands are read with, on gateways in memory: the letters of a replica, and the topics of commands."""

import asyncio
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

from tests.support.memory_log import MemoryKafka


class Place(NamedTuple):
    """As aiokafka names a partition."""

    topic: str
    partition: int


class MemoryCommands:
    """Reads what is in the gateways of a `MemoryKafka`. Its attributes are there to be set and seen by tests."""

    def __init__(self, kafka: MemoryKafka) -> None:
        self.kafka = kafka
        #: Committed offsets, by topic and partition.
        self.committed: dict[tuple[str, int], int] = {}
        self.readers: list[MemoryGroupReader] = []

    def install(self, patch: Any) -> None:
        """From now on commands and letters are read here."""
        patch.setattr("proxy.flows.switchboard.PartitionTail", self._tail)
        patch.setattr("proxy.flows.commands.GroupReader", self._group)

    def _tail(self, options: dict[str, Any], topic: str, partition: int, on_batch: Any) -> "MemoryTail":
        return MemoryTail(self.kafka, topic, partition, on_batch)

    def _group(
        self, options: dict[str, Any], group: str, topics: Sequence[str], begin: str, member: Any
    ) -> "MemoryGroupReader":
        self.readers.append(MemoryGroupReader(self, topics, member))
        return self.readers[-1]


class MemoryTail:
    """As `PartitionTail`."""

    def __init__(self, kafka: MemoryKafka, topic: str, partition: int, on_batch: Callable[[list[Any]], None]) -> None:
        self._kafka = kafka
        self._place = (topic, partition)
        self._on_batch = on_batch
        self._next = 0

    async def start(self) -> None:
        self._kafka.open.add(self)
        self._next = len(self._kafka.records(*self._place))

    async def follow(self) -> None:
        while True:
            records = self._kafka.records(*self._place)[self._next :]
            self._next += len(records)
            self._on_batch(records)
            await asyncio.sleep(0.001)

    async def stop(self) -> None:
        self._kafka.open.discard(self)


class MemoryGroupReader:
    """As `GroupReader`, the only member of its group, with one partition of each topic."""

    def __init__(self, commands: MemoryCommands, topics: Sequence[str], member: Any) -> None:
        self.member = member
        self.places = [Place(topic, 0) for topic in topics]
        self._commands = commands
        self._next: dict[Place, int] = {}

    async def start(self) -> None:
        self._commands.kafka.open.add(self)
        self.assign()

    def assign(self) -> None:
        """All partitions are this member's, from what was committed on."""
        self._next = {place: self._commands.committed.get(place, 0) for place in self.places}
        self.member.assigned(dict(self._next))

    async def read(self) -> dict[Place, list[Any]]:
        await asyncio.sleep(0.001)
        found = {}
        for place in self.places:
            records = self._commands.kafka.records(*place)[self._next[place] :]
            self._next[place] += len(records)
            if records:
                found[place] = records
        return found

    async def commit(self, offsets: Mapping[Place, int]) -> bool:
        self._commands.committed |= offsets
        return True

    async def stop(self) -> None:
        self._commands.kafka.open.discard(self)
