"""What is known of the topics we write to: partitions, size limits, whether they are there; and the cluster's pulse."""

import asyncio
import logging
from collections.abc import Sequence
from typing import Any, Final

from aiokafka import errors as kafka_errors
from aiokafka.admin import AIOKafkaAdminClient, NewTopic
from aiokafka.admin.config_resource import ConfigResource, ConfigResourceType
from aiokafka.protocol.metadata import MetadataRequest

from proxy import limits
from proxy.clock import monotonic
from proxy.errors import ConfigError
from proxy.kafka.faults import find_fault
from proxy.kafka.gateway import Destination, Headers
from proxy.kafka.internal import Topic, check_internal

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
    """Partitions and size limit of each topic in use, read at start or when it is first written to, and kept fresh."""

    def __init__(
        self, bootstrap_servers: list[str], client_id: str, client: dict[str, Any], client_table: str = "kafka.client"
    ) -> None:
        self.bootstrap_servers = bootstrap_servers
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
        """0 when nothing is known of the topic."""
        return self._partitions.get(topic, 0)

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

    def trouble(self, error: BaseException) -> dict[str, object]:
        """What the log says of a cluster that does not answer."""
        return {"error": repr(error), "brokers": self.bootstrap_servers, "fault": self.fault}

    async def close(self) -> None:
        admin, self._admin = self._admin, None
        if admin is not None:
            try:
                async with asyncio.timeout(limits.PRODUCER_STOP_SECONDS_MAX):
                    await admin.close()
            except UNREACHABLE as error:
                log.warning("admin client did not stop cleanly", extra={"error": repr(error)})

    async def ensure(
        self,
        topics: Sequence[str],
        *,
        create: bool,
        partitions: int,
        replication_factor: int,
        internal: Sequence[Topic] = (),
    ) -> None:
        """Creates what is not there; `internal` topics that are there must be as they say. Raises ConfigError: a topic
        is missing and may not or cannot be created, or is not as it must be; one of UNREACHABLE: the cluster does not
        answer.
        """
        there = set(await self._admin.list_topics())
        wanted = [*(Topic(name, partitions) for name in sorted(set(topics))), *internal]
        missing = [topic for topic in wanted if topic.name not in there]
        if missing and not create:
            commands = "\n".join(f"  {topic.command(replication_factor)}" for topic in missing)
            raise ConfigError("kafka.create_topics", f"false, and topics are missing; create them with\n{commands}")
        if missing:
            await self._create(missing, replication_factor)
        await check_internal(self._admin, [topic for topic in internal if topic.name in there])
        topics = [topic.name for topic in wanted]
        self._partitions = dict.fromkeys(topics, 0) | self._partitions
        hidden = await self._read_partitions()
        while not all(self._partitions[topic] for topic in topics) and not hidden:
            # A new topic is listed a moment before it has partitions.
            await asyncio.sleep(limits.TOPIC_CREATION_POLL_SECONDS)
            hidden = await self._read_partitions()
        if hidden:
            named = ", ".join(sorted(hidden))
            raise ConfigError(self._client_table, f"these credentials may not describe topics {named}")
        self.changed = False
        await self._refresh_limits()

    async def learn(self, topics: Sequence[str]) -> set[str] | None:
        """Which of these are there; from now on they are known. None when the cluster does not answer."""
        try:
            async with asyncio.timeout(limits.KAFKA_REQUEST_SECONDS_MAX):
                there = {each["topic"]: len(each["partitions"]) for each in await self._describe(topics)}
                fresh = {topic: count for topic, count in there.items() if count and topic not in self._partitions}
                bytes_max = await self._read_limits(sorted(fresh))
        except UNREACHABLE as error:
            log.warning("kafka does not answer", extra=self.trouble(error))
            return None
        self._bytes_max |= bytes_max
        self._partitions |= fresh
        return {topic for topic in topics if self.partitions(topic)}

    def forget(self, topic: str) -> None:
        """Nobody writes to this topic any more."""
        self._partitions.pop(topic, None)
        self._bytes_max.pop(topic, None)
        self.missing.discard(topic)

    async def refresh(self) -> bool:
        """Reads everything again; False when the cluster does not answer."""
        try:
            async with asyncio.timeout(limits.KAFKA_REQUEST_SECONDS_MAX):
                await self._read_partitions()
            if monotonic() - self._limits_read_at > limits.TOPIC_REFRESH_SECONDS:
                async with asyncio.timeout(limits.KAFKA_REQUEST_SECONDS_MAX):
                    await self._refresh_limits()
        except UNREACHABLE as error:
            await self.look_for_fault()
            log.warning("kafka does not answer", extra=self.trouble(error))
            return False
        return True

    async def _create(self, topics: list[Topic], replication_factor: int) -> None:
        wanted = [NewTopic(topic.name, topic.partitions, 1, topic_configs=topic.configs) for topic in topics]
        for new in wanted:
            # Set afterwards: that -1 asks for the broker's default is known to Kafka, but not to NewTopic.
            new.replication_factor = replication_factor
        try:
            response = await self._admin.create_topics(wanted)
        except AttributeError:
            # How aiokafka says that the cluster names no controller, as it does while its brokers come up.
            raise kafka_errors.NodeNotReadyError("no controller is known") from None
        outcomes = [(topic, kafka_errors.for_code(code), rest) for topic, code, *rest in response.topic_errors]
        created = [topic for topic, error, _ in outcomes if error is kafka_errors.NoError]
        if created:
            log.info("topics created", extra={"topics": created})
        for topic, error, rest in outcomes:
            if error.retriable:
                raise error(topic)
            if error not in {kafka_errors.NoError, kafka_errors.TopicAlreadyExistsError}:
                cause = (rest and rest[0]) or error.__name__
                setting = _BLAMED.get(error, "kafka.create_topics")
                raise ConfigError(setting, f"topic {topic} cannot be created: {cause}")

    async def _read_partitions(self) -> list[str]:
        """Returns the topics that Kafka does not let us see; what is known of them stays as it is."""
        hidden = []
        for description in await self._describe(list(self._partitions)):
            topic, count = description["topic"], len(description["partitions"])
            if topic not in self._partitions:
                continue  # It was forgotten meanwhile.
            error = kafka_errors.for_code(description["error_code"])
            if error is kafka_errors.TopicAuthorizationFailedError:
                hidden.append(topic)
            elif error is kafka_errors.UnknownTopicOrPartitionError:
                if self._partitions[topic] and topic not in self.missing:
                    log.error("topic is gone, and with it what was acknowledged", extra={"topic": topic})
                    self.missing.add(topic)
            elif count:
                self.missing.discard(topic)
                self.changed |= self._partitions[topic] not in {0, count}
                self._partitions[topic] = count
        return hidden

    async def _describe(self, topics: Sequence[str]) -> list[dict[str, Any]]:
        """As the admin client's `describe_topics`, which lets the cluster create what it is asked for by name."""
        request = MetadataRequest(list(topics), allow_auto_topic_creation=False)
        response = await self._admin._send_request(request)
        described: list[dict[str, Any]] = response.to_object()["topics"]
        return described

    async def _refresh_limits(self) -> None:
        bytes_max = await self._read_limits(list(self._partitions))
        # Some may have been forgotten meanwhile.
        self._bytes_max |= {topic: most for topic, most in bytes_max.items() if topic in self._partitions}
        self._limits_read_at = monotonic()

    async def _read_limits(self, topics: list[str]) -> dict[str, int]:
        """max.message.bytes of each topic; a cluster that cannot say is taken to have Kafka's default."""
        resources = [ConfigResource(ConfigResourceType.TOPIC, topic, {"max.message.bytes": None}) for topic in topics]
        try:
            responses = await self._admin.describe_configs(resources)
        except kafka_errors.IncompatibleBrokerVersion:
            log.info("cluster does not tell max.message.bytes")
            responses = []
        found = {}
        for response in responses:
            for code, _, _, topic, entries in response.resources:
                values = [int(entry[1]) for entry in entries if entry[0] == "max.message.bytes"]
                if values and not code:
                    found[topic] = values[0]
        return found
