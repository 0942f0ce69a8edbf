"""What is known of the topics we write to: partitions, size limits, whether they are there; and the cluster's pulse."""

import asyncio
import logging
from collections.abc import Sequence
from typing import Any, Final

from aiokafka import errors as kafka_errors
from aiokafka.admin import AIOKafkaAdminClient, NewTopic
from aiokafka.admin.config_resource import ConfigResource, ConfigResourceType

from proxy import limits
from proxy.clock import monotonic
from proxy.errors import ConfigError, GatewayError, Refusal
from proxy.kafka.faults import find_fault
from proxy.kafka.gateway import Destination, Headers

log = logging.getLogger(__name__)

#: What a request raises when the cluster cannot answer it now.
UNREACHABLE: Final = (kafka_errors.KafkaError, OSError, TimeoutError)
#: Kafka's default of max.message.bytes.
_MESSAGE_BYTES_DEFAULT: Final = 1_048_588
#: The setting that is to blame when a topic cannot be created.
_BLAMED: Final = {
    kafka_errors.InvalidReplicationFactorError: "kafka.replication_factor",
    kafka_errors.InvalidPartitionsError: "kafka.partitions",
}


class TopicDirectory:
    """Partitions and size limit of each topic in use, read at start and kept fresh."""

    def __init__(
        self, bootstrap_servers: list[str], client_id: str, client: dict[str, Any], client_table: str = "kafka.client"
    ) -> None:
        self._client_table = client_table
        self._options = {
            "bootstrap_servers": bootstrap_servers,
            "client_id": client_id,
            "request_timeout_ms": int(limits.KAFKA_REQUEST_SECONDS_MAX * 1000),
            **client,
        }
        self._admin: Any = None
        self._partitions: dict[str, int] = {}
        self._bytes_max: dict[str, int] = {}
        self._limits_read_at = float("-inf")
        #: Topics that were there at start and, by Kafka's own word, are not any more.
        self.missing: set[str] = set()
        #: The partition count of some topic is not what it was.
        self.changed = False
        #: The setting that keeps us out of the cluster, and why; None as long as nothing is known of one.
        self.fault: str | None = None

    def partitions(self, topic: str) -> int:
        """Raises GatewayError: no such topic was asked for at start."""
        try:
            return self._partitions[topic]
        except KeyError:
            raise GatewayError(f"topic {topic} is not known", Refusal.UNKNOWN_TOPIC) from None

    def easy_bytes(self, topic: str) -> int:
        """A record that counts no more than this fits, however long its headers (topic name, client id) are."""
        return self._record_bytes_max(topic) - limits.HEADER_BYTES_MAX

    def fits(self, destination: Destination, value: bytes, headers: Headers) -> bool:
        """Whether the topic takes this record."""
        size = len(value) + len(destination.key) + sum(len(name) + len(content) for name, content in headers)
        return size <= self._record_bytes_max(destination.topic)

    def batch_bytes(self, topic: str) -> int:
        """The largest batch for a topic, whose limit is one on batches of records."""
        return min(limits.BATCH_BYTES_MAX, self._record_bytes_max(topic))

    def forget_limits(self) -> None:
        """The size limits have been found wrong: the next refresh reads them again."""
        self._limits_read_at = float("-inf")

    def _record_bytes_max(self, topic: str) -> int:
        return self._bytes_max.get(topic, _MESSAGE_BYTES_DEFAULT) - limits.KAFKA_FRAMING_BYTES

    async def connect(self) -> None:
        """Raises one of UNREACHABLE: the cluster does not answer. `close` is due in any case."""
        self._admin = AIOKafkaAdminClient(**self._options)
        await self._admin.start()

    async def look_for_fault(self) -> ConfigError | None:
        """After a failure: whether it is a setting that keeps us out. Returned when no waiting will mend it."""
        found = await find_fault(self._options)
        error = ConfigError(f"{self._client_table}.{found.setting}", found.message) if found else None
        self.fault = str(error) if error else None
        return error if found and found.final else None

    async def close(self) -> None:
        admin, self._admin = self._admin, None
        if admin is not None:
            try:
                async with asyncio.timeout(limits.PRODUCER_STOP_SECONDS_MAX):
                    await admin.close()
            except UNREACHABLE as error:
                log.warning("admin client did not stop cleanly", extra={"error": repr(error)})

    async def ensure(self, topics: Sequence[str], *, create: bool, partitions: int, replication_factor: int) -> None:
        """Creates what is not there. Raises ConfigError: a topic is missing and may not or cannot be created; one of
        UNREACHABLE: the cluster does not answer.
        """
        missing = sorted(set(topics) - set(await self._admin.list_topics()))
        if missing and not create:
            commands = "\n".join(
                f"  kafka-topics.sh --create --topic {topic} --partitions {partitions}"
                f" --replication-factor {replication_factor}"
                for topic in missing
            )
            raise ConfigError("kafka.create_topics", f"false, and topics are missing; create them with\n{commands}")
        if missing:
            await self._create(missing, partitions, replication_factor)
        self._partitions = dict.fromkeys(topics, 0)
        hidden = await self._read_partitions()
        while not all(self._partitions.values()) and not hidden:
            # A new topic is listed a moment before it has partitions.
            await asyncio.sleep(limits.TOPIC_CREATION_POLL_SECONDS)
            hidden = await self._read_partitions()
        if hidden:
            named = ", ".join(sorted(hidden))
            raise ConfigError(self._client_table, f"these credentials may not describe topics {named}")
        self.changed = False
        await self._read_limits()

    async def refresh(self) -> bool:
        """Reads everything again; False when the cluster does not answer."""
        try:
            async with asyncio.timeout(limits.KAFKA_REQUEST_SECONDS_MAX):
                await self._read_partitions()
            if monotonic() - self._limits_read_at > limits.TOPIC_REFRESH_SECONDS:
                async with asyncio.timeout(limits.KAFKA_REQUEST_SECONDS_MAX):
                    await self._read_limits()
        except UNREACHABLE as error:
            await self.look_for_fault()
            log.warning("kafka does not answer", extra={"error": repr(error), "fault": self.fault})
            return False
        return True

    async def _create(self, topics: list[str], partitions: int, replication_factor: int) -> None:
        wanted = [NewTopic(topic, partitions, 1) for topic in topics]
        for topic in wanted:
            # Set afterwards: that -1 asks for the broker's default is known to Kafka, but not to NewTopic.
            topic.replication_factor = replication_factor
        try:
            response = await self._admin.create_topics(wanted)
        except AttributeError:
            # How aiokafka says that the cluster names no controller, as it does while its brokers come up.
            raise kafka_errors.NodeNotReadyError("no controller is known") from None
        for topic, code, *rest in response.topic_errors:
            error = kafka_errors.for_code(code)
            if error.retriable:
                raise error(topic)
            if error is kafka_errors.NoError:
                log.info("topic created", extra={"topic": topic, "partitions": partitions})
            elif error is not kafka_errors.TopicAlreadyExistsError:
                cause = (rest and rest[0]) or error.__name__
                setting = _BLAMED.get(error, "kafka.create_topics")
                raise ConfigError(setting, f"topic {topic} cannot be created: {cause}")

    async def _read_partitions(self) -> list[str]:
        """Returns the topics that Kafka does not let us see; what is known of them stays as it is."""
        hidden = []
        for description in await self._admin.describe_topics(list(self._partitions)):
            topic, count = description["topic"], len(description["partitions"])
            error = kafka_errors.for_code(description["error_code"])
            if error is kafka_errors.TopicAuthorizationFailedError:
                hidden.append(topic)
            elif error is kafka_errors.UnknownTopicOrPartitionError:
                if self._partitions[topic] and topic not in self.missing:
                    log.error("topic is gone, and with it what was acknowledged", extra={"topic": topic})
                    self.missing.add(topic)
            elif count:
                self.missing.discard(topic)
                self.changed |= self._partitions[topic] != count
                self._partitions[topic] = count
        return hidden

    async def _read_limits(self) -> None:
        """max.message.bytes of each topic; a cluster that cannot say is taken to have Kafka's default."""
        resources = [
            ConfigResource(ConfigResourceType.TOPIC, topic, {"max.message.bytes": None}) for topic in self._partitions
        ]
        try:
            responses = await self._admin.describe_configs(resources)
        except kafka_errors.IncompatibleBrokerVersion:
            log.info("cluster does not tell max.message.bytes")
            responses = []
        for response in responses:
            for code, _, _, topic, entries in response.resources:
                values = [int(entry[1]) for entry in entries if entry[0] == "max.message.bytes"]
                if values and not code:
                    self._bytes_max[topic] = values[0]
        self._limits_read_at = monotonic()
