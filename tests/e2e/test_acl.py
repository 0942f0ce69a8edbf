"""Access control and subscriptions on two replicas: what comes back with a session, and what new rules take away."""

import json
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.e2e.test_commands import acknowledge, message, result, subscribe
from tests.support.backend import Backend
from tests.support.cluster import Cluster
from tests.support.device import CONNACK, SUBACK, Device, packet, text
from tests.support.kafka_broker import KafkaBroker
from tests.support.processes import wait_until

SETTINGS = {"commands.start": "earliest", "commands.ack_timeout_seconds": 5}
APPLIED = 'mqk_reloads_total{result="applied"}'


@pytest.fixture
def rules(tmp_path: Path) -> Path:
    rules = tmp_path / "acl.conf"
    rules.write_text("allow subscribe user u down/${clientid}/# news\ndeny publish user u tlink/secret\n")
    return rules


@pytest.fixture
def cluster(kafka: KafkaBroker, tmp_path: Path, rules: Path) -> Iterator[Cluster]:
    with Cluster(kafka, tmp_path, 2, {**SETTINGS, "acl.file": str(rules)}) as cluster:
        yield cluster
        for replica in cluster.replicas:
            assert "Traceback" not in replica.process.output


def connect(port: int, *, present: bool) -> Device:
    """A device whose session lives on."""
    device = Device(port)
    assert device.connect("dev", username="u", clean=False) == (CONNACK, bytes([present, 0]))
    return device


def test_subscriptions_go_where_the_device_goes(cluster: Cluster, rules: Path) -> None:
    backend = Backend(cluster.kafka, f"{cluster.name}_")
    with connect(cluster.ports[0], present=False) as device:
        subscribe(device, "down/dev/#")
        subscribe(device, "news", qos=2)
        device.send(packet(0x82, b"\0\1" + text("down/other/#") + b"\1"))
        assert device.receive() == (SUBACK, b"\0\1\x80")
    with connect(cluster.ports[1], present=True) as device:
        backend.msg_down("down/dev/a", b"1", clientid="dev", qos="1", id="one")
        backend.flush()
        topic, payload, qos, packet_id = message(device.receive())
        assert (topic, payload, qos) == ("down/dev/a", b"1", 1)
        acknowledge(device, packet_id)
        assert result(backend, "one")["outcome"] == "delivered"

        rules.write_text("allow subscribe all news\n")
        for replica in cluster.replicas:
            replica.reload({})
        wait_until(lambda: all(each.metric(APPLIED) == 1 for each in cluster.replicas), "the rules are in force", 30)
        backend.write("acl_clean", None, json.dumps({"username": "u"}).encode(), [("id", "clean")])
        backend.flush()
        assert result(backend, "clean")["outcome"] == "done"
        backend.msg_down("down/dev/a", b"2", clientid="dev", qos="1", id="two")
        backend.msg_down("news", b"3", clientid="dev", id="three")
        backend.flush()
        assert result(backend, "two")["outcome"] == "not_subscribed"
        assert message(device.receive())[:2] == ("news", b"3")
    with connect(cluster.ports[0], present=True) as device:
        backend.msg_down("down/dev/a", b"4", clientid="dev", id="four")
        backend.flush()
        assert result(backend, "four")["outcome"] == "not_subscribed"
        device.ping()
