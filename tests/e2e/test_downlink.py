"""Messages for devices under load, in small; `tests/prove/test_commands.py` does the same at full size."""

import asyncio
from pathlib import Path

from tests.support.cluster import Cluster
from tests.support.downlink import create_topic, steady, with_losses
from tests.support.kafka_broker import KafkaBroker

SETTINGS = {"acl.subscribe_default": "allow", "commands.start": "earliest", "commands.ack_timeout_seconds": 10}


def test_steady(kafka: KafkaBroker, tmp_path: Path) -> None:
    cluster = Cluster(kafka, tmp_path, 3, SETTINGS)
    create_topic(cluster)
    with cluster:
        figures = asyncio.run(steady(cluster, devices=60, per_second=300, seconds=4))
    assert figures["messages"] == 1_200


def test_a_replica_is_killed(kafka: KafkaBroker, tmp_path: Path) -> None:
    cluster = Cluster(kafka, tmp_path, 3, SETTINGS)
    create_topic(cluster)
    with cluster:
        figures = asyncio.run(with_losses(cluster, devices=60, per_second=100, losses=1, pause=4))
    assert figures["delivered"] > figures["commands"] / 2
