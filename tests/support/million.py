"""A session log as a large fleet leaves it: one record for each session, every one announced already."""

import time
from typing import Any

from confluent_kafka import ConsumerGroupTopicPartitions, Producer, TopicPartition
from confluent_kafka.admin import AdminClient

from proxy.kafka.batches import md5_partition
from proxy.kafka.records import RELEASE, RELEASED, About, SessionRecord, SessionState
from tests.support.kafka_broker import KafkaBroker
from tests.support.processes import wait_until
from tests.support.proxy import ProxyProcess

#: Of one session, beside its client id.
ABOUT = About("a user name", "10.20.30.40", 60, 5, None, 1_652_084_485_000)
DAY_SECONDS = 86_400


def write_sessions(kafka: KafkaBroker, internal_prefix: str, sessions: int) -> None:
    """The topic has to be there, as a replica made it."""
    topic = f"{internal_prefix}sessions"
    partitions = kafka.topics()[topic]
    producer = Producer(
        {"bootstrap.servers": kafka.bootstrap, "linger.ms": 50, "queue.buffering.max.messages": 200_000}
    )
    for number in range(sessions):
        client_id = f"device-{number:07d}"
        value, headers = _offline(client_id, number).encode()
        key = client_id.encode()
        while True:
            try:
                producer.produce(topic, value, key, md5_partition(key, partitions), headers=headers)
                break
            except BufferError:
                producer.poll(0.1)
    assert producer.flush(120) == 0
    _mark_as_announced(kafka, f"{internal_prefix}sweepers", topic, partitions)


def _offline(client_id: str, number: int) -> SessionRecord:
    state = SessionState(number, True, [], [])
    return SessionRecord(
        client_id, RELEASE, "a-node", 5, number, number, 2, RELEASED, False, None, DAY_SECONDS, "normal", state,
        ABOUT, None,
    )  # fmt: skip


def _mark_as_announced(kafka: KafkaBroker, group: str, topic: str, partitions: int) -> None:
    admin = AdminClient({"bootstrap.servers": kafka.bootstrap})
    marks = [TopicPartition(topic, number, 10**9) for number in range(partitions)]
    admin.alter_consumer_group_offsets([ConsumerGroupTopicPartitions(group, marks)])[group].result(30)


def replay(kafka: KafkaBroker, proxy: ProxyProcess, sessions: int) -> dict[str, Any]:
    """Starts a replica on that log; what its replay took."""
    began = time.monotonic()
    proxy.start()
    ready = time.monotonic() - began
    wait_until(lambda: proxy.metric("mqk_sessions") >= sessions, "all sessions are known", 5)
    line = next(line for line in proxy.process.output.splitlines() if "session log replayed" in line)
    return {"ready after seconds": round(ready, 1), "log line": line}
