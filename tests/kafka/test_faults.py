"""The real gateway on a real Kafka to which the worst happens, under load: nothing lost, nothing reordered, no help.

The broker is this file's own: it is killed, frozen, and has its topics changed under the gateway's feet.
"""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest
from confluent_kafka import TopicPartition
from confluent_kafka.admin import (
    AclBinding,
    AclBindingFilter,
    AclOperation,
    AclPermissionType,
    AdminClient,
    OffsetSpec,
    ResourcePatternType,
    ResourceType,
)

from proxy import limits
from proxy.errors import ConfigError, Refusal
from proxy.kafka.client import AioKafkaGateway
from tests.kafka.conftest import REQUEST_SECONDS, gateway_settings, new_gateway, set_message_bytes_max, until
from tests.kafka.fake_aiokafka import told
from tests.kafka.load import Load, key_of
from tests.kafka.outcomes import Outcomes, send
from tests.support.kafka_broker import VERSIONS, KafkaBroker, Record

pytestmark = pytest.mark.kafka

SETTINGS = {
    # A dead broker's session is over after 2 s, not 9 s, so that its restart does not wait for it.
    "broker.session.timeout.ms": "2000",
    "broker.heartbeat.interval.ms": "500",
    # Who may do what can be changed; until then everybody may do everything.
    "authorizer.class.name": "org.apache.kafka.metadata.authorizer.StandardAuthorizer",
    "allow.everyone.if.no.acl.found": "true",
}
#: Topics with their partitions, and settings of the gateway.
StartGateway = Callable[..., Awaitable[AioKafkaGateway]]


@pytest.fixture(scope="module")
def broker(tmp_path_factory: pytest.TempPathFactory) -> Iterator[KafkaBroker]:
    with KafkaBroker(VERSIONS[0], tmp_path_factory.mktemp("kafka-faults-"), SETTINGS) as broker:
        yield broker


@pytest.fixture
async def start_gateway(broker: KafkaBroker) -> AsyncIterator[StartGateway]:
    gateways = []

    async def start(topics: Mapping[str, int], **settings: Any) -> AioKafkaGateway:
        for topic, partitions in topics.items():
            broker.create_topic(topic, partitions)
        gateway = new_gateway(gateway_settings(broker, **settings))
        gateways.append(gateway)
        await gateway.start(list(topics))
        return gateway

    yield start
    for gateway in gateways:
        await gateway.stop()


def admin(broker: KafkaBroker) -> AdminClient:
    return AdminClient({"bootstrap.servers": broker.bootstrap})


async def freeze(broker: KafkaBroker) -> None:
    """Returns when it answers nothing more: its threads do not stop all at once."""
    broker.pause()
    threads = Path(f"/proc/{broker.pid}/task")
    await until(
        lambda: all(stat.read_text().rpartition(")")[2].split()[0] == "T" for stat in threads.glob("*/stat")),
        "the broker is frozen",
    )


async def read(broker: KafkaBroker, topic: str) -> list[Record]:
    return await asyncio.to_thread(broker.read, topic)


# ---- the broker ----


async def test_a_killed_broker_loses_duplicates_and_reorders_nothing(
    broker: KafkaBroker, start_gateway: StartGateway, topic: str
) -> None:
    gateway = await start_gateway({topic: 3})
    async with Load(gateway, topic) as load:
        await load.flows()
        await asyncio.to_thread(broker.kill)
        await until(lambda: gateway.status().oldest_age_seconds > 1, "records wait")
        await asyncio.to_thread(broker.start)
        await load.flows()
    assert load.verdict(await read(broker, topic)) == {}


async def test_a_frozen_broker_loses_duplicates_and_reorders_nothing(
    broker: KafkaBroker, start_gateway: StartGateway, topic: str
) -> None:
    gateway = await start_gateway({topic: 3})
    async with Load(gateway, topic) as load:
        await load.flows()
        await freeze(broker)
        await until(lambda: not gateway.status().ready, "the gateway says that Kafka does not answer", 10)
        await until(lambda: gateway.status().oldest_age_seconds > 10, "10 s have passed")
        broker.resume()
        await load.flows()
        await until(lambda: gateway.status().ready, "the gateway says that Kafka answers")
    assert load.verdict(await read(broker, topic)) == {}


