"""Commands that a backend writes into Kafka, for devices at three replicas."""

import http.client
import json
import struct
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from typing import Any

import pytest

from tests.support.backend import Backend
from tests.support.cluster import Cluster
from tests.support.device import DISCONNECT, PUBLISH, SUBACK, Device, Packet, packet, text
from tests.support.kafka_broker import KafkaBroker
from tests.support.processes import wait_until
from tests.support.proxy import ProxyProcess

RULES = "allow all all #\n"
SETTINGS = {
    "acl.subscribe_default": "allow",
    "commands.start": "earliest",
    "commands.owner": "tlink/{product_key}/{device_name}/#",
    "commands.ack_timeout_seconds": 5,
}


@pytest.fixture(scope="module")
def cluster(kafka: KafkaBroker, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cluster]:
    directory = tmp_path_factory.mktemp("commands")
    (directory / "acl.conf").write_text(RULES)
    with Cluster(kafka, directory, 3, {**SETTINGS, "acl.file": str(directory / "acl.conf")}) as cluster:
        yield cluster
        for replica in cluster.replicas:
            assert "Traceback" not in replica.process.output


@pytest.fixture
def backend(cluster: Cluster) -> Backend:
    return Backend(cluster.kafka, f"{cluster.name}_")


@pytest.fixture
def devices() -> Iterator[ExitStack]:
    with ExitStack() as stack:
        yield stack


def device(stack: ExitStack, port: int, client_id: str, username: str | None = None, version: int = 4) -> Device:
    device = stack.enter_context(Device(port, version))
    assert device.connect(client_id, username=username).body[1] == 0
    return device


def subscribe(device: Device, topic_filter: str, qos: int = 1) -> None:
    properties = b"\x00" if device.version == 5 else b""
    device.send(packet(0x82, struct.pack(">H", 9) + properties + text(topic_filter) + bytes([qos])))
    answer = device.receive()
    assert (answer.first_byte, answer.body[-1]) == (SUBACK, qos)


def message(received: Packet) -> tuple[str, bytes, int, int]:
    """Topic, payload, QoS and packet identifier of a 3.1.1 PUBLISH."""
    assert received.first_byte & 0xF0 == PUBLISH, received
    length = int.from_bytes(received.body[:2], "big")
    topic, rest = received.body[2 : 2 + length].decode(), received.body[2 + length :]
    qos = received.first_byte >> 1 & 3
    return (topic, rest[2:], qos, int.from_bytes(rest[:2], "big")) if qos else (topic, rest, 0, 0)


def acknowledge(device: Device, packet_id: int) -> None:
    device.send(packet(0x40, struct.pack(">H", packet_id)))


def result(backend: Backend, command_id: str) -> dict[str, object]:
    found: list[dict[str, object]] = []

    def there() -> bool:
        found[:] = [each for each in backend.results(0) if each["id"] == command_id]
        return bool(found)

    wait_until(there, f"{command_id} has a result", 60)
    return found[0]


def test_key_and_value_reach_every_subscriber_everywhere(
    cluster: Cluster, backend: Backend, devices: ExitStack
) -> None:
    fleet = [device(devices, port, f"all-{number}-{port}") for port in cluster.ports for number in range(2)]
    for each in fleet:
        subscribe(each, "news/+")
    backend.msg_down("news/today", b"hello", id="news-1")
    backend.flush()
    for each in fleet:
        assert message(each.receive()) == ("news/today", b"hello", 0, 0)
    told = result(backend, "news-1")
    assert (told["kind"], told["outcome"]) == ("deliver", "delivered")
    clients = told["clients"]
    assert isinstance(clients, list)
    assert len(clients) == len(fleet)
    assert {each["node"] for each in clients} == {replica.node for replica in cluster.replicas}


