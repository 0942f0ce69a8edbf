"""The user's backend: writes commands into Kafka with a client that is not ours, and reads what came of them."""

import json
import time
from collections.abc import Iterable
from typing import Any

from confluent_kafka import ConsumerGroupTopicPartitions, Producer, TopicPartition
from confluent_kafka.admin import AdminClient

from tests.support.kafka_broker import KafkaBroker

Outcome = dict[str, Any]


class Backend:
    """Of the replicas whose topics begin with `prefix`."""

    def __init__(self, kafka: KafkaBroker, prefix: str) -> None:
        self.kafka = kafka
        self.prefix = prefix
        self.producer = Producer({"bootstrap.servers": kafka.bootstrap, "linger.ms": 0})

    def msg_down(self, topic: str, payload: bytes, **headers: str) -> None:
        """Header names as they are, as in `clientid="c", qos="1"`."""
        self.write("msg_down", topic.encode(), payload, headers.items())

    def kick_out(self, **fields: str) -> None:
        self.write("kick_out", None, json.dumps(fields).encode(), ())

    def acl_clean(self, **fields: str) -> None:
        self.write("acl_clean", None, json.dumps(fields).encode(), ())

    def write(
        self, name: str, key: bytes | None, value: bytes | None, headers: Iterable[tuple[str, str]], partition: int = 0
    ) -> None:
        given = [(header, content.encode()) for header, content in headers]
        self.producer.produce(f"{self.prefix}{name}", value, key, partition, headers=given)
        self.producer.poll(0)

    def flush(self) -> None:
        assert self.producer.flush(30) == 0

    def results(self, count: int, timeout_seconds: float = 60.0) -> list[Outcome]:
        """All results once there are results of so many commands, in the order of their writing by partition."""
        self.flush()
        deadline = time.monotonic() + timeout_seconds
        while True:
            records = self.kafka.read(f"{self.prefix}command_results")
            results = [json.loads(record.value or b"") for record in records]
            if len({result["id"] for result in results}) >= count:
                return results
            if time.monotonic() > deadline:
                raise TimeoutError(f"{len(results)} results after {timeout_seconds:g} s, not of {count} commands")
            time.sleep(0.1)

    def committed(self, group: str, topic: str) -> dict[int, int]:
        """How far the group is, by partition."""
        name = f"{self.prefix}{topic}"
        asked = [TopicPartition(name, number) for number in range(self.kafka.topics()[name])]
        admin = AdminClient({"bootstrap.servers": self.kafka.bootstrap})
        answer = admin.list_consumer_group_offsets([ConsumerGroupTopicPartitions(group, asked)])[group].result(30)
        return {each.partition: each.offset for each in answer.topic_partitions}
