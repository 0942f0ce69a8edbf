"""Gateways to test: the one in memory and the real one, on each version of Kafka, behind one face."""

import asyncio
import itertools
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from dataclasses import dataclass
from typing import Any

import pytest
from confluent_kafka.admin import AdminClient, AlterConfigOpType, ConfigEntry, ConfigResource, NewPartitions
from prometheus_client import CollectorRegistry

from proxy import limits
from proxy.kafka.client import AioKafkaGateway, GatewaySettings
from proxy.kafka.dead_letters import DeadLetters
from proxy.kafka.gateway import KafkaGateway
from proxy.metrics import GatewayMetrics, KafkaCounters
from tests.kafka.fake_aiokafka import FakeKafka
from tests.support.kafka_broker import VERSIONS, KafkaBroker, Record
from tests.support.memory_gateway import MemoryGateway

REQUEST_SECONDS = 10.0
#: Topics that share a broker have names of their own.
numbers = itertools.count()


def gateway_settings(broker: KafkaBroker, **settings: Any) -> GatewaySettings:
    """For a broker that is alone."""
    return GatewaySettings([broker.bootstrap], "tests", **{"replication_factor": 1, **settings})


def new_gateway(settings: GatewaySettings) -> AioKafkaGateway:
    return AioKafkaGateway(settings, GatewayMetrics(KafkaCounters(CollectorRegistry()), "default"))


@dataclass
class Cluster:
    """A gateway that has started, and a look behind it that does not go through it."""

    gateway: KafkaGateway
    #: All records of a topic as they are there now, by partition and offset. It blocks.
    read: Callable[[str], list[Record]]
    add_partitions: Callable[[str, int], None]
    #: Creates a topic that the gateway was not told of.
    add_topic: Callable[[str, int], None]


#: Topics that exist with their partitions, topics that do not, and settings.
StartGateway = Callable[..., Awaitable[AioKafkaGateway]]
#: Topics by name with their partitions, and settings of the gateway.
StartCluster = Callable[..., Awaitable[Cluster]]


@pytest.fixture(params=["memory", *(pytest.param(version, marks=pytest.mark.kafka) for version in VERSIONS)])
async def start_cluster(request: pytest.FixtureRequest) -> AsyncIterator[StartCluster]:
    """Starts a gateway for topics that it is given, and stops it with the test."""
    gateways: list[KafkaGateway] = []

    async def start(topics: Mapping[str, int], **settings: Any) -> Cluster:
        if request.param == "memory":
            dead_letter_topic = settings.pop("dead_letter_topic", None)
            memory = MemoryGateway(topics, **settings)
            if dead_letter_topic:
                counter = KafkaCounters(CollectorRegistry()).dead_letters
                memory.dead_letters = DeadLetters(memory, dead_letter_topic, counter)
                memory.add_topic(dead_letter_topic, 1)
            cluster = Cluster(memory, memory.stored, memory.add_partitions, memory.add_topic)
        else:
            broker = request.getfixturevalue("kafka_of_version")(request.param)
            for topic, partitions in topics.items():
                broker.create_topic(topic, partitions)
            gateway = new_gateway(gateway_settings(broker, **{"partitions": 1, **settings}))
            cluster = Cluster(
                gateway, broker.read, lambda *wanted: add_partitions(broker, *wanted), broker.create_topic
            )
        gateways.append(cluster.gateway)
        await cluster.gateway.start(list(topics))
        return cluster

    yield start
    for gateway in gateways:
        await gateway.stop()


@pytest.fixture
def topic() -> str:
    """The name of a topic that nobody else has."""
    return f"topic-{next(numbers)}"


def add_partitions(broker: KafkaBroker, topic: str, partitions: int) -> None:
    admin = AdminClient({"bootstrap.servers": broker.bootstrap})
    admin.create_partitions([NewPartitions(topic, partitions)])[topic].result(REQUEST_SECONDS)


def set_message_bytes_max(broker: KafkaBroker, topic: str, most: int) -> None:
    """Changes the size of batches that a topic takes."""
    entry = ConfigEntry("max.message.bytes", str(most), incremental_operation=AlterConfigOpType.SET)
    resource = ConfigResource(ConfigResource.Type.TOPIC, topic, incremental_configs=[entry])
    admin = AdminClient({"bootstrap.servers": broker.bootstrap})
    [answer] = admin.incremental_alter_configs([resource]).values()
    answer.result(REQUEST_SECONDS)


async def until(condition: Callable[[], bool], what: str, timeout_seconds: float = 30.0) -> None:
    """Returns when `condition()` is true, while the event loop goes on; fails when that takes too long."""
    try:
        async with asyncio.timeout(timeout_seconds):
            while not condition():  # noqa: ASYNC110 - what is waited for happens in other processes too
                await asyncio.sleep(0.01)
    except TimeoutError:
        pytest.fail(f"not after {timeout_seconds:g} s: {what}")


# ---- the real gateway on a scripted client library ----


class Clock:
    """Stands still until a test moves it."""

    def __init__(self) -> None:
        self.seconds = 1000.0

    def __call__(self) -> float:
        return self.seconds


@pytest.fixture
def fake(monkeypatch: pytest.MonkeyPatch) -> FakeKafka:
    for pause in ("RETRY_SECONDS", "PROBE_SECONDS", "PRODUCER_REPLACE_SECONDS_MIN", "TOPIC_CREATION_POLL_SECONDS"):
        monkeypatch.setattr(limits, pause, 0.01)
    fake = FakeKafka()
    fake.install(monkeypatch)
    return fake


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
async def start_gateway(fake: FakeKafka, clock: Clock) -> AsyncIterator[StartGateway]:
    gateways = []

    async def start(topics: Mapping[str, int], *missing: str, **settings: Any) -> AioKafkaGateway:
        fake.topics.update(topics)
        gateway = new_gateway(GatewaySettings(["kafka:9092"], "tests", **settings))
        gateway.now = clock
        gateways.append(gateway)
        await gateway.start([*topics, *missing])
        return gateway

    yield start
    for gateway in gateways:
        await gateway.stop()
    assert all(producer.stopped for producer in fake.producers)
    assert all(admin.closed for admin in fake.admins)
