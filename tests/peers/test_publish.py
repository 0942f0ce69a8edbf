"""Clients that others wrote publish random bytes through the proxy: all of it is in Kafka, byte for byte, in order.

Each connects with every option that it offers: a will, user name and password, in 5.0 properties.
"""

import json
import random
import sys
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import pytest

from tests.support.kafka_broker import KafkaBroker
from tests.support.processes import Process, wait_until
from tests.support.proxy import ProxyProcess

MESSAGES = 1_000
#: What a client takes is about a second; the machine may be busy.
TIMEOUT_SECONDS = 120.0
HERE = Path(__file__).parent
NAMES = {3: "3.1", 4: "3.1.1", 5: "5.0"}
#: As the scripts say it to the proxy.
USERNAME, KEEP_ALIVE_SECONDS = "peer", 37


class Peer(NamedTuple):
    """A client: how its script is started, and how payloads are written into the file that it reads. A name alone is
    that of a program in `java/`.
    """

    command: list[str | Path] | str
    encode: Callable[[bytes], bytes] = lambda payload: payload.hex().encode()
    #: Bytes that its way of reading cannot pass on.
    without: bytes = b""
    #: What the client speaks: 3 is MQTT 3.1, 4 is 3.1.1, 5 is 5.0.
    versions: tuple[int, ...] = (4, 5)


PEERS = {
    "paho": Peer([sys.executable, HERE / "publish_paho.py"], versions=(3, 4, 5)),
    "aiomqtt": Peer([sys.executable, HERE / "publish_aiomqtt.py"], versions=(3, 4, 5)),
    "gmqtt": Peer([sys.executable, HERE / "publish_gmqtt.py"]),
    "amqtt": Peer([sys.executable, HERE / "publish_amqtt.py"], versions=(4,)),
    "MQTT.js": Peer(["node", HERE / "node" / "publish.js"], versions=(3, 4, 5)),
    "HiveMQ": Peer("PublishHiveMq"),
    "Paho for Java": Peer("PublishPaho", versions=(3, 4, 5)),
    # It takes a line of its standard input as a message, up to the newline or a NUL.
    "mosquitto_pub": Peer([HERE / "publish_mosquitto.sh"], encode=bytes, without=b"\n\0", versions=(3, 4, 5)),
}
#: mosquitto_pub names the versions its own way.
MOSQUITTO_VERSIONS = {3: "mqttv31", 4: "mqttv311", 5: "mqttv5"}


def random_payloads(seed: str, without: bytes) -> list[bytes]:
    chance = random.Random(seed)
    payloads = [chance.randbytes(chance.choice((1, 20, 128, 3_000))) for _ in range(MESSAGES)]
    return [bytes(byte for byte in payload if byte not in without) or b"-" for payload in payloads]


CASES = [(name, version) for name, peer in PEERS.items() for version in peer.versions]


@pytest.fixture
def start_of_command(request: pytest.FixtureRequest, name: str) -> list[str | Path]:
    command = PEERS[name].command
    if isinstance(command, list):
        return command
    # Two programs that run for two seconds each: compiling them well costs more than running them.
    return ["java", "-XX:TieredStopAtLevel=1", "-cp", request.getfixturevalue("java_classpath"), command]


@pytest.mark.peers
@pytest.mark.parametrize("qos", [0, 1, 2], ids=["QoS 0", "QoS 1", "QoS 2"])
@pytest.mark.parametrize(("name", "version"), CASES, ids=[f"{name} {NAMES[version]}" for name, version in CASES])
def test_publish(
    proxy: ProxyProcess,
    kafka: KafkaBroker,
    tmp_path: Path,
    start_of_command: list[str | Path],
    name: str,
    version: int,
    qos: int,
) -> None:
    # MQTT 3.1 takes identifiers of 23 characters at the most.
    peer, client_id = PEERS[name], f"{name.replace(' ', '')}-{version}-{qos}"
    topic = f"tlink/peers/{client_id}"
    payloads = random_payloads(client_id, peer.without)
    file = tmp_path / "payloads"
    file.write_bytes(b"".join(peer.encode(payload) + b"\n" for payload in payloads))
    spelled = MOSQUITTO_VERSIONS[version] if name == "mosquitto_pub" else version
    command = [*start_of_command, *map(str, (proxy.port, spelled, qos, client_id, topic, file))]
    messages, status = (Since(kafka, f"{proxy.topic_prefix}{name}") for name in ("msg", "status"))
    with Process(command, tmp_path / "log") as process:
        exit_code = process.wait(TIMEOUT_SECONDS)
        assert exit_code == 0, process.output
    # QoS 1 and 2 were acknowledged, so they are there already; QoS 0 is on its way when the client leaves.
    if qos == 0:
        wait_until(lambda: len(messages.of(topic)) >= MESSAGES, f"{MESSAGES} messages at QoS 0", TIMEOUT_SECONDS)
    assert messages.of(topic) == payloads
    assert messages.of(f"{topic}/will") == []
    wait_until(lambda: len(status.of(client_id)) >= 2, "it is known that the client has gone", TIMEOUT_SECONDS)
    came, went = (json.loads(each) for each in status.of(client_id))
    assert (came["username"], came["keepalive"], came["proto_ver"]) == (USERNAME, KEEP_ALIVE_SECONDS, version)
    assert went["reason"] == "normal"


class Since:
    """What has come into a Kafka topic from a moment on."""

    def __init__(self, kafka: KafkaBroker, kafka_topic: str) -> None:
        self._kafka, self._topic = kafka, kafka_topic
        self._ends = kafka.ends(kafka_topic)

    def of(self, key: str) -> list[bytes]:
        records = self._kafka.read(self._topic, since=self._ends)
        return [record.value or b"" for record in records if record.key == key.encode()]
