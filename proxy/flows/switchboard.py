"""Everything that commands need on one replica, put together, started and stopped in order.

The letter box is open before this replica joins, so that nothing is missed that is written to it; commands from Kafka
are read once it has joined, and are the first to stop: then others read them, while what was begun here still settles.
"""

import asyncio
import logging
from collections.abc import Awaitable, Callable
from dataclasses import dataclass

from proxy import limits
from proxy.clock import monotonic, wall_ms
from proxy.flows.commands import Commands, CommandSettings
from proxy.flows.control import Control, Executor
from proxy.flows.inbox import Inbox
from proxy.flows.whereabouts import Whereabouts
from proxy.kafka.batches import md5_partition
from proxy.kafka.gateway import KafkaGateway
from proxy.kafka.tails import PartitionTail
from proxy.kafka.topics import UNREACHABLE
from proxy.metrics import Metrics

log = logging.getLogger(__name__)


@dataclass(slots=True, frozen=True)
class SwitchboardSettings:
    """`inbox_topic` is an internal one. `ack_timeout_seconds` is what a device is given to acknowledge."""

    inbox_topic: str
    ack_timeout_seconds: float
    commands: CommandSettings


class Switchboard:
    """`control` is what the operator's door calls too."""

    def __init__(
        self,
        settings: SwitchboardSettings,
        gateway: KafkaGateway,
        whereabouts: Whereabouts,
        executor: Executor,
        metrics: Metrics,
    ) -> None:
        self._settings = settings
        self._gateway = gateway
        self._here = whereabouts.here
        self.inbox = Inbox(gateway, settings.inbox_topic, whereabouts.here, executor)
        self.control = Control(
            whereabouts, executor, self.inbox, metrics.commands, settings.ack_timeout_seconds, monotonic, wall_ms
        )
        self.inbox.asker = self.control
        self.commands = Commands(settings.commands, gateway, self.control, wall_ms)
        self._tail: PartitionTail | None = None
        self._tasks: list[asyncio.Task[None]] = []
        self._reading: asyncio.Task[None] | None = None

    async def open(self) -> None:
        """Returns when letters to this replica are read. The gateway has started."""
        topic = self._settings.inbox_topic
        partition = md5_partition(self._here().node.encode(), self._gateway.partitions(topic))
        while True:
            options = self._settings.commands.options
            self._tail = PartitionTail(options, topic, partition, self.inbox.receive)
            try:
                await self._tail.start()
                break
            except UNREACHABLE as error:
                log.warning("inbox cannot be read", extra={"topic": topic, "error": repr(error)})
                await self._tail.stop()
                await asyncio.sleep(limits.RETRY_SECONDS)
        self._begin(self._tail.follow)
        self._begin(self.control.run)

    def read(self) -> None:
        """Takes commands from Kafka from now on."""
        self._reading = self._begin(self.commands.run)

    async def stop_reading(self, timeout_seconds: float) -> None:
        """Takes no more of them; what was begun may settle in that time. Letters are still answered."""
        if self._reading is not None:
            await self.commands.stop(timeout_seconds)
            await asyncio.wait((self._reading,), timeout=limits.COMMAND_COMMIT_SECONDS)

    async def close(self) -> None:
        """Ends everything."""
        for task in self._tasks:
            task.cancel()
        if self._tasks:
            await asyncio.wait(self._tasks)
        if self._tail is not None:
            await self._tail.stop()

    def _begin(self, work: Callable[[], Awaitable[None]]) -> "asyncio.Task[None]":
        task = asyncio.create_task(_keep_at(work))
        self._tasks.append(task)
        return task


async def _keep_at(work: Callable[[], Awaitable[None]]) -> None:
    """A bug of ours costs the commands that it was met with, not all that come later."""
    while True:
        try:
            return await work()
        except Exception:
            log.exception("commands have failed")
            await asyncio.sleep(limits.RETRY_SECONDS)
