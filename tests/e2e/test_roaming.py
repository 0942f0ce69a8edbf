"""Devices of libraries that others wrote, in small; `tests/prove/test_roaming.py` does the same at full size."""

import asyncio
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.e2e.conftest import StartProxy
from tests.support.cluster import Cluster
from tests.support.kafka_broker import KafkaBroker
from tests.support.relay import Cuts
from tests.support.roaming import couriers_cut, links_break, replicas_die

#: Some ten messages at QoS 2, each with its four packets.
CUTS = Cuts(bytes_min=100, bytes_max=2_000, seed=1, most=100)


@pytest.fixture
def cluster(kafka: KafkaBroker, tmp_path: Path) -> Iterator[Cluster]:
    with Cluster(kafka, tmp_path, 3) as cluster:
        yield cluster


@pytest.mark.peers
def test_replicas_die(cluster: Cluster, tmp_path: Path) -> None:
    print(asyncio.run(replicas_die(cluster, tmp_path, devices=5, kills=3, seconds=0.2)))


def test_links_break_at_one_replica(start_proxy: StartProxy, kafka: KafkaBroker) -> None:
    proxy = start_proxy({})
    figures = asyncio.run(couriers_cut([proxy.port], kafka, proxy.topic_prefix, devices=20, messages=60, cuts=CUTS))
    print(figures)
    assert figures["cuts"] >= 20
    assert figures["session present 0"] == figures["repeats"] == 0


def test_links_break_among_replicas(cluster: Cluster) -> None:
    figures = asyncio.run(couriers_cut(cluster.ports, cluster.kafka, f"{cluster.name}_", 20, 60, CUTS))
    print(figures)
    assert figures["cuts"] >= 20


@pytest.mark.peers
@pytest.mark.parametrize("library", ["paho", "gmqtt", "MQTT.js"])
def test_links_of_a_library_break(start_proxy: StartProxy, kafka: KafkaBroker, tmp_path: Path, library: str) -> None:
    proxy = start_proxy({})
    cuts = Cuts(bytes_min=100, bytes_max=1_000, seed=1, most=40)
    figures = asyncio.run(links_break([proxy.port], kafka, proxy.topic_prefix, tmp_path, library, 8, cuts))
    print(figures)
    assert figures["session present 0"] == figures["repeats"] == 0
