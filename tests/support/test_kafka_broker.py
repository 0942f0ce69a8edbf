"""The Kafka that other tests trust: it keeps what it acknowledged, and `read` reports exactly what is there."""

from pathlib import Path

import pytest
from confluent_kafka import KafkaException, Producer

from tests.support.kafka_broker import VERSIONS, KafkaBroker


def produce(broker: KafkaBroker, topic: str, values: list[bytes], **fields: object) -> None:
    producer = Producer({"bootstrap.servers": broker.bootstrap, "acks": "all"})
    for value in values:
        producer.produce(topic, value, **fields)
    assert producer.flush(30) == 0


@pytest.mark.kafka
@pytest.mark.parametrize("version", VERSIONS)
def test_acknowledged_records_survive_a_kill(version: str, tmp_path: Path) -> None:
    # A dead broker's session is over after 2 s here, not 9 s, so the restart does not wait for it.
    settings = {"broker.session.timeout.ms": "2000", "broker.heartbeat.interval.ms": "500"}
    with KafkaBroker(version, tmp_path, settings) as broker:
        broker.create_topic("device_up", partitions=2)
        produce(broker, "device_up", [b"one", b"two"], key=b"k", headers=[("h", b"1"), ("h", b"2")], partition=1)
        bootstrap = broker.bootstrap
        broker.kill()
        broker.start()
        assert broker.bootstrap == bootstrap
        produce(broker, "device_up", [b"three"], partition=0)
        broker.restart()
        records = broker.read("device_up")
    assert [(record.partition, record.offset, record.value) for record in records] == [
        (0, 0, b"three"),
        (1, 0, b"one"),
        (1, 1, b"two"),
    ]
    assert [(record.key, record.headers) for record in records[1:]] == [(b"k", [("h", b"1"), ("h", b"2")])] * 2


def test_topics_are_listed_with_their_partitions(kafka_each_version: KafkaBroker) -> None:
    kafka_each_version.create_topic("three_partitions", partitions=3, config={"max.message.bytes": "1000"})
    assert kafka_each_version.topics()["three_partitions"] == 3


def test_a_transaction_is_read_when_it_is_committed(kafka_each_version: KafkaBroker) -> None:
    kafka_each_version.create_topic("transactions")
    producer = Producer({"bootstrap.servers": kafka_each_version.bootstrap, "transactional.id": "tests"})
    producer.init_transactions(30)
    for value, end in ((b"aborted", producer.abort_transaction), (b"committed", producer.commit_transaction)):
        producer.begin_transaction()
        producer.produce("transactions", value)
        producer.flush(30)
        end(30)
    assert [record.value for record in kafka_each_version.read("transactions")] == [b"committed"]


def test_read_waits_for_as_many_records_as_are_asked_for(kafka: KafkaBroker) -> None:
    kafka.create_topic("counted")
    produce(kafka, "counted", [b"one", b"two"])
    assert len(kafka.read("counted", count=1)) == 2
    with pytest.raises(TimeoutError, match=r"2 records of topic counted .* not 3 of them"):
        kafka.read("counted", count=3, timeout_seconds=1)


def test_read_says_when_the_topic_does_not_exist(kafka: KafkaBroker) -> None:
    with pytest.raises(KafkaException, match="Unknown topic"):
        kafka.read("never_created")


@pytest.mark.kafka
def test_a_paused_broker_answers_again_when_resumed(tmp_path: Path) -> None:
    with KafkaBroker(VERSIONS[0], tmp_path) as broker:
        broker.create_topic("paused")
        broker.pause()
        with pytest.raises(KafkaException, match="Failed to get metadata"):
            broker.read("paused", timeout_seconds=1)
        broker.resume()
        produce(broker, "paused", [b"after"])
        assert [record.value for record in broker.read("paused")] == [b"after"]


@pytest.mark.kafka
def test_a_failed_start_shows_kafkas_own_words(tmp_path: Path) -> None:
    broker = KafkaBroker(VERSIONS[0], tmp_path, {"node.id": "2"})
    with pytest.raises(RuntimeError, match=r"controller\.quorum\.voters"):
        broker.start()


def test_a_missing_kafka_is_named(tmp_path: Path) -> None:
    with pytest.raises(RuntimeError, match=r"Kafka 0\.0\.0 is not in .* `make test` downloads it"):
        KafkaBroker("0.0.0", tmp_path).start()
