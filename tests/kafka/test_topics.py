"""Topics as they are found at start, on a real Kafka: there, missing, created, impossible, and how much one takes."""

import pytest

from proxy import limits
from proxy.errors import ConfigError, Refusal
from tests.kafka.conftest import gateway_settings, new_gateway, set_message_bytes_max, until
from tests.kafka.outcomes import Outcomes, send
from tests.support.kafka_broker import KafkaBroker


async def test_topics_that_are_missing_are_created(kafka_each_version: KafkaBroker, topic: str) -> None:
    broker = kafka_each_version
    broker.create_topic(f"{topic}-there", partitions=2)
    gateway = new_gateway(gateway_settings(broker, partitions=5))
    await gateway.start([f"{topic}-there", f"{topic}-new"])
    try:
        assert (gateway.partitions(f"{topic}-there"), gateway.partitions(f"{topic}-new")) == (2, 5)
    finally:
        await gateway.stop()
    assert broker.topics()[f"{topic}-new"] == 5


async def test_topics_that_may_not_be_created_are_named_with_the_commands_that_do(
    kafka: KafkaBroker, topic: str
) -> None:
    kafka.create_topic(f"{topic}-there")
    settings = gateway_settings(kafka, create_topics=False, partitions=6, replication_factor=3)
    gateway = new_gateway(settings)
    with pytest.raises(ConfigError) as error:
        await gateway.start([f"{topic}-b", f"{topic}-there", f"{topic}-a"])
    await gateway.stop()
    assert error.value.setting == "kafka.create_topics"
    assert str(error.value).splitlines()[1:] == [
        f"  kafka-topics.sh --create --topic {topic}-a --partitions 6 --replication-factor 3",
        f"  kafka-topics.sh --create --topic {topic}-b --partitions 6 --replication-factor 3",
    ]
    assert f"{topic}-a" not in kafka.topics()


async def test_more_replicas_than_brokers_is_an_error_of_that_setting(
    kafka_each_version: KafkaBroker, topic: str
) -> None:
    gateway = new_gateway(gateway_settings(kafka_each_version, replication_factor=3))
    with pytest.raises(ConfigError, match=rf"topic {topic} cannot be created: .*3 time\(s\)") as error:
        await gateway.start([topic])
    await gateway.stop()
    assert error.value.setting == "kafka.replication_factor"


async def test_the_brokers_own_replication_factor_can_be_asked_for(kafka: KafkaBroker, topic: str) -> None:
    gateway = new_gateway(gateway_settings(kafka, replication_factor=-1, partitions=2))
    await gateway.start([topic])
    await gateway.stop()
    assert kafka.topics()[topic] == 2


async def test_a_name_that_is_no_topic_is_an_error(kafka: KafkaBroker) -> None:
    gateway = new_gateway(gateway_settings(kafka))
    with pytest.raises(ConfigError, match="topic not a topic cannot be created"):
        await gateway.start(["not a topic"])
    await gateway.stop()


async def test_each_topic_has_a_limit_of_its_own(kafka_each_version: KafkaBroker, topic: str) -> None:
    broker = kafka_each_version
    small, large = f"{topic}-small", f"{topic}-large"
    broker.create_topic(small, config={"max.message.bytes": "50000"})
    broker.create_topic(large, config={"max.message.bytes": "3000000"})
    gateway, outcomes = new_gateway(gateway_settings(broker)), Outcomes()
    await gateway.start([small, large])
    try:
        room = 50_000 - limits.KAFKA_FRAMING_BYTES - len(b"key")
        for token, (name, size) in enumerate([(small, room), (small, room + 1), (large, room + 1), (large, 2_900_000)]):
            gateway.enqueue(gateway.destination(name, b"key"), bytes(size), [], outcomes, token)
        # Headers count as well, and are looked at whenever they could matter.
        destination = gateway.destination(small, b"key")
        gateway.enqueue(destination, b"", [("mqtt.clientid", bytes(50_000))], outcomes, 4)
        assert await gateway.flush(30) == 0
    finally:
        await gateway.stop()
    refused = {token: error.refusal for token, error in outcomes.errors.items() if error is not None}
    assert refused == {1: Refusal.TOO_LARGE, 4: Refusal.TOO_LARGE}
    assert [len(record.value or b"") for record in broker.read(large)] == [room + 1, 2_900_000]


async def test_limits_are_read_again_in_time(kafka: KafkaBroker, topic: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(limits, "TOPIC_REFRESH_SECONDS", 0.0)
    monkeypatch.setattr(limits, "PROBE_SECONDS", 0.05)
    kafka.create_topic(topic, config={"max.message.bytes": "50000"})
    gateway, outcomes = new_gateway(gateway_settings(kafka)), Outcomes()
    await gateway.start([topic])
    try:
        destination = gateway.destination(topic, b"key")
        assert not gateway.directory.fits(destination, bytes(60_000), [])
        set_message_bytes_max(kafka, topic, 70_000)
        await until(lambda: gateway.directory.fits(destination, bytes(60_000), []), "the new limit is known")
        send(gateway, topic, b"key", outcomes, [1])
        gateway.enqueue(destination, bytes(60_000), [], outcomes, 2)
        assert await gateway.flush(30) == 0
    finally:
        await gateway.stop()
    assert outcomes.stored == [1, 2]
