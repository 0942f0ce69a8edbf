"""Messages for devices under load, in small; `tests/prove/test_commands.py` does the same at full size."""

import asyncio
from pathlib import Path

from tests.support.cluster import Cluster
from tests.support.downlink import beside_others, create_topic, steady, with_losses
from tests.support.kafka_broker import KafkaBroker

SETTINGS = {"acl.subscribe_default": "allow", "commands.start": "earliest", "commands.ack_timeout_seconds": 10}


def test_steady(kafka: KafkaBroker, tmp_path: Path) -> None:
    cluster = Cluster(kafka, tmp_path, 3, SETTINGS)
    create_topic(cluster)
    with cluster:
        figures = asyncio.run(steady(cluster, devices=60, per_second=300, seconds=4))
    assert figures["messages"] == 1_200


def test_replicas_go_and_come_back(kafka: KafkaBroker, tmp_path: Path) -> None:
    cluster = Cluster(kafka, tmp_path, 3, SETTINGS)
    create_topic(cluster)
    with cluster:
        figures = asyncio.run(with_losses(cluster, devices=60, per_second=100, losses=2, pause=4))
    assert figures["delivered"] > figures["commands"] / 2


def test_one_is_silent_and_one_does_not_read(kafka: KafkaBroker, tmp_path: Path) -> None:
    cluster = Cluster(kafka, tmp_path, 3, SETTINGS)
    create_topic(cluster)
    with cluster:
        figures = asyncio.run(beside_others(cluster, devices=60, per_second=400, seconds=15))
    assert figures["alone"]["messages"] == 6_000
    # Too short for the queue of a device to fill; that the proof does.
    assert figures["silent"].keys() == {"timed_out"}
    assert figures["unread"].keys() <= {"delivered", "timed_out", "queue_full"}
    assert figures["replicas grew by MB"] < 100