def test_a_header_names_who_alone_hears_it(cluster: Cluster, backend: Backend, devices: ExitStack) -> None:
    one, two, other = (
        device(devices, port, f"named-{number}", username="dev&pk" if number < 2 else "x")
        for number, port in enumerate(cluster.ports)
    )
    for each in (one, two, other):
        subscribe(each, "tlink/pk/dev/#")
    backend.msg_down("tlink/pk/dev/a", b"1", clientid="named-0", qos="1", id="named-1")
    backend.flush()
    topic, payload, qos, packet_id = message(one.receive())
    assert (topic, payload, qos) == ("tlink/pk/dev/a", b"1", 1)
    acknowledge(one, packet_id)
    assert result(backend, "named-1")["outcome"] == "delivered"
    backend.msg_down("tlink/pk/dev/a", b"2", username="dev&pk", id="named-2")
    backend.msg_down("tlink/pk/dev/a", b"3", id="named-3")
    backend.flush()
    for each in (one, two):
        assert [message(each.receive())[1] for _ in range(2)] == [b"2", b"3"]
    other.ping()
    told = result(backend, "named-3")["clients"]
    assert isinstance(told, list)
    assert sorted(each["clientid"] for each in told) == ["named-0", "named-1"]


def test_order_is_that_of_the_offsets(cluster: Cluster, backend: Backend, devices: ExitStack) -> None:
    fleet = [device(devices, port, f"order-{port}") for port in cluster.ports]
    for each in fleet:
        subscribe(each, "order")
    for number in range(30):
        backend.msg_down("order", b"%d" % number)
        for port in cluster.ports:
            backend.msg_down("order", b"%d" % number, clientid=f"order-{port}")
    backend.flush()
    for each in fleet:
        payloads = [message(each.receive())[1] for _ in range(60)]
        assert payloads == [b"%d" % number for number in range(30) for _ in range(2)]


def test_kicked_wherever_they_are(cluster: Cluster, backend: Backend, devices: ExitStack) -> None:
    selections = {
        "clientid": ({"clientid": "kick-one"}, ["kick-one"]),
        "username": ({"username": "kick-user"}, ["kick-two", "kick-three"]),
        "names": ({"productKey": "kpk", "deviceName": "kdev"}, ["kick-four"]),
    }
    users = {"kick-two": "kick-user", "kick-three": "kick-user", "kick-four": "kdev&kpk"}
    for fields, client_ids in selections.values():
        victims = [
            device(devices, cluster.ports[number % 3], client_id, users.get(client_id), version=5)
            for number, client_id in enumerate(client_ids, len(client_ids))
        ]
        backend.kick_out(**fields)
        backend.flush()
        for victim in victims:
            assert victim.rest() == [Packet(DISCONNECT, victim_body) for victim_body in (b"\x98",)]
    told = {
        tuple(sorted(client["clientid"] for client in each["clients"])): each["outcome"]
        for each in backend.results(0)
        if each["kind"] == "kick"
    }
    for _, client_ids in selections.values():
        assert told.get(tuple(sorted(client_ids))) == "done"


def test_one_that_has_just_connected_is_hit(cluster: Cluster, backend: Backend, devices: ExitStack) -> None:
    for number, port in enumerate(cluster.ports):
        victim = device(devices, port, f"just-{number}", f"user-{number}")
        backend.kick_out(username=f"user-{number}")
        backend.flush()
        assert victim.rest() == []


def test_bad_records_have_a_result_each_and_stop_nothing(
    cluster: Cluster, backend: Backend, devices: ExitStack
) -> None:
    reader = device(devices, cluster.ports[1], "after-all")
    subscribe(reader, "after/all")
    bad: list[tuple[str, bytes | None, bytes | None]] = [
        ("msg_down", None, b"x"),
        ("msg_down", b"a/+", b"x"),
        ("kick_out", None, b"no json"),
        ("kick_out", None, None),
        ("kick_out", None, b'{"username": ""}'),
        ("acl_clean", None, b"{}"),
        ("acl_clean", None, b'{"username": 5}'),
    ]
    for number, (name, key, value) in enumerate(bad):
        backend.write(name, key, value, [("id", f"bad-{number}")])
    backend.write("kick_out", None, json.dumps({"username": "nobody"}).encode(), [("id", "nobody")])
    backend.msg_down("after/all", b"still here", id="after")
    backend.flush()
    assert message(reader.receive())[1] == b"still here"
    for number in range(len(bad)):
        told = result(backend, f"bad-{number}")
        assert told["outcome"] == "malformed"
        assert told["error"]
    assert result(backend, "nobody")["outcome"] == "nobody_found"


