"""Three replicas and one fleet, in small; `tests/prove/test_replicas.py` does the same at full size."""

import asyncio
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support.cluster import Cluster
from tests.support.kafka_broker import KafkaBroker
from tests.support.sessions import fleet, frozen, node_loss, takeovers, without_kafka

CLIENTS = 60


@pytest.fixture
def cluster(kafka: KafkaBroker, tmp_path: Path) -> Iterator[Cluster]:
    with Cluster(kafka, tmp_path, 3) as cluster:
        yield cluster


def test_a_replica_is_killed(cluster: Cluster) -> None:
    figures = asyncio.run(node_loss(cluster, fleet(cluster, CLIENTS), victim=1))
    assert figures["clients lost"] == CLIENTS // 3
    assert figures["back after seconds, slowest"] < 15


def test_the_same_client_everywhere(cluster: Cluster) -> None:
    assert asyncio.run(takeovers(cluster, 40))["takeovers"] == 39


def test_a_replica_is_frozen(cluster: Cluster) -> None:
    asyncio.run(frozen(cluster, fleet(cluster, CLIENTS), victim=2, seconds=12))


def test_kafka_is_away(mortal_kafka: KafkaBroker, tmp_path: Path) -> None:
    with Cluster(mortal_kafka, tmp_path, 3) as cluster:
        asyncio.run(without_kafka(cluster, fleet(cluster, CLIENTS), mortal_kafka, 12))
