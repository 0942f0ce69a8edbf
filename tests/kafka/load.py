"""A steady load on a gateway, and the verdict on what has become of it. Faults happen meanwhile."""

import asyncio
import itertools
from collections.abc import Iterator
from typing import Self

from proxy.kafka.batches import md5_partition
from proxy.kafka.gateway import KafkaGateway
from tests.kafka.conftest import until
from tests.kafka.outcomes import Outcomes, send
from tests.support.kafka_broker import Record

TICK_SECONDS = 0.01


def key_of(partition: int, partitions: int) -> bytes:
    """A key that goes to this partition."""
    return next(key for key in map(b"key-%d".__mod__, itertools.count()) if md5_partition(key, partitions) == partition)


class Load:
    """Sends 3 records a tick, round the partitions, from `async with` to its end; then waits until all are settled.

    The tokens are the numbers from 0, and the values of the records.
    """

    def __init__(self, gateway: KafkaGateway, topic: str, partitions: int = 3) -> None:
        self.outcomes = Outcomes()
        self.sent = 0
        self._gateway = gateway
        self._topic = topic
        self._keys = itertools.cycle([key_of(partition, partitions) for partition in range(partitions)])
        self._task: asyncio.Task[None] | None = None

    async def __aenter__(self) -> Self:
        self._task = asyncio.create_task(self._run())
        return self

    async def __aexit__(self, *error: object) -> None:
        assert self._task is not None
        self._task.cancel()
        if error == (None, None, None):
            assert await self._gateway.flush(60) == 0

    async def flows(self, records: int = 300) -> None:
        """Returns when so many more records are stored than are now."""
        wanted = len(self.outcomes.stored) + records
        await until(lambda: len(self.outcomes.stored) >= wanted, f"{wanted} records are stored", 60)

    def verdict(self, stored: list[Record]) -> dict[str, int]:
        """What went wrong, counted: nothing, if all is well.

        unsettled: told not exactly once; refused: told that it failed; lost: told that it is stored, and it is not;
        duplicated; reordered: behind a later one of its partition.
        """
        values = [(record.partition, int(record.value or b"-1")) for record in stored]
        there = {token for _, token in values}
        wrong = {
            "unsettled": self.sent - len(self.outcomes.order) or self.sent - len(self.outcomes.errors),
            "refused": len(self.outcomes.errors) - len(self.outcomes.stored),
            "lost": len(set(self.outcomes.stored) - there),
            "duplicated": len(values) - len(there),
            "reordered": sum(_is_behind(values)),
        }
        return {what: count for what, count in wrong.items() if count}

    async def _run(self) -> None:
        while True:
            for _ in range(3):
                send(self._gateway, self._topic, next(self._keys), self.outcomes, [self.sent])
                self.sent += 1
            await asyncio.sleep(TICK_SECONDS)


def _is_behind(values: list[tuple[int, int]]) -> Iterator[bool]:
    """For the first occurrence of each token in a log: whether a later one stands before it."""
    latest: dict[int, int] = {}
    seen: set[int] = set()
    for partition, token in values:
        if token not in seen:
            yield token < latest.get(partition, -1)
            seen.add(token)
            latest[partition] = max(token, latest.get(partition, -1))
