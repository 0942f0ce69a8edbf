"""Commands from Kafka at full size: latency, replicas that die, and devices that do not do their part."""

import asyncio
import json
from pathlib import Path
from typing import Any

import pytest

from tests.support.cluster import Cluster
from tests.support.downlink import beside_others, create_topic, steady, with_losses
from tests.support.kafka_broker import VERSIONS, KafkaBroker

SETTINGS = {"acl.subscribe_default": "allow", "commands.start": "earliest"}
DEVICES = 1_000
PER_SECOND = 2_000


@pytest.fixture
def kafka(tmp_path: Path) -> Any:
    with KafkaBroker(VERSIONS[0], tmp_path / "kafka") as kafka:
        yield kafka


@pytest.fixture
def cluster(kafka: KafkaBroker, tmp_path: Path) -> Any:
    cluster = Cluster(kafka, tmp_path, 3, SETTINGS)
    create_topic(cluster)
    with cluster:
        yield cluster


def told(capsys: pytest.CaptureFixture[str], what: str, figures: dict[str, Any]) -> None:
    with capsys.disabled():
        print(f"\n{what}: {json.dumps(figures)}")


def test_steady(cluster: Cluster, capsys: pytest.CaptureFixture[str]) -> None:
    figures = asyncio.run(steady(cluster, DEVICES, PER_SECOND, seconds=30))
    told(capsys, f"{PER_SECOND}/s to {DEVICES} devices, QoS 1", figures)
    assert figures["p50 ms"] <= 20


def test_replicas_go_and_come_back(cluster: Cluster, capsys: pytest.CaptureFixture[str]) -> None:
    figures = asyncio.run(with_losses(cluster, DEVICES, PER_SECOND / 4, losses=4, pause=15))
    told(capsys, "replicas killed, drained and started again", figures)
    assert figures["delivered"] > figures["commands"] / 2


def test_one_is_silent_and_one_does_not_read(cluster: Cluster, capsys: pytest.CaptureFixture[str]) -> None:
    figures = asyncio.run(beside_others(cluster, DEVICES, PER_SECOND / 2, seconds=45))
    told(capsys, "one never acknowledges, one reads nothing", figures)
    assert figures["beside"]["p99 ms"] <= 2 * figures["alone"]["p99 ms"]
    assert {"timed_out", "queue_full"} <= figures["silent"].keys()
    assert "queue_full" in figures["unread"]
    assert figures["replicas grew by MB"] < 200
