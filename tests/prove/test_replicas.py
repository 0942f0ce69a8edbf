"""Three replicas, nothing that restarts them, and a fleet: what `tests/e2e/test_sessions.py` shows, at full size."""

import asyncio
import json
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest

from loadtest.procfs import read_usage
from tests.support.cluster import Cluster
from tests.support.kafka_broker import VERSIONS, KafkaBroker
from tests.support.million import replay, write_sessions
from tests.support.proxy import ProxyProcess
from tests.support.sessions import connect_rate, fleet, frozen, node_loss, takeovers, without_kafka

CLIENTS = 2_000
TAKEOVERS = 1_000
USERS = 20
SESSIONS = 1_000_000


@pytest.fixture
def kafka(tmp_path: Path) -> Any:
    with KafkaBroker(VERSIONS[0], tmp_path / "kafka") as kafka:
        yield kafka


def passwords(directory: Path) -> dict[str, object]:
    """A password file for so many users, as an operator makes it; the settings that use it."""
    for number in range(USERS):
        create = [] if number else ["--create"]
        command = [sys.executable, "-m", "proxy", "passwd", *create, "--stdin", directory / "passwd", f"user-{number}"]
        subprocess.run(command, input="secret", text=True, check=True, stdout=subprocess.DEVNULL)
    chain = [{"type": "password_file", "path": str(directory / "passwd")}]
    return {"auth.anonymous": False, "auth.chain": chain, "limits.connects_per_second_max": 5_000}


def with_passwords(cluster: Cluster, size: int) -> list[Any]:
    roamers = fleet(cluster, size, password="secret")
    for number, roamer in enumerate(roamers):
        roamer.username = f"user-{number % USERS}"
    return roamers


def told(capsys: pytest.CaptureFixture[str], what: str, figures: dict[str, Any]) -> None:
    with capsys.disabled():
        print(f"\n{what}: {json.dumps(figures)}")


def test_a_replica_is_killed(kafka: KafkaBroker, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with Cluster(kafka, tmp_path, 3, passwords(tmp_path)) as cluster:
        figures = asyncio.run(node_loss(cluster, with_passwords(cluster, CLIENTS), victim=1))
    told(capsys, f"kill -9 of one of three, {CLIENTS} clients", figures)
    assert figures["back after seconds, slowest"] <= 15


def test_the_same_client_everywhere(kafka: KafkaBroker, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with Cluster(kafka, tmp_path, 3) as cluster:
        figures = asyncio.run(takeovers(cluster, TAKEOVERS))
    told(capsys, "one client id through all replicas", figures)
    assert figures["CONNACK p99 ms"] <= 500


def test_a_replica_is_frozen(kafka: KafkaBroker, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with Cluster(kafka, tmp_path, 3) as cluster:
        told(capsys, "frozen 30 s", asyncio.run(frozen(cluster, fleet(cluster, CLIENTS), victim=2, seconds=30)))


def test_kafka_is_away(kafka: KafkaBroker, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with Cluster(kafka, tmp_path, 3) as cluster:
        told(capsys, "Kafka stopped 60 s", asyncio.run(without_kafka(cluster, fleet(cluster, CLIENTS), kafka, 60)))


def test_connects(kafka: KafkaBroker, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with Cluster(kafka, tmp_path, 3, passwords(tmp_path)) as cluster:
        roamers = with_passwords(cluster, 5_000)
        told(capsys, "connects", asyncio.run(connect_rate(cluster, roamers, 500)))


def test_a_million_sessions(kafka: KafkaBroker, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with ProxyProcess(kafka.bootstrap, tmp_path) as proxy:
        time.sleep(2)
        empty = read_usage(proxy.pid).rss_bytes
        proxy.terminate()
        write_sessions(kafka, f"_p{proxy.port}_", SESSIONS)
        figures = replay(kafka, proxy, SESSIONS)
        grown = read_usage(proxy.pid).rss_bytes - empty
    told(capsys, "a million sessions", {**figures, "bytes per session": round(grown / SESSIONS)})
    assert grown / SESSIONS <= 400
