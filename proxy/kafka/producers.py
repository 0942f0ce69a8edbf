"""aiokafka producers that can be replaced while others use them: when one starts, who has it, when it is stopped.

What is sent through them is the business of `client`.
"""

import asyncio
import logging
from collections.abc import Awaitable, Callable, Collection
from functools import partial
from typing import Any

from aiokafka import AIOKafkaProducer
from aiokafka import errors as kafka_errors

from proxy import limits
from proxy.clock import monotonic
from proxy.kafka.metadata import pace

log = logging.getLogger(__name__)


class Producer:
    """An aiokafka producer and how many partitions are busy with it. Once retired it takes no more."""

    __slots__ = ("client", "retired", "users")

    def __init__(self, client: AIOKafkaProducer) -> None:
        self.client = client
        self.users = 0
        self.retired = False


class ProducerSlot:
    """The producer of a topic, replaceable: after a failed batch its sequence numbers have a hole that nothing mends.

    A retired producer is stopped when its last batch has come down, so at most one per partition lingers.
    """

    def __init__(self, make: Callable[[Collection[str]], AIOKafkaProducer]) -> None:
        #: The topics that are written through this producer.
        self.topics: list[str] = []
        self._make = make
        self._current: Producer | None = None
        self._lock = asyncio.Lock()
        self._started_at = float("-inf")
        self._stopping: set[asyncio.Task[None]] = set()
        #: The last producer could not start.
        self.shut_out = False

    async def get(self) -> Producer:
        """The producer to use for one batch, as soon as the cluster lets one start; give it back with `done_with`."""
        async with self._lock:
            while self._current is None or self._current.retired:
                await asyncio.sleep(max(0.0, self._started_at + limits.PRODUCER_REPLACE_SECONDS_MIN - monotonic()))
                self._started_at = monotonic()
                self._current = await self._start()
            current = self._current
        current.users += 1
        return current

    def done_with(self, producer: Producer) -> None:
        producer.users -= 1
        if producer.retired and not producer.users:
            task = asyncio.create_task(_stop(producer.client))
            self._stopping.add(task)
            task.add_done_callback(self._stopping.discard)

    def renew(self) -> None:
        """The next batch goes through a new producer: what the present one was made for has changed."""
        current = self._current
        if current is not None and not current.retired:
            current.retired = True
            # As if it had been used, so that it is stopped now if nobody has it.
            current.users += 1
            self.done_with(current)

    def leave(self, topic: str) -> bool:
        """Nobody writes to this topic any more; True when it was the last one."""
        self.topics.remove(topic)
        return not self.topics

    async def stop(self) -> None:
        """Stops what is left, bounded in time. Nobody uses it any more."""
        if self._current is not None and not self._current.retired:
            await _stop(self._current.client)
        await asyncio.gather(*self._stopping)

    async def _start(self) -> Producer | None:
        """None when the cluster does not answer: the caller tries again."""
        client = self._make(self.topics)
        started = False
        try:
            inner = client.client
            inner.bootstrap = partial(_bootstrap, inner, inner.bootstrap)
            await client.start()
            pace(inner)
            started = True
        except kafka_errors.KafkaError as error:
            log.warning("producer did not start", extra={"error": repr(error)})
        finally:
            self.shut_out = not started
            if not started:
                await _stop(client)
        return Producer(client) if started else None


async def _bootstrap(inner: Any, ask: Callable[[], Awaitable[None]]) -> None:
    """aiokafka takes a broker that does not believe our token for a cluster without brokers, and waits for ever until
    one of them answers.
    """
    await ask()
    if not inner.cluster.brokers():
        raise kafka_errors.NodeNotReadyError("the cluster names no broker")


async def _stop(client: AIOKafkaProducer) -> None:
    """aiokafka's `stop` hangs while brokers do not answer: then what it still holds is given up."""
    try:
        async with asyncio.timeout(limits.PRODUCER_STOP_SECONDS_MAX):
            await client.stop()
    except Exception as error:
        log.warning("producer did not stop cleanly", extra={"error": repr(error)})
        await _discard(client)


async def _discard(client: AIOKafkaProducer) -> None:
    sender = client._sender.sender_task
    if sender is not None:
        # It takes the first as a request to wait for its answers, and the second as an order.
        sender.cancel()
        await asyncio.sleep(0)
        sender.cancel()
    async with asyncio.timeout(limits.PRODUCER_STOP_SECONDS_MAX):
        await client.client.close()
