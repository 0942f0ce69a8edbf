"""What `Membership` and `Bans` read with, on gateways in memory: logs, and turns that one replica has alone."""

import asyncio
from collections.abc import Callable
from typing import Any

from proxy.kafka.readers import CompactionPassedError, ConsumerRecord
from tests.support.memory_gateway import PARTITIONS, MemoryGateway


class MemoryKafka:
    """Gateways whose records are read back. Its attributes are there to be set by tests."""

    def __init__(self) -> None:
        self.gateways: list[MemoryGateway] = []
        #: Committed marks, by partition.
        self.marks: dict[int, tuple[int, str]] = {}
        #: Whose turn it is for these partitions.
        self.mine = frozenset(range(PARTITIONS))
        #: Set to say that records were compacted before they were read; the next reader begins anew.
        self.compacted = False
        #: How long nobody has been heard.
        self.silence_seconds = 0.0
        #: How often a sweeper has looked for work.
        self.rounds = 0
        #: Readers and turns that have not been stopped.
        self.open: set[object] = set()

    def install(self, patch: Any) -> None:
        """From now on `Membership` and `Bans` read here."""
        for module in ("membership", "bans"):
            patch.setattr(f"proxy.flows.{module}.LogReader", self._reader)
        patch.setattr("proxy.flows.membership.Turns", self._turns)

    def records(self, topic: str, partition: int) -> list[Any]:
        found = (gateway.log.get((topic, partition)) for gateway in self.gateways)
        return next((records for records in found if records), [])

    def _reader(self, options: dict[str, Any], topic: str, on_batch: Any, *, gapless: bool) -> "MemoryReader":
        return MemoryReader(self, topic, on_batch, gapless=gapless)

    def _turns(self, options: dict[str, Any], group: str, topic: str) -> "MemoryTurns":
        return MemoryTurns(self)


class MemoryReader:
    """As `LogReader`."""

    def __init__(
        self, kafka: MemoryKafka, topic: str, on_batch: Callable[[list[ConsumerRecord]], None], *, gapless: bool
    ) -> None:
        self.partitions = PARTITIONS
        self.records = 0
        self._kafka = kafka
        self._topic = topic
        self._gapless = gapless
        self._on_batch = on_batch
        self._next = [0] * PARTITIONS

    @property
    def silence_seconds(self) -> float:
        return self._kafka.silence_seconds

    async def start(self) -> None:
        self._kafka.open.add(self)

    async def replay(self) -> None:
        self._poll()

    async def follow(self) -> None:
        while True:
            if self._gapless and self._kafka.compacted:
                self._kafka.compacted = False
                raise CompactionPassedError(self._topic)
            self._poll()
            await asyncio.sleep(0.001)

    async def has_read_since(self, since_ms: int) -> bool:
        self._poll()
        return True

    async def stop(self) -> None:
        self._kafka.open.discard(self)

    def _poll(self) -> None:
        for partition in range(PARTITIONS):
            records = self._kafka.records(self._topic, partition)[self._next[partition] :]
            self._next[partition] += len(records)
            self.records += len(records)
            if records:
                self._on_batch(records)


class MemoryTurns:
    """As `Turns`."""

    def __init__(self, kafka: MemoryKafka) -> None:
        self._kafka = kafka

    @property
    def mine(self) -> frozenset[int]:
        return self._kafka.mine

    async def start(self) -> None:
        self._kafka.open.add(self)

    async def marks(self, partitions: int) -> dict[int, tuple[int, str]]:
        return dict(self._kafka.marks)

    async def mark(self, marks: dict[int, tuple[int, str]]) -> bool:
        self._kafka.marks |= marks
        return True

    async def keep_alive(self) -> None:
        self._kafka.rounds += 1

    async def stop(self) -> None:
        self._kafka.open.discard(self)
