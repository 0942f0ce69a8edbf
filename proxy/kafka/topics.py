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
from proxy.kafka.gateway import Destination, Headers

log = logging.getLogger(__name__)

#: Kafka's default of max.message.bytes.
_MESSAGE_BYTES_DEFAULT: Final = 1_048_588
_TOPIC_ALREADY_EXISTS: Final = 36


class TopicDirectory:
    """Partitions and size limit of each topic in use, read at start and kept fresh."""

    def __init__(self, bootstrap_servers: list[str], client_id: str, client: dict[str, Any]) -> None:
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
        #: The partition count of some topic is not what it was.
        self.changed = False

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

    def _record_bytes_max(self, topic: str) -> int:
        return self._bytes_max.get(topic, _MESSAGE_BYTES_DEFAULT) - limits.KAFKA_FRAMING_BYTES

    async def connect(self) -> None:
        """Returns when the cluster has answered; until then it is tried again and again, each time said in the log."""
        while True:
            admin = AIOKafkaAdminClient(**self._options)
            try:
                await admin.start()
            except (kafka_errors.KafkaError, OSError) as error:
                log.warning("kafka does not answer", extra={"error": str(error)})
                await admin.close()
                await asyncio.sleep(limits.RETRY_SECONDS)
            else:
                self._admin = admin
                return

    async def close(self) -> None:
        if self._admin is not None:
            await asyncio.wait_for(self._admin.close(), limits.PRODUCER_STOP_SECONDS_MAX)

    async def ensure(self, topics: Sequence[str], *, create: bool, partitions: int, replication_factor: int) -> None:
        """Creates what is not there. Raises ConfigError: a topic is missing and may not or cannot be created."""
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
        await self._read_partitions()
        while not all(self._partitions.values()):
            # A new topic is listed a moment before it has partitions.
            await asyncio.sleep(limits.TOPIC_CREATION_POLL_SECONDS)
            await self._read_partitions()
        await self._read_limits()

    async def refresh(self) -> bool:
        """Reads everything again; False when the cluster does not answer."""
        try:
            await asyncio.wait_for(self._read_partitions(), limits.KAFKA_REQUEST_SECONDS_MAX)
            if monotonic() - self._limits_read_at > limits.TOPIC_REFRESH_SECONDS:
                await asyncio.wait_for(self._read_limits(), limits.KAFKA_REQUEST_SECONDS_MAX)
        except (TimeoutError, OSError, kafka_errors.KafkaError) as error:
            log.warning("kafka does not answer", extra={"error": repr(error)})
            return False
        return True

    async def _create(self, topics: list[str], partitions: int, replication_factor: int) -> None:
        response = await self._admin.create_topics(
            [NewTopic(topic, num_partitions=partitions, replication_factor=replication_factor) for topic in topics]
        )
        for topic, code, *rest in response.topic_errors:
            if code == _TOPIC_ALREADY_EXISTS:
                continue
            if code:
                cause = (rest and rest[0]) or kafka_errors.for_code(code).__name__
                raise ConfigError("kafka.create_topics", f"topic {topic} cannot be created: {cause}")
            log.info("topic created", extra={"topic": topic, "partitions": partitions})

    async def _read_partitions(self) -> None:
        for description in await self._admin.describe_topics(list(self._partitions)):
            topic, count = description["topic"], len(description["partitions"])
            if count and self._partitions.get(topic) != count:
                self._partitions[topic] = count
                self.changed = True

    async def _read_limits(self) -> None:
        """max.message.bytes of each topic; a cluster that cannot say is taken to have Kafka's default."""
        resources = [
            ConfigResource(ConfigResourceType.TOPIC, topic, {"max.message.bytes": None}) for topic in self._partitions
        ]
        self._limits_read_at = monotonic()
        try:
            responses = await self._admin.describe_configs(resources)
        except kafka_errors.IncompatibleBrokerVersion:
            log.info("cluster does not tell max.message.bytes")
            return
        for response in responses:
            for code, _, _, topic, entries in response.resources:
                values = [int(entry[1]) for entry in entries if entry[0] == "max.message.bytes"]
                if values and not code:
                    self._bytes_max[topic] = values[0]
