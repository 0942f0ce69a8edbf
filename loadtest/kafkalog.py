"""Reads whole Kafka topics for `verify.py`, with librdkafka: not the client library that the proxy writes with.

Import it only where Kafka is wanted: it needs the package confluent-kafka.
"""

import re
import time

from confluent_kafka import Consumer, KafkaError, KafkaException, Message, TopicPartition

from loadtest.errors import LoadError
from loadtest.verify import LogCheck

METADATA_SECONDS = 15.0
STALL_SECONDS = 60.0
"""Without a single record for this long the reading is given up; a broker that was killed needs up to 15 s."""
_BATCH_RECORDS = 5_000


def read_topics(bootstrap: str, topics: str, check: LogCheck) -> list[str]:
    """Give `check` every record, from the first to the last there is, of all topics that match the regular
    expression `topics`; returns their names."""
    consumer = Consumer({
        "bootstrap.servers": bootstrap,
        "group.id": "loadtest-verify",  # the client demands one; nothing is ever committed
        "enable.auto.commit": False,
        "auto.offset.reset": "earliest",  # where the first records have been deleted already
        "enable.partition.eof": True,
    })  # fmt: skip
    try:
        names, partitions = _matching(consumer, topics)
        consumer.assign(partitions)
        _read_to_ends(consumer, {(each.topic, each.partition) for each in partitions}, check)
    except KafkaException as error:
        raise LoadError(f"reading Kafka at {bootstrap} failed: {error.args[0].str()}") from error
    finally:
        consumer.close()
    return names


def _matching(consumer: Consumer, topics: str) -> tuple[list[str], list[TopicPartition]]:
    found = consumer.list_topics(timeout=METADATA_SECONDS).topics
    names = sorted(name for name in found if re.search(topics, name))
    return names, [TopicPartition(name, partition, 0) for name in names for partition in found[name].partitions]


def _read_to_ends(consumer: Consumer, unfinished: set[tuple[str, int]], check: LogCheck) -> None:
    """The client says by an event of its own that it is at the end of a partition, again when more has come since."""
    deadline = time.monotonic() + STALL_SECONDS
    while unfinished:
        messages = consumer.consume(_BATCH_RECORDS, timeout=1.0)
        if messages:
            deadline = time.monotonic() + STALL_SECONDS
        elif time.monotonic() > deadline:
            raise LoadError(
                f"Kafka has sent nothing for {STALL_SECONDS:.0f} s, {len(unfinished)} partitions are unread"
            )
        for message in messages:
            if _take(message, check):
                unfinished.discard((str(message.topic()), message.partition() or 0))


def _take(message: Message, check: LogCheck) -> bool:
    """Check one record; True when this was the end of a partition instead."""
    error = message.error()
    if error is None:
        check.add(str(message.topic()), message.partition() or 0, message.offset() or 0, message.value())
        return False
    if error.code() == KafkaError._PARTITION_EOF:
        return True
    raise KafkaException(error)
