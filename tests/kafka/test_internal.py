"""The topics that replicas keep for themselves, on a real Kafka: made as they must be, refused when they are not."""

from typing import Any

import pytest
from confluent_kafka.admin import AdminClient, ConfigResource

from proxy.errors import ConfigError
from proxy.kafka.internal import (
    COMPACTION_LAG_MS_MIN,
    DELETE_RETENTION_MS_MIN,
    Topic,
    nodes_topic,
    sessions_topic,
)
from proxy.kafka.topics import TopicDirectory
from tests.support.kafka_broker import KafkaBroker


def wanted(topic: str) -> list[Topic]:
    return [sessions_topic(f"_{topic}_", 13), nodes_topic(f"_{topic}_")]


async def ensure(kafka: KafkaBroker, topics: list[Topic], **options: Any) -> None:
    directory = TopicDirectory([kafka.bootstrap], "tests", {})
    await directory.connect()
    try:
        await directory.ensure(
            [], **{"create": True, "partitions": 1, "replication_factor": 1, **options}, internal=topics
        )
    finally:
        await directory.close()


def configs(kafka: KafkaBroker, topic: str) -> dict[str, str]:
    admin = AdminClient({"bootstrap.servers": kafka.bootstrap})
    [answer] = admin.describe_configs([ConfigResource(ConfigResource.Type.TOPIC, topic)]).values()
    return {name: entry.value for name, entry in answer.result(10).items()}


async def test_they_are_made_as_they_must_be(kafka_each_version: KafkaBroker, topic: str) -> None:
    kafka, (sessions, nodes) = kafka_each_version, wanted(topic)
    await ensure(kafka, [sessions, nodes])
    there = kafka.topics()
    assert (there[sessions.name], there[nodes.name]) == (13, 1)
    made = configs(kafka, sessions.name)
    assert made["cleanup.policy"] == "compact"
    assert made["message.timestamp.type"] == "LogAppendTime"
    assert made["unclean.leader.election.enable"] == "false"
    assert int(made["min.compaction.lag.ms"]) == COMPACTION_LAG_MS_MIN
    assert int(made["delete.retention.ms"]) == DELETE_RETENTION_MS_MIN
    assert configs(kafka, nodes.name)["cleanup.policy"] == "compact"
    # The next start finds them right.
    await ensure(kafka, [sessions, nodes], create=False)


async def test_missing_ones_are_named_with_the_commands_that_make_them(kafka: KafkaBroker, topic: str) -> None:
    with pytest.raises(ConfigError) as error:
        await ensure(kafka, wanted(topic), create=False, replication_factor=3)
    assert error.value.setting == "kafka.create_topics"
    first, second = str(error.value).splitlines()[1:]
    assert first.startswith(
        f"  kafka-topics.sh --create --topic _{topic}_sessions --partitions 13 --replication-factor 3"
        " --config cleanup.policy=compact --config message.timestamp.type=LogAppendTime"
    )
    assert second.endswith(
        f"--topic _{topic}_nodes --partitions 1 --replication-factor 3 --config cleanup.policy=compact"
    )
    assert f"_{topic}_sessions" not in kafka.topics()


@pytest.mark.parametrize(
    ("setting", "value", "complaint"),
    [
        ("cleanup.policy", "delete", "has cleanup.policy=delete, it needs compact"),
        ("message.timestamp.type", "CreateTime", "has message.timestamp.type=CreateTime, it needs LogAppendTime"),
        ("unclean.leader.election.enable", "true", "has unclean.leader.election.enable=true, it needs false"),
        ("min.compaction.lag.ms", "599999", "has min.compaction.lag.ms=599999, it needs at least 600000"),
        ("delete.retention.ms", "1", "has delete.retention.ms=1, it needs at least 86400000"),
    ],
)
async def test_one_that_is_not_as_it_must_be_is_refused(
    kafka: KafkaBroker, topic: str, setting: str, value: str, complaint: str
) -> None:
    sessions, nodes = wanted(topic)
    kafka.create_topic(sessions.name, 13, {**sessions.configs, setting: value})
    with pytest.raises(ConfigError, match=f"topic {sessions.name} {complaint}") as error:
        await ensure(kafka, [sessions, nodes])
    assert error.value.setting == "kafka.internal_prefix"


async def test_one_copy_is_told(kafka: KafkaBroker, topic: str, caplog: pytest.LogCaptureFixture) -> None:
    sessions, nodes = wanted(topic)
    kafka.create_topic(sessions.name, 13, sessions.configs)
    await ensure(kafka, [sessions, nodes])
    told = [vars(record)["topics"] for record in caplog.records if "one copy" in record.message]
    assert told == [[sessions.name]]


async def test_one_that_cannot_be_made_is_named(kafka: KafkaBroker, topic: str) -> None:
    with pytest.raises(ConfigError, match=f"topic _{topic}_sessions cannot be created"):
        await ensure(kafka, wanted(topic), replication_factor=3)
