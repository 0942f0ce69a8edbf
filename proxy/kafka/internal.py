"""The topics that replicas keep for themselves: made and checked at start, because what they promise depends on how."""

import logging
from dataclasses import dataclass, field
from typing import Any, Final

from aiokafka import errors as kafka_errors
from aiokafka.admin import AIOKafkaAdminClient, NewTopic
from aiokafka.admin.config_resource import ConfigResource, ConfigResourceType

from proxy.errors import ConfigError

log = logging.getLogger(__name__)

#: How long compaction leaves a record alone: whatever a replica mends or announces must take less.
COMPACTION_LAG_MS_MIN: Final = 600_000
#: How long a tombstone stays readable for a replica that was away.
DELETE_RETENTION_MS_MIN: Final = 86_400_000


@dataclass(slots=True)
class InternalTopic:
    """A topic of ours. `configs` are set when it is created; of a topic that exists, `exactly` must hold and `at_least`
    must not be less.
    """

    name: str
    partitions: int
    exactly: dict[str, str] = field(default_factory=dict)
    at_least: dict[str, int] = field(default_factory=dict)

    @property
    def configs(self) -> dict[str, str]:
        return {**self.exactly, **{name: str(value) for name, value in self.at_least.items()}}


def sessions_topic(prefix: str, partitions: int) -> InternalTopic:
    """The session log: one record per client identifier is what remains."""
    return InternalTopic(
        f"{prefix}sessions",
        partitions,
        {
            "cleanup.policy": "compact",
            "message.timestamp.type": "LogAppendTime",
            "unclean.leader.election.enable": "false",
        },
        {"min.compaction.lag.ms": COMPACTION_LAG_MS_MIN, "delete.retention.ms": DELETE_RETENTION_MS_MIN},
    )


def nodes_topic(prefix: str) -> InternalTopic:
    """The registry of replicas: their order is one, so it has one partition."""
    return InternalTopic(f"{prefix}nodes", 1, {"cleanup.policy": "compact"})


async def ensure_internal(
    options: dict[str, Any], topics: list[InternalTopic], *, create: bool, replication_factor: int
) -> None:
    """Creates what is missing and checks what is there. Raises ConfigError that names the topic and what is wrong with
    it; aiokafka's errors when the cluster does not answer.
    """
    admin = AIOKafkaAdminClient(**options)
    try:
        await admin.start()
        existing = set(await admin.list_topics())
        missing = [topic for topic in topics if topic.name not in existing]
        if missing and not create:
            raise ConfigError(
                "kafka.create_topics",
                "false, and topics are missing; create them with\n" + _how(missing, replication_factor),
            )
        if missing:
            await _create(admin, missing, replication_factor)
        await _check(admin, [topic for topic in topics if topic.name in existing])
    finally:
        await admin.close()


def _how(missing: list[InternalTopic], replication_factor: int) -> str:
    return "\n".join(
        f"  kafka-topics.sh --create --topic {topic.name} --partitions {topic.partitions}"
        f" --replication-factor {replication_factor}"
        + "".join(f" --config {name}={value}" for name, value in topic.configs.items())
        for topic in missing
    )


async def _create(admin: AIOKafkaAdminClient, missing: list[InternalTopic], replication_factor: int) -> None:
    wanted = [NewTopic(topic.name, topic.partitions, 1, topic_configs=topic.configs) for topic in missing]
    for new in wanted:
        # Set afterwards: that -1 asks for the broker's default is known to Kafka, but not to NewTopic.
        new.replication_factor = replication_factor
    try:
        response = await admin.create_topics(wanted)
    except AttributeError:
        # How aiokafka says that the cluster names no controller, as it does while its brokers come up.
        raise kafka_errors.NodeNotReadyError("no controller is known") from None
    for name, code, *rest in response.topic_errors:
        error = kafka_errors.for_code(code)
        if error.retriable:
            raise error(name)
        if error is kafka_errors.NoError:
            log.info("topic created", extra={"topic": name})
        elif error is not kafka_errors.TopicAlreadyExistsError:
            raise ConfigError(
                "kafka.create_topics", f"topic {name} cannot be created: {(rest and rest[0]) or error.__name__}"
            )


async def _check(admin: AIOKafkaAdminClient, topics: list[InternalTopic]) -> None:
    """What an operator made, or an earlier version, must keep the same promises."""
    if not topics:
        return
    resources = [ConfigResource(ConfigResourceType.TOPIC, topic.name) for topic in topics]
    found: dict[str, dict[str, str]] = {}
    for response in await admin.describe_configs(resources):
        for _, _, _, name, entries in response.resources:
            found[name] = {entry[0]: entry[1] for entry in entries}
    for topic in topics:
        has = found.get(topic.name, {})
        for name, value in topic.exactly.items():
            if name in has and has[name] != value:
                raise ConfigError(
                    "kafka.internal_prefix", f"topic {topic.name} has {name}={has[name]}, it needs {value}"
                )
        for name, least in topic.at_least.items():
            if name in has and int(has[name]) < least:
                raise ConfigError(
                    "kafka.internal_prefix", f"topic {topic.name} has {name}={has[name]}, it needs at least {least}"
                )
        if int(has.get("min.insync.replicas", "1")) < 2:
            log.warning("one copy is enough for an acknowledgement", extra={"topic": topic.name})
