"""The topics that replicas keep for themselves: made and checked at start, because what they promise depends on how."""

import logging
from dataclasses import dataclass, field
from typing import Final

from aiokafka import errors as kafka_errors
from aiokafka.admin import AIOKafkaAdminClient
from aiokafka.admin.config_resource import ConfigResource, ConfigResourceType

from proxy import limits
from proxy.errors import ConfigError

log = logging.getLogger(__name__)

#: How long compaction leaves a record alone: whatever a replica mends or announces must take less.
COMPACTION_LAG_MS_MIN: Final = 600_000
#: How long a tombstone stays readable for a replica that was away.
DELETE_RETENTION_MS_MIN: Final = 86_400_000


@dataclass(slots=True)
class Topic:
    """A topic as it is to be. `configs` are set when it is created; of one that exists, `exactly` must hold and
    `at_least` must not be less.
    """

    name: str
    partitions: int
    exactly: dict[str, str] = field(default_factory=dict)
    at_least: dict[str, int] = field(default_factory=dict)

    @property
    def configs(self) -> dict[str, str]:
        return {**self.exactly, **{name: str(value) for name, value in self.at_least.items()}}

    def command(self, replication_factor: int) -> str:
        """What an operator types to create it."""
        configs = "".join(f" --config {name}={value}" for name, value in self.configs.items())
        factor = f" --replication-factor {replication_factor}"
        return f"kafka-topics.sh --create --topic {self.name} --partitions {self.partitions}{factor}{configs}"


def sessions_topic(prefix: str, partitions: int) -> Topic:
    """The session log: one record per client identifier is what remains."""
    return Topic(
        f"{prefix}sessions",
        partitions,
        {
            "cleanup.policy": "compact",
            "message.timestamp.type": "LogAppendTime",
            "unclean.leader.election.enable": "false",
        },
        {"min.compaction.lag.ms": COMPACTION_LAG_MS_MIN, "delete.retention.ms": DELETE_RETENTION_MS_MIN},
    )


def nodes_topic(prefix: str) -> Topic:
    """The registry of replicas: their order is one, so it has one partition."""
    return Topic(f"{prefix}nodes", 1, {"cleanup.policy": "compact"})


def inbox_topic(prefix: str) -> Topic:
    """What replicas ask of each other: letters that nobody reads twice."""
    return Topic(
        f"{prefix}inbox",
        limits.INBOX_PARTITIONS,
        {"cleanup.policy": "delete"},
        {"retention.ms": limits.INBOX_RETENTION_MS},
    )


def bans_topic(prefix: str) -> Topic:
    """The list of bans; one partition, as the changes of a list have one order."""
    return Topic(f"{prefix}bans", 1, {"cleanup.policy": "compact"}, {"delete.retention.ms": DELETE_RETENTION_MS_MIN})


async def check_internal(admin: AIOKafkaAdminClient, topics: list[Topic]) -> None:
    """What an operator made, or an earlier version, must keep the same promises. Raises ConfigError that names the
    topic and what is wrong with it.
    """
    resources = [ConfigResource(ConfigResourceType.TOPIC, topic.name) for topic in topics]
    found: dict[str, dict[str, str]] = {}
    try:
        responses = await admin.describe_configs(resources) if resources else []
    except kafka_errors.IncompatibleBrokerVersion:
        log.warning("cluster does not tell how its topics are kept: not checked")
        responses = []
    for response in responses:
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
    thin = [topic.name for topic in topics if int(found.get(topic.name, {}).get("min.insync.replicas", "1")) < 2]
    if thin:
        log.warning("one copy is enough for an acknowledgement", extra={"topics": thin})
