"""Several clusters: they start and stop together, and one that is down is nobody else's trouble."""

import asyncio
import logging
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator, Sequence
from typing import Any

import pytest

from proxy import limits
from proxy.errors import ConfigError, Refusal
from proxy.kafka.client import AioKafkaGateway
from proxy.kafka.clusters import Clusters
from proxy.kafka.internal import Topic
from tests.kafka.conftest import gateway_settings, new_gateway, until
from tests.kafka.outcomes import Outcomes, send
from tests.support.kafka_broker import VERSIONS, KafkaBroker
from tests.support.memory_gateway import MemoryGateway


class Gateway(MemoryGateway):
    """A cluster that starts as a test says."""

    def __init__(self) -> None:
        super().__init__()
        self.up = asyncio.Event()
        self.problem: ConfigError | None = None
        self.started_with: Sequence[str] | None = None
        self.stopped = False

    async def start(self, topics: Sequence[str], internal: Sequence[Topic] = ()) -> None:
        await self.up.wait()
        if self.problem is not None:
            raise self.problem
        self.started_with = topics
        await super().start(topics, internal)

    async def stop(self) -> None:
        self.stopped = True
        await super().stop()


@pytest.fixture(autouse=True)
def no_patience(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(limits, "CLUSTER_START_SECONDS", 0.05)
    monkeypatch.setattr(limits, "CLUSTER_RETRY_SECONDS", 0.01)


@pytest.fixture
async def gateways() -> dict[str, Any]:
    """One that is up and one that is not."""
    first, backup = Gateway(), Gateway()
    first.up.set()
    return {"": first, "backup": backup}


async def test_all_clusters_start_with_their_topics(gateways: dict[str, Any]) -> None:
    gateways["backup"].up.set()
    clusters = Clusters(gateways)
    await clusters.start({"": ["a"], "backup": ["b"]})
    assert [gateway.started_with for gateway in gateways.values()] == [["a"], ["b"]]
    await clusters.stop()
    assert all(gateway.stopped for gateway in gateways.values())


async def test_a_further_cluster_that_is_down_stops_no_start_and_comes_later(gateways: dict[str, Any]) -> None:
    clusters = Clusters(gateways)
    await clusters.start({"": ["a"]})
    assert gateways["backup"].started_with is None
    gateways["backup"].up.set()
    await until(lambda: gateways["backup"].started_with == [], "it starts by itself")
    assert clusters.problems == {}
    await clusters.stop()


async def test_the_first_cluster_is_waited_for(gateways: dict[str, Any]) -> None:
    gateways["backup"].up.set()
    gateways[""].up.clear()
    clusters = Clusters(gateways)
    starting = asyncio.create_task(clusters.start({"": ["a"]}))
    await until(lambda: gateways["backup"].started_with == [], "the other one has started")
    assert not starting.done()
    gateways[""].up.set()
    await asyncio.wait_for(starting, 5)
    await clusters.stop()


async def test_what_is_wrong_with_a_further_cluster_is_an_error_at_start(gateways: dict[str, Any]) -> None:
    gateways["backup"].up.set()
    gateways["backup"].problem = ConfigError("kafka.replication_factor", "too many")
    clusters = Clusters(gateways)
    with pytest.raises(ConfigError, match=r"^kafka\.clusters\.backup\.replication_factor: too many$"):
        await clusters.start({"": ["a"]})
    await clusters.stop()


async def test_what_is_found_wrong_later_is_told_and_tried_again(
    gateways: dict[str, Any], caplog: pytest.LogCaptureFixture
) -> None:
    clusters = Clusters(gateways)
    await clusters.start({"": ["a"]})
    gateways["backup"].problem = ConfigError("kafka.create_topics", "false")
    gateways["backup"].up.set()
    await until(lambda: "backup" in clusters.problems, "the problem is known")
    assert str(clusters.problems["backup"]) == "kafka.clusters.backup.create_topics: false"
    assert "kafka cluster cannot be used" in caplog.text
    gateways["backup"].problem = None
    await until(lambda: not clusters.problems, "it is over")
    assert gateways["backup"].started_with == []
    await clusters.stop()


async def test_stop_waits_for_no_start(gateways: dict[str, Any]) -> None:
    clusters = Clusters(gateways)
    await clusters.start({"": ["a"]})
    await asyncio.wait_for(clusters.stop(), 5)
    assert gateways["backup"].stopped


async def test_a_flush_counts_what_is_left_everywhere(gateways: dict[str, Any]) -> None:
    clusters, outcomes = Clusters(gateways), Outcomes()
    await clusters.start({"": ["a"]})
    gateways[""].hold()
    send(gateways[""], "a", b"key", outcomes, [1, 2])
    send(gateways["backup"], "b", b"key", outcomes, [3])
    assert await clusters.flush(0.0) == 3
    gateways[""].release()
    assert await clusters.flush(0.0) == 1
    await clusters.stop()


# ---- with two real ones ----

StartClusters = Callable[..., Awaitable[dict[str, AioKafkaGateway]]]


@pytest.fixture(scope="module")
def backup(tmp_path_factory: pytest.TempPathFactory) -> Iterator[KafkaBroker]:
    """A second Kafka, which would make every topic that it is asked for by name."""
    settings = {
        "auto.create.topics.enable": "true",
        "broker.session.timeout.ms": "2000",
        "broker.heartbeat.interval.ms": "500",
    }
    with KafkaBroker(VERSIONS[0], tmp_path_factory.mktemp("kafka-backup-"), settings) as broker:
        yield broker


@pytest.fixture
async def start_clusters(kafka: KafkaBroker, backup: KafkaBroker) -> AsyncIterator[StartClusters]:
    started: list[Clusters] = []

    async def start(topic: str, **settings: Any) -> dict[str, AioKafkaGateway]:
        brokers = {"": kafka, "backup": backup}
        gateways = {name: new_gateway(gateway_settings(broker, **settings)) for name, broker in brokers.items()}
        started.append(Clusters(gateways))
        await started[-1].start({name: [topic] for name in brokers})
        return gateways

    yield start
    for clusters in started:
        await clusters.stop()


async def flows(gateway: AioKafkaGateway, topic: str, records: int = 20) -> None:
    """Returns when so many records went through, one after the other."""
    outcomes = Outcomes()
    for token in range(records):
        send(gateway, topic, b"key", outcomes, [token])
        await until(lambda: len(outcomes.stored) > token, "a record is stored", 5)  # noqa: B023 - waited for at once


async def test_a_cluster_that_is_frozen_holds_up_no_other(
    start_clusters: StartClusters, kafka: KafkaBroker, backup: KafkaBroker, topic: str
) -> None:
    gateways = await start_clusters(topic, queue_bytes_max=1_048_576)
    stuck = Outcomes()
    await flows(gateways["backup"], topic, 1)
    reliefs = []
    gateways["backup"].on_relief = lambda: reliefs.append("backup")
    gateways[""].on_relief = lambda: reliefs.append("default")
    backup.pause()
    try:
        destination = gateways["backup"].destination(topic, b"key")
        for token in range(10):
            gateways["backup"].enqueue(destination, bytes(100_000), [], stuck, token)
        assert gateways["backup"].congested
        await flows(gateways[""], topic)
        assert not gateways[""].congested
        await until(lambda: not gateways["backup"].ready, "it is known to be down")
        assert gateways[""].ready
        assert stuck.order == []
    finally:
        backup.resume()
    await until(lambda: len(stuck.order) == 10, "what waited is stored", 60)
    assert stuck.stored == list(range(10))
    assert reliefs == ["backup"]
    assert len(await asyncio.to_thread(backup.read, topic)) == 11
    assert len(await asyncio.to_thread(kafka.read, topic)) == 20


async def test_records_wait_for_a_cluster_that_is_down_at_start(
    start_clusters: StartClusters, kafka: KafkaBroker, backup: KafkaBroker, topic: str
) -> None:
    backup.stop()
    try:
        gateways = await start_clusters(topic)
        assert not gateways["backup"].ready
        waiting = Outcomes()
        send(gateways["backup"], topic, b"key", waiting, range(5))
        await flows(gateways[""], topic)
        assert waiting.order == []
    finally:
        await asyncio.to_thread(backup.start)
    await until(lambda: len(waiting.order) == 5, "what waited is stored", 60)
    send(gateways["backup"], topic, b"key", waiting, [5])
    assert await gateways["backup"].flush(30) == 0
    assert waiting.stored == [0, 1, 2, 3, 4, 5]
    assert [record.value for record in await asyncio.to_thread(backup.read, topic)] == [
        b"%d" % each for each in range(6)
    ]


async def test_the_deadline_holds_for_what_waits_for_a_start(topic: str) -> None:
    gateway = new_gateway(gateway_settings(KafkaBrokerThatIsDown(), delivery_timeout_seconds=1))  # type: ignore[arg-type]
    starting, outcomes = asyncio.create_task(gateway.start([topic])), Outcomes()
    send(gateway, topic, b"key", outcomes, [1])
    await until(lambda: bool(outcomes.order), "the record is told")
    assert [error and error.refusal for error in outcomes.errors.values()] == [None]
    starting.cancel()
    await gateway.stop()


class KafkaBrokerThatIsDown:
    bootstrap = "127.0.0.1:1"


async def test_a_device_cannot_invent_topics(
    start_clusters: StartClusters, backup: KafkaBroker, topic: str, caplog: pytest.LogCaptureFixture
) -> None:
    gateways = await start_clusters(topic, delivery_timeout_seconds=4)
    outcomes = Outcomes()
    send(gateways["backup"], f"{topic}-invented", b"key", outcomes, [1])
    with caplog.at_level(logging.ERROR):
        await flows(gateways["backup"], topic)
        await until(lambda: bool(outcomes.order), "the record is refused")
    refused = outcomes.errors[1]
    assert refused is not None
    assert refused.refusal is Refusal.UNKNOWN_TOPIC
    assert f"{topic}-invented" not in await asyncio.to_thread(backup.topics)
    assert caplog.text == ""
