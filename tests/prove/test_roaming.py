"""200 devices of libraries that others wrote, behind a load balancer whose replicas are killed ten times; and QoS 2
over connections that are cut hundreds of times, at one replica and among three.
"""

import asyncio
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.support.cluster import Cluster
from tests.support.kafka_broker import VERSIONS, KafkaBroker
from tests.support.proxy import ProxyProcess
from tests.support.relay import Cuts
from tests.support.roaming import LIBRARIES, couriers_cut, links_break, replicas_die

#: Of each library, of which there are three.
DEVICES = 67
KILLS = 10
#: Between two messages of a device.
SECONDS = 0.3
COURIERS = 40
MESSAGES = 500
CUTS = 1_000
#: Of them some hit CONNECT, the shortest conversation; the longest is some thirty messages.
CUT_BYTES_MIN, CUT_BYTES_MAX = 1, 2_500


@pytest.fixture
def kafka(tmp_path: Path) -> Iterator[KafkaBroker]:
    with KafkaBroker(VERSIONS[0], tmp_path / "kafka") as kafka:
        yield kafka


def say(capsys: pytest.CaptureFixture[str], what: str, figures: dict[str, Any]) -> None:
    with capsys.disabled():
        print(f"\n{what}: " + ", ".join(f"{name} {value}" for name, value in figures.items()))


def test_replicas_die(kafka: KafkaBroker, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with Cluster(kafka, tmp_path, 3) as cluster:
        for library, figures in asyncio.run(replicas_die(cluster, tmp_path, DEVICES, KILLS, SECONDS)).items():
            say(capsys, f"{KILLS} replicas killed, {library}", figures)


@pytest.mark.parametrize("seed", [1, 2])
def test_exactly_once_at_one_replica(
    kafka: KafkaBroker, tmp_path: Path, capsys: pytest.CaptureFixture[str], seed: int
) -> None:
    cuts = Cuts(CUT_BYTES_MIN, CUT_BYTES_MAX, seed, CUTS)
    with ProxyProcess(kafka.bootstrap, tmp_path) as proxy:
        figures = asyncio.run(couriers_cut([proxy.port], kafka, proxy.topic_prefix, COURIERS, MESSAGES, cuts))
    say(capsys, "QoS 2 at one replica", figures)
    assert figures["repeats"] == 0


@pytest.mark.parametrize("library", LIBRARIES)
def test_exactly_once_with_a_library(
    kafka: KafkaBroker, tmp_path: Path, capsys: pytest.CaptureFixture[str], library: str
) -> None:
    # Not before the device is heard: what these libraries make of Session Present 0 differs.
    cuts = Cuts(100, CUT_BYTES_MAX, 1, CUTS // 4)
    with ProxyProcess(kafka.bootstrap, tmp_path) as proxy:
        figures = asyncio.run(links_break([proxy.port], kafka, proxy.topic_prefix, tmp_path, library, 20, cuts))
    say(capsys, f"QoS 2 at one replica, {library}", figures)
    assert figures["session present 0"] == figures["repeats"] == 0


@pytest.mark.parametrize("seed", [1, 2])
def test_among_replicas(kafka: KafkaBroker, tmp_path: Path, capsys: pytest.CaptureFixture[str], seed: int) -> None:
    cuts = Cuts(CUT_BYTES_MIN, CUT_BYTES_MAX, seed, CUTS)
    with Cluster(kafka, tmp_path, 3) as cluster:
        figures = asyncio.run(couriers_cut(cluster.ports, kafka, f"{cluster.name}_", COURIERS, MESSAGES, cuts))
    say(capsys, "QoS 2 among three replicas", figures)
    assert figures["session present 0"] > 0, "nobody was taken over while QoS 2 was in use"