async def test_records_are_told_at_the_deadline_and_those_on_their_way_are_counted_when_they_land(
    broker: KafkaBroker, start_gateway: StartGateway, topic: str
) -> None:
    gateway = await start_gateway({topic: 3}, delivery_timeout_seconds=3)
    async with Load(gateway, topic) as load:
        await load.flows()
        await freeze(broker)
        settled = len(load.outcomes.order)
        await until(lambda: len(load.outcomes.order) > settled + 300, "records are told")
        assert gateway.status().oldest_age_seconds < 3 + 2 * limits.RETRY_SECONDS
        broker.resume()
        await load.flows()
    stored = await read(broker, topic)
    verdict = load.verdict(stored)
    refused = verdict.pop("refused")
    assert verdict == {}
    failed = [error for error in load.outcomes.errors.values() if error is not None]
    assert all(error.retriable and "in time" in str(error) for error in failed)
    assert refused == told(gateway.metrics.overdue) > 300
    # What nobody was told of is there all the same: it was on its way, and could not be called back.
    late = len(stored) - len(load.outcomes.stored)
    assert late == told(gateway.metrics.late) > 0


async def test_a_gateway_starts_when_kafka_comes(broker: KafkaBroker, topic: str) -> None:
    broker.create_topic(topic, 3)
    await asyncio.to_thread(broker.kill)
    gateway = new_gateway(gateway_settings(broker))
    try:
        starting = asyncio.create_task(gateway.start([topic, f"{topic}-new"]))
        await asyncio.to_thread(broker.start)
        await asyncio.wait_for(starting, 30)
        async with Load(gateway, topic) as load:
            await load.flows(30)
        async with Load(gateway, f"{topic}-new", partitions=12) as load:
            await load.flows(30)
    finally:
        await gateway.stop()


async def test_a_gateway_stops_while_kafka_is_frozen(
    broker: KafkaBroker, start_gateway: StartGateway, topic: str
) -> None:
    gateway, outcomes = await start_gateway({topic: 1, f"{topic}-other": 1}), Outcomes()
    send(gateway, topic, b"key", outcomes, [1])
    await until(lambda: outcomes.stored == [1], "the first record is stored")
    await freeze(broker)
    try:
        send(gateway, topic, b"key", outcomes, [2])
        send(gateway, f"{topic}-other", b"key", outcomes, [3])
        loop = asyncio.get_running_loop()
        began = loop.time()
        assert await gateway.flush(0.5) == 2
        await gateway.stop()
        # Producers that do not start, producers that do not stop: one after the other at the most.
        assert loop.time() - began < 0.5 + 2 * limits.PRODUCER_STOP_SECONDS_MAX + 1
    finally:
        broker.resume()
    assert outcomes.order == [1]


# ---- the topic ----


async def test_records_beside_one_that_kafka_refuses_are_stored_in_order(
    broker: KafkaBroker, start_gateway: StartGateway, topic: str
) -> None:
    gateway, outcomes = await start_gateway({topic: 3}), Outcomes()
    send(gateway, topic, b"key", outcomes, [0])
    await until(lambda: outcomes.stored == [0], "the first record is stored")
    set_message_bytes_max(broker, topic, 20_000)
    destination = gateway.destination(topic, b"key")
    send(gateway, topic, b"key", outcomes, [1, 2])
    gateway.enqueue(destination, bytes(50_000), [], outcomes, 3)
    send(gateway, topic, b"key", outcomes, [4, 5])
    assert await gateway.flush(30) == 0
    await until(lambda: not gateway.directory.fits(destination, bytes(50_000), []), "the new limit is known")
    gateway.enqueue(destination, bytes(50_000), [], outcomes, 6)
    send(gateway, topic, b"key", outcomes, [7])
    assert await gateway.flush(30) == 0
    refused = {token: error.refusal for token, error in outcomes.errors.items() if error is not None}
    assert refused == {3: Refusal.TOO_LARGE, 6: Refusal.TOO_LARGE}
    assert sorted(outcomes.order) == list(range(8))
    assert [record.value for record in await read(broker, topic)] == [b"0", b"1", b"2", b"4", b"5", b"7"]
    # All of the batch, then the culprit alone: the last one did not get that far.
    assert told(gateway.metrics.failed("MessageSizeTooLargeError")) == 2


