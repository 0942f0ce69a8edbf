"""Reading a real Kafka back, and the whole check on top of it."""

import json
from pathlib import Path

import pytest
from confluent_kafka import Producer

from loadtest.cli import main
from loadtest.errors import LoadError
from loadtest.kafkalog import read_topics
from loadtest.payload import Payloads
from loadtest.ranges import SequenceRanges
from loadtest.verify import Acknowledged, LogCheck
from tests.support.kafka_broker import KafkaBroker
from tests.support.processes import free_port

PAYLOADS = Payloads(b"run-0001", 32)


def write(kafka: KafkaBroker, topic: str, sequences: list[int], connection: int = 0, partition: int = 0) -> None:
    producer = Producer({"bootstrap.servers": kafka.bootstrap})
    for sequence in sequences:
        producer.produce(topic, PAYLOADS.payload(connection, sequence), partition=partition)
    assert producer.flush(30) == 0


def test_verify_reads_every_partition_of_every_matching_topic(
    kafka: KafkaBroker, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    kafka.create_topic("loadtest_a", 3)
    kafka.create_topic("loadtest_b", 1)
    kafka.create_topic("elsewhere", 1)
    write(kafka, "loadtest_a", [0, 1, 3, 3, 2], partition=1)
    write(kafka, "loadtest_b", list(range(10_000)), connection=1)
    write(kafka, "elsewhere", [4])
    promise = Acknowledged(PAYLOADS.run_id, 32, "dev", {0: SequenceRanges([(0, 5)]), 1: SequenceRanges([(0, 10_000)])})
    check = LogCheck(promise)
    assert read_topics(kafka.bootstrap, "^loadtest_", check) == ["loadtest_a", "loadtest_b"]
    result = check.result()
    assert (result["records"], result["lost"], result["duplicated"], result["reordered"]) == (10_005, 1, 1, 1)

    acked_file = tmp_path / "acked.json"
    acked_file.write_text(json.dumps(promise.to_json()))
    arguments = ["verify", "--acked", str(acked_file), "--kafka", kafka.bootstrap, "--verify-topics"]
    assert main([*arguments, "^loadtest_"]) == 1
    assert "dev000000 message 4" in capsys.readouterr().out
    assert main([*arguments, "^loadtest_b|^elsewhere"]) == 1


def test_a_kafka_that_is_not_there_is_said(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("loadtest.kafkalog.METADATA_SECONDS", 0.2)
    bootstrap = f"127.0.0.1:{free_port()}"
    with pytest.raises(LoadError, match=bootstrap):
        read_topics(bootstrap, "", LogCheck(Acknowledged(PAYLOADS.run_id, 32, "dev", {})))
