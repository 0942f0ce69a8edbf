"""What the gateway uses of aiokafka, without a Kafka: a cluster that answers as a test has it written down.

It stands in for the library, not for the gateway: everything in `proxy/kafka` runs as it does in production. What real
Kafka answers is the business of the tests with a broker.
"""

import asyncio
from collections import deque
from types import SimpleNamespace
from typing import Any

import pytest
from aiokafka import TopicPartition
from aiokafka import errors as kafka_errors
from aiokafka.protocol.metadata import MetadataRequest
from prometheus_client import Counter

from proxy.kafka import client, topics

Batch = tuple[str, int, list[bytes]]


class FakeKafka:
    """The cluster, and the script that it follows."""

    def __init__(self) -> None:
        #: Partitions by topic, as the cluster has them.
        self.topics: dict[str, int] = {}
        self.message_bytes_max: dict[str, int] = {}
        #: What becomes of the next batches that are sent: an error, or None: written. When it is empty: written.
        self.answers: deque[Exception | None] = deque()
        #: What `send_batch` raises the next times, before it has taken anything.
        self.not_taken: deque[Exception] = deque()
        #: Batches stay on their way until `answer` is called.
        self.silent = False
        #: While it is not set, `send_batch` waits for it before it does anything.
        self.metadata = asyncio.Event()
        self.metadata.set()
        #: So many cancellations of that wait go unheard, as with `asyncio.wait_for` when an answer comes with them.
        self.deaf = 0
        #: While it is not set, no producer starts.
        self.up = asyncio.Event()
        self.up.set()
        #: What a request about topics raises.
        self.admin_error: Exception | None = None
        #: Error codes that the next request to create topics is answered with, by topic; and those of a look at one.
        self.create_codes: deque[dict[str, int] | Exception] = deque()
        self.hidden: set[str] = set()
        #: Every batch that was handed over, in order, and what of them was written.
        self.sent: list[Batch] = []
        self.written: list[Batch] = []
        self.producers: list[FakeProducer] = []
        self.admins: list[FakeAdmin] = []
        self.in_flight: list[tuple[Batch, asyncio.Future[None]]] = []

    def install(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(client, "AIOKafkaProducer", lambda **options: FakeProducer(self, options))
        monkeypatch.setattr(topics, "AIOKafkaAdminClient", lambda **options: FakeAdmin(self))

    def values(self, topic: str, partition: int = 0) -> list[bytes]:
        """What was written to a partition, in order."""
        batches = [values for name, number, values in self.written if (name, number) == (topic, partition)]
        return [value for values in batches for value in values]

    def answer(self, error: Exception | None = None, number: int = 0) -> None:
        """Ends a batch: that which has been on its way for longest, unless another one is meant."""
        batch, future = self.in_flight.pop(number)
        if error is None:
            self.written.append(batch)
            future.set_result(None)
        else:
            future.set_exception(error)


class FakeBuilder:
    """A batch that is full at so many bytes, but takes one record of any size, as aiokafka's does."""

    def __init__(self, bytes_max: int) -> None:
        self.values: list[bytes] = []
        self._room = bytes_max

    def append(self, *, timestamp: int, key: bytes, value: bytes, headers: list[tuple[str, bytes]]) -> object:
        self._room -= len(value) + len(key) + sum(len(content) for _, content in headers)
        if self.values and self._room < 0:
            return None
        assert timestamp > 0
        self.values.append(value)
        return self


class FakeProducer:
    """Stands for AIOKafkaProducer."""

    def __init__(self, kafka: FakeKafka, options: dict[str, Any]) -> None:
        self.options = options
        self.started = self.stopped = self.cut_off = False
        #: How often it was asked to look again who leads what.
        self.metadata_updates = 0
        #: Partitions without a leader, and topics that this producer has not heard of.
        self.leaderless: set[tuple[str, int]] = set()
        self.unheard: set[tuple[str, int]] = set()
        self._kafka = kafka
        self._message_accumulator = SimpleNamespace(_batch_ttl=5.0)
        self._sender = SimpleNamespace(sender_task=None)
        self.client = SimpleNamespace(
            cluster=self,
            bootstrap=self.start,
            force_metadata_update=self._update_metadata,
            close=self._close_connections,
        )
        kafka.producers.append(self)

    async def start(self) -> None:
        await self._kafka.up.wait()
        self.started = True

    async def stop(self) -> None:
        assert not self.stopped
        self.stopped = True

    def create_batch(self) -> FakeBuilder:
        return FakeBuilder(self.options["max_batch_size"])

    async def send_batch(self, batch: FakeBuilder, topic: str, *, partition: int) -> "asyncio.Future[None]":
        kafka = self._kafka
        assert self.started
        assert not self.stopped
        await self._wait_for_metadata()
        if kafka.not_taken:
            raise kafka.not_taken.popleft()
        sent = (topic, partition, batch.values)
        # One at a time for each partition, or their order would be chance.
        assert sent[:2] not in [flying[:2] for flying, _ in kafka.in_flight]
        kafka.sent.append(sent)
        future: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        kafka.in_flight.append((sent, future))
        if not kafka.silent:
            kafka.answer(kafka.answers.popleft() if kafka.answers else None, -1)
        return future

    async def _wait_for_metadata(self) -> None:
        try:
            await self._kafka.metadata.wait()
        except asyncio.CancelledError:
            if not self._kafka.deaf:
                raise
            self._kafka.deaf -= 1
            await self._wait_for_metadata()

    async def _close_connections(self) -> None:
        self.cut_off = True

    # What it knows of the cluster.

    def partitions_for_topic(self, topic: str) -> set[int] | None:
        return set(range(self._kafka.topics[topic])) if topic in self._kafka.topics else None

    def leader_for_partition(self, place: TopicPartition) -> int | None:
        if tuple(place) in self.unheard:
            return None
        return -1 if tuple(place) in self.leaderless else 1

    def _update_metadata(self) -> "asyncio.Future[bool]":
        self.metadata_updates += 1
        answer: asyncio.Future[bool] = asyncio.get_running_loop().create_future()
        answer.set_result(True)
        return answer


class FakeAdmin:
    """Stands for AIOKafkaAdminClient."""

    def __init__(self, kafka: FakeKafka) -> None:
        self.closed = False
        self._kafka = kafka
        kafka.admins.append(self)

    async def start(self) -> None:
        await self._answer()

    async def close(self) -> None:
        self.closed = True

    async def list_topics(self) -> list[str]:
        await self._answer()
        return list(self._kafka.topics)

    async def _send_request(self, request: MetadataRequest) -> Any:
        await self._answer()
        described = [self._describe(name) for name in request._topics or []]
        return SimpleNamespace(to_object=lambda: {"topics": described})

    async def create_topics(self, wanted: list[Any]) -> Any:
        await self._answer()
        codes = self._kafka.create_codes.popleft() if self._kafka.create_codes else {}
        if isinstance(codes, Exception):
            raise codes
        for topic in wanted:
            if not codes.get(topic.name):
                self._kafka.topics[topic.name] = topic.num_partitions
        return SimpleNamespace(topic_errors=[(topic.name, codes.get(topic.name, 0), None) for topic in wanted])

    async def describe_configs(self, resources: list[Any]) -> list[Any]:
        await self._answer()
        limits = self._kafka.message_bytes_max
        answers = [
            (0, "", 2, resource.name, [("max.message.bytes", str(limits.get(resource.name, 1_048_588)))])
            for resource in resources
        ]
        return [SimpleNamespace(resources=answers)]

    def _describe(self, name: str) -> dict[str, Any]:
        if name in self._kafka.hidden:
            return {"topic": name, "error_code": kafka_errors.TopicAuthorizationFailedError.errno, "partitions": []}
        if name not in self._kafka.topics:
            return {"topic": name, "error_code": kafka_errors.UnknownTopicOrPartitionError.errno, "partitions": []}
        return {"topic": name, "error_code": 0, "partitions": list(range(self._kafka.topics[name]))}

    async def _answer(self) -> None:
        if self._kafka.admin_error is not None:
            raise self._kafka.admin_error


def told(counter: Counter) -> float:
    """What a Prometheus counter shows."""
    [metric] = counter.collect()
    return next(sample.value for sample in metric.samples if sample.name.endswith("_total"))