async def test_a_poison_record_costs_its_neighbours_nothing(
    broker: KafkaBroker, start_gateway: StartGateway, topic: str
) -> None:
    dead = f"{topic}-dead"
    gateway, outcomes = await start_gateway({}, dead_letter_topic=dead), Outcomes()
    broker.create_topic(topic, 1, {"max.message.bytes": "20000"})
    await gateway.add_topics([topic])
    # Kafka takes less than the gateway believes, so that it is Kafka which refuses.
    gateway.directory._bytes_max[topic] = 1_048_588
    destination = gateway.destination(topic, b"key", None, "a rule")
    poison = {7, 8, 30}
    for token in range(60):
        value = b"%d" % token + bytes(50_000) * (token in poison)
        gateway.enqueue(destination, value, [], outcomes, token)
    assert await gateway.flush(60) == 0
    assert sorted(outcomes.stored) == sorted(outcomes.order) == list(range(60))
    neighbours = [token for token in range(60) if token not in poison]
    assert [token for token in outcomes.order if token not in poison] == neighbours
    assert [int(record.value or b"") for record in await read(broker, topic)] == neighbours
    letters = await read(broker, dead)
    assert {int((letter.value or b"").rstrip(b"\0")) for letter in letters} == poison
    assert len(letters) == len(poison)
    for letter in letters:
        headers = dict(letter.headers)
        assert (letter.key, headers["mqk.cause"], headers["mqk.rule"]) == (b"key", b"too_large", b"a rule")
        assert b"MessageSizeTooLarge" in (headers["mqk.error"] or b"")
    assert told(gateway.metrics.dead_letters.labels("too_large")) == len(poison)


