"""Three replicas behind HAProxy and 2 000 devices: what `tests/lb` shows in small, and a rolling restart under load."""

import asyncio
import json
import socket
import ssl
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import pytest
import trustme

from tests.support.balanced import both_ways, libraries_restarted, outage, rolling_restart, who_moves
from tests.support.device import Device, packet, text
from tests.support.haproxy import BalancedCluster
from tests.support.kafka_broker import VERSIONS, KafkaBroker
from tests.support.load import Load
from tests.support.processes import wait_until
from tests.support.roamers import Roamer

CLIENTS = 2_000
#: Of them all together, each second.
MESSAGES = 1_000
#: Longer than three restarts and what comes after them take.
SECONDS = 240
CERTIFICATES = 50
#: Of each library.
LIBRARY_DEVICES = 40


@pytest.fixture
def kafka(tmp_path: Path) -> Iterator[KafkaBroker]:
    with KafkaBroker(VERSIONS[0], tmp_path / "kafka") as kafka:
        yield kafka


def say(capsys: pytest.CaptureFixture[str], what: str, figures: Any) -> None:
    with capsys.disabled():
        print(f"\n{what}: {json.dumps(figures)}")


def fleet(cluster: BalancedCluster) -> list[Roamer]:
    return [Roamer(f"device-{number}", cluster.ports) for number in range(CLIENTS)]


def test_who_moves(kafka: KafkaBroker, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with BalancedCluster(kafka, tmp_path, 3) as cluster:
        say(capsys, "one of three killed, and back", asyncio.run(who_moves(cluster, fleet(cluster), victim=1)))


def test_kafka_is_away(kafka: KafkaBroker, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with BalancedCluster(kafka, tmp_path, 3) as cluster:
        devices = [Device(cluster.ports[0]) for _ in range(20)]
        for number, device in enumerate(devices):
            device.connect(f"pinging-{number}")
        figures = asyncio.run(outage(cluster, fleet(cluster), devices, kafka, 60.0))
        for device in devices:
            device.close()
    say(capsys, "Kafka stopped 60 s behind HAProxy", figures)
    assert figures["slowest PINGRESP ms"] < 5_000


class Target(NamedTuple):
    """Where the load tool publishes, and where Kafka has it."""

    port: int
    topic_prefix: str


def test_rolling_restart_under_load(kafka: KafkaBroker, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    flags: dict[str, object] = {"connections": CLIENTS, "rate": MESSAGES, "seconds": SECONDS, "version": 5}
    with BalancedCluster(kafka, tmp_path, 3) as cluster:
        target: Any = Target(cluster.ports[0], f"{cluster.name}_")
        with Load(target, kafka.bootstrap, tmp_path, flags) as load:
            load.wait_for_acked(10 * MESSAGES, 120)
            restarted = asyncio.run(rolling_restart(cluster, 1.2))
            figures = load.finish(SECONDS)
    seen = {name: figures[name] for name in ("sent", "acked", "resent", "unacknowledged", "away_ms", "ack_ms")}
    kafka_has = {name: figures["verify"][name] for name in ("lost", "duplicated", "reordered")}
    more = {"in Kafka": kafka_has, "connections": figures["connections"]}
    say(capsys, "rolling restart under load", {**restarted, **seen, **more})
    assert figures["unacknowledged"] == kafka_has["lost"] == 0
    assert figures["away_ms"]["p99"] <= 2_000


def test_libraries_that_others_wrote(kafka: KafkaBroker, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with BalancedCluster(kafka, tmp_path, 3) as cluster:
        # What chance makes of so few devices is left alone: 1.5 times the mean.
        figures = asyncio.run(libraries_restarted(cluster, tmp_path, LIBRARY_DEVICES, most=1.5))
    say(capsys, "rolling restart, libraries", figures)


def test_two_haproxies(kafka: KafkaBroker, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with BalancedCluster(kafka, tmp_path, 3, balancers=2) as cluster:
        client_ids = [f"both-{number}" for number in range(200)]
        say(capsys, "two HAProxies", asyncio.run(both_ways(cluster, client_ids, 10)))


def test_each_certificate_has_its_name(kafka: KafkaBroker, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    authority = trustme.CA()
    authority.cert_pem.write_to_path(tmp_path / "ca.pem")
    authority.issue_cert("localhost").private_key_and_cert_chain_pem.write_to_path(tmp_path / "server.pem")
    door = {"TLS_PEM": tmp_path / "server.pem", "TLS_CA": tmp_path / "ca.pem", "TLS_VERIFY": "required"}
    with BalancedCluster(kafka, tmp_path, 3, tls=door) as cluster:
        for number in range(CERTIFICATES):
            _connect_with_certificate(cluster.balancers[0].tls_port, authority, f"device-{number}")
        wait_until(lambda: len(cluster.status()) >= 2 * CERTIFICATES, "all is told", 30)
        names = {each["clientid"]: each["peer_cert_cn"] for each in cluster.status()}
        assert names == {f"device-{number}": f"device-{number}" for number in range(CERTIFICATES)}
        with Device(cluster.replicas[0].port, address="127.0.0.9") as forger:
            forger.send(b"PROXY TCP4 10.0.0.1 10.0.0.2 1 1\r\n")
            assert forger.rest() == []
        assert cluster.replicas[0].metric("mqk_proxy_headers_refused_total") == 1
    say(capsys, "certificates", {"names in status": len(names), "forged headers refused": 1})


def _connect_with_certificate(port: int, authority: trustme.CA, name: str) -> None:
    context = ssl.create_default_context()
    authority.configure_trust(context)
    authority.issue_cert(f"{name}@devices.example", common_name=name).configure_cert(context)
    with (
        socket.create_connection(("127.0.0.1", port), 10) as plain,
        context.wrap_socket(plain, server_hostname="localhost") as device,
    ):
        device.sendall(packet(0x10, text("MQTT") + bytes([4, 2, 0, 60]) + text(name)))
        assert device.recv(4) == b"\x20\x02\x00\x00"
        device.sendall(b"\xe0\x00")