def test_a_device_that_is_silent_or_away(cluster: Cluster, backend: Backend, devices: ExitStack) -> None:
    silent = device(devices, cluster.ports[2], "silent")
    subscribe(silent, "s")
    backend.msg_down("s", b"x", clientid="silent", qos="1", id="silent-1")
    backend.msg_down("s", b"x", clientid="away", qos="1", id="away-1")
    backend.msg_down("else", b"x", clientid="silent", qos="1", id="silent-2")
    backend.flush()
    assert result(backend, "away-1")["outcome"] == "offline"
    assert result(backend, "silent-2")["outcome"] == "not_subscribed"
    assert result(backend, "silent-1")["outcome"] == "timed_out"


def ask(replica: ProxyProcess, path: str, fields: dict[str, object]) -> dict[str, Any]:
    """What the admin API of one replica answers to a POST."""
    connection = http.client.HTTPConnection("127.0.0.1", replica.admin_port, timeout=60)
    try:
        connection.request("POST", path, json.dumps(fields), {"Content-Type": "application/json"})
        answer = connection.getresponse()
        text = answer.read().decode()
        assert answer.status == 200, text
        told: dict[str, Any] = json.loads(text)
        return told
    finally:
        connection.close()


@contextmanager
def new_rules(cluster: Cluster, rules: str) -> Iterator[None]:
    """All replicas have read them; afterwards the old ones."""
    file = cluster.replicas[0].log.parent / "acl.conf"
    reloads = 'mqk_reloads_total{result="applied"}'
    try:
        for written in (rules, RULES):
            before = [replica.metric(reloads) for replica in cluster.replicas]
            file.write_text(written)
            for replica, count in zip(cluster.replicas, before, strict=True):
                replica.reload({})
                wait_until(lambda replica=replica, count=count: replica.metric(reloads) > count, "it is in force", 30)
            if written == rules:
                yield
    finally:
        file.write_text(RULES)


@pytest.mark.parametrize("way", ["kafka", "http"])
def test_after_acl_clean_new_rules_are_in_force(
    cluster: Cluster, backend: Backend, devices: ExitStack, way: str
) -> None:
    client_id, username = f"acl-{way}", f"dev&acl-{way}"
    one = device(devices, cluster.ports[2], client_id, username, version=5)
    subscribe(one, f"secret/{way}")
    assert one.publish_acknowledged("tlink/a/b", b"x", packet_id=1) == 0
    denied = f"deny all client {client_id} secret/# tlink/#\n"
    with new_rules(cluster, denied + RULES):
        fields = {"productKey": f"acl-{way}", "deviceName": "dev"}
        if way == "kafka":
            backend.write("acl_clean", None, json.dumps(fields).encode(), [("id", "clean")])
            told = result(backend, "clean")
        else:
            told = ask(cluster.replicas[0], "/v1/acl/clean", {"username": username})
        assert told["outcome"] == "done", told
        assert one.publish_acknowledged("tlink/a/b", b"x", packet_id=2) == 0x87
        backend.msg_down(f"secret/{way}", b"x", clientid=client_id, id=f"secret-{way}")
        assert result(backend, f"secret-{way}")["outcome"] == "not_subscribed"


def test_kick_and_publish_over_http_at_the_wrong_replica(cluster: Cluster, devices: ExitStack) -> None:
    fleet = [device(devices, port, f"http-{number}", "http", 5) for number, port in enumerate(cluster.ports)]
    for number, each in enumerate(fleet):
        subscribe(each, "http")
        message = {"topic": "http", "payload": "x", "qos": 0}
        asked = cluster.replicas[(number + 1) % 3]
        told = ask(asked, f"/v1/clients/http-{number}/publish", message)
        assert (told["outcome"], each.receive().body[-1:]) == ("delivered", b"x")
    told = ask(cluster.replicas[0], "/v1/kick", {"username": "http"})
    assert sorted(client["clientid"] for client in told["clients"]) == ["http-0", "http-1", "http-2"]
    for each in fleet:
        assert each.rest() == [Packet(DISCONNECT, b"\x98")]
