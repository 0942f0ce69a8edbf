"""Clients that others wrote publish random bytes through the proxy: all of it is in Kafka, byte for byte, in order."""

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


class Peer(NamedTuple):
    """A client: how its script is started, and how payloads are written into the file that it reads."""

    command: list[str | Path]
    encode: Callable[[bytes], bytes] = lambda payload: payload.hex().encode()
    #: Bytes that its way of reading cannot pass on.
    without: bytes = b""


PEERS = {
    "paho": Peer([sys.executable, HERE / "publish_paho.py"]),
    "aiomqtt": Peer([sys.executable, HERE / "publish_aiomqtt.py"]),
    "gmqtt": Peer([sys.executable, HERE / "publish_gmqtt.py"]),
    "MQTT.js": Peer(["node", HERE / "node" / "publish.js"]),
    # It takes a line of its standard input as a message, up to the newline or a NUL.
    "mosquitto_pub": Peer([HERE / "publish_mosquitto.sh"], encode=bytes, without=b"\n\0"),
}
#: mosquitto_pub names the versions its own way.
MOSQUITTO_VERSIONS = {4: "mqttv311", 5: "mqttv5"}


def random_payloads(seed: str, without: bytes) -> list[bytes]:
    chance = random.Random(seed)
    payloads = [chance.randbytes(chance.choice((1, 20, 128, 3_000))) for _ in range(MESSAGES)]
    return [bytes(byte for byte in payload if byte not in without) or b"-" for payload in payloads]


@pytest.mark.peers
@pytest.mark.parametrize("qos", [0, 1], ids=["QoS 0", "QoS 1"])
@pytest.mark.parametrize("version", [4, 5], ids=["3.1.1", "5.0"])
@pytest.mark.parametrize("name", PEERS)
def test_publish(proxy: ProxyProcess, kafka: KafkaBroker, tmp_path: Path, name: str, version: int, qos: int) -> None:
    peer, client_id = PEERS[name], f"{name}-{version}-{qos}"
    topic = f"tlink/peers/{client_id}"
    payloads = random_payloads(client_id, peer.without)
    file = tmp_path / "payloads"
    file.write_bytes(b"".join(peer.encode(payload) + b"\n" for payload in payloads))
    spelled = MOSQUITTO_VERSIONS[version] if name == "mosquitto_pub" else version
    command = [*peer.command, *map(str, (proxy.port, spelled, qos, client_id, topic, file))]
    with Process(command, tmp_path / "log") as process:
        status = process.wait(TIMEOUT_SECONDS)
        assert status == 0, process.output
    kafka_topic = f"{proxy.topic_prefix}msg"

    def arrived() -> list[bytes | None]:
        return [record.value for record in kafka.read(kafka_topic) if record.key == topic.encode()]

    # QoS 1 was acknowledged, so it is there already; QoS 0 is on its way when the client leaves.
    if qos == 0:
        wait_until(lambda: len(arrived()) >= MESSAGES, f"{MESSAGES} messages at QoS 0", TIMEOUT_SECONDS)
    assert arrived() == payloads