async def test_producers_replaced_under_load_keep_the_order(
    broker: KafkaBroker, start_gateway: StartGateway, topic: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    gateway, fat = await start_gateway({topic: 3}), Outcomes()
    set_message_bytes_max(broker, topic, 20_000)
    # It does not learn, so each fat record fails its batch, then itself, and each time the producer has to go.
    monkeypatch.setattr(gateway.directory, "forget_limits", lambda: None)
    async with Load(gateway, topic) as load:
        for token, partition in enumerate((0, 1, 2)):
            await load.flows(100)
            gateway.enqueue(gateway.destination(topic, key_of(partition, 3)), bytes(50_000), [], fat, token)
            await until(lambda: len(fat.order) > token, "the fat record is refused")  # noqa: B023 - waited for at once
        await load.flows(100)
    assert [error and error.refusal for error in fat.errors.values()] == [Refusal.TOO_LARGE] * 3
    assert told(gateway.metrics.failed("MessageSizeTooLargeError")) >= 4
    assert load.verdict(await read(broker, topic)) == {}


async def test_batches_are_as_small_as_the_topic_wants_them(
    broker: KafkaBroker, topic: str, caplog: pytest.LogCaptureFixture
) -> None:
    broker.create_topic(topic, 1, {"max.message.bytes": "20000"})
    gateway, outcomes = new_gateway(gateway_settings(broker)), Outcomes()
    await gateway.start([topic])
    try:
        destination = gateway.destination(topic, b"key")
        for token in range(200):
            gateway.enqueue(destination, bytes(1_000), [], outcomes, token)
        gateway.enqueue(destination, bytes(20_000 - limits.KAFKA_FRAMING_BYTES - len(b"key")), [], outcomes, 200)
        gateway.enqueue(destination, bytes(20_000 - limits.KAFKA_FRAMING_BYTES), [], outcomes, 201)
        assert await gateway.flush(30) == 0
    finally:
        await gateway.stop()
    assert [token for token, error in outcomes.errors.items() if error is not None] == [201]
    assert len(await read(broker, topic)) == 201
    assert "batch failed" not in caplog.text


async def test_a_topic_deleted_and_created_anew_is_written_again(
    broker: KafkaBroker, start_gateway: StartGateway, topic: str
) -> None:
    gateway = await start_gateway({topic: 3})
    async with Load(gateway, topic) as load:
        await load.flows()
        client = admin(broker)
        await asyncio.to_thread(client.delete_topics([topic])[topic].result, REQUEST_SECONDS)
        await until(lambda: topic in gateway.directory.missing, "the gateway has seen that the topic is gone")
        certainly_in_the_new_one = load.sent
        await asyncio.to_thread(broker.create_topic, topic, 3)
        await load.flows()
    stored = await read(broker, topic)
    verdict = load.verdict(stored)
    assert verdict.pop("lost") > 0  # With the old topic.
    assert verdict == {}
    values = {int(record.value or b"") for record in stored}
    assert values.issuperset(range(certainly_in_the_new_one, load.sent))


async def test_a_topic_created_anew_with_fewer_partitions_gets_what_waited_for_the_others(
    broker: KafkaBroker, start_gateway: StartGateway, topic: str
) -> None:
    gateway, outcomes = await start_gateway({topic: 3}), Outcomes()
    client = admin(broker)
    await asyncio.to_thread(client.delete_topics([topic])[topic].result, REQUEST_SECONDS)
    generation = gateway.generation
    send(gateway, topic, key_of(2, 3), outcomes, [1])
    await asyncio.to_thread(broker.create_topic, topic, 1)
    await until(lambda: gateway.generation != generation, "the gateway has seen that there is one partition")
    # The device is told to come again, and does.
    assert [error and error.retriable for error in outcomes.errors.values()] == [True]
    send(gateway, topic, key_of(2, 3), outcomes, [2])
    assert await gateway.flush(30) == 0
    assert outcomes.stored == [2]
    assert [(record.partition, record.value) for record in await read(broker, topic)] == [(0, b"2")]


async def test_deleted_records_do_not_disturb(broker: KafkaBroker, start_gateway: StartGateway, topic: str) -> None:
    gateway = await start_gateway({topic: 3})
    client = admin(broker)
    async with Load(gateway, topic) as load:
        for _ in range(4):
            await load.flows(100)
            ends = [TopicPartition(topic, partition, OffsetSpec.latest()._value) for partition in range(3)]
            for answer in client.delete_records(ends).values():
                await asyncio.to_thread(answer.result, REQUEST_SECONDS)
        after = load.sent
        await load.flows(100)
    stored = await read(broker, topic)
    verdict = load.verdict(stored)
    assert verdict.pop("lost") > 0  # As they should be.
    assert verdict == {}
    assert {int(record.value or b"") for record in stored}.issuperset(range(after, load.sent))


# ---- who may do what ----


def permit(topic: str, principal: str, operation: AclOperation) -> AclBinding:
    return AclBinding(
        ResourceType.TOPIC, topic, ResourcePatternType.LITERAL, principal, "*", operation, AclPermissionType.ALLOW
    )


async def test_a_topic_that_may_no_longer_be_written_refuses_until_it_may_again(
    broker: KafkaBroker, start_gateway: StartGateway, topic: str
) -> None:
    gateway, outcomes = await start_gateway({topic: 1, f"{topic}-other": 1}), Outcomes()
    send(gateway, topic, b"key", outcomes, [1])
    await until(lambda: outcomes.stored == [1], "the first record is stored")
    client = admin(broker)
    # Whoever may read it may not write it for that.
    may_read = permit(topic, "User:*", AclOperation.READ)
    for answer in client.create_acls([may_read]).values():
        await asyncio.to_thread(answer.result, REQUEST_SECONDS)
    send(gateway, topic, b"key", outcomes, [2, 3])
    send(gateway, f"{topic}-other", b"key", outcomes, [4])
    await until(lambda: len(outcomes.order) == 4, "all are settled")
    assert {token: error and error.refusal for token, error in outcomes.errors.items()} == {
        1: None,
        2: Refusal.NOT_AUTHORIZED,
        3: Refusal.NOT_AUTHORIZED,
        4: None,
    }
    everything = AclBindingFilter(
        ResourceType.TOPIC, topic, ResourcePatternType.LITERAL, None, None, AclOperation.ANY, AclPermissionType.ANY
    )
    for deleted in client.delete_acls([everything]).values():
        await asyncio.to_thread(deleted.result, REQUEST_SECONDS)
    send(gateway, topic, b"key", outcomes, [5])
    assert await gateway.flush(30) == 0
    assert outcomes.errors[5] is None
    assert [record.value for record in await read(broker, topic)] == [b"1", b"5"]


async def test_a_topic_that_may_not_be_seen_is_named_at_start(broker: KafkaBroker, topic: str) -> None:
    broker.create_topic(topic)
    client = admin(broker)
    for answer in client.create_acls([permit(topic, "User:somebody-else", AclOperation.READ)]).values():
        await asyncio.to_thread(answer.result, REQUEST_SECONDS)
    gateway = new_gateway(gateway_settings(broker))
    with pytest.raises(ConfigError, match=topic):
        await gateway.start([topic])
    await gateway.stop()
