"""Publishes with paho-mqtt: `publish_paho.py PORT VERSION QOS CLIENT_ID TOPIC FILE`, a payload in hex on each line."""

import sys
from pathlib import Path

import paho.mqtt.client as paho
from paho.mqtt.enums import CallbackAPIVersion

TIMEOUT_SECONDS = 60


def publish(payloads: list[bytes], port: str, version: str, qos: str, client_id: str, topic: str) -> None:
    client = paho.Client(CallbackAPIVersion.VERSION2, client_id, protocol=paho.MQTTProtocolVersion(int(version)))
    client.connect("127.0.0.1", int(port))
    client.loop_start()
    sent = [client.publish(topic, payload, int(qos)) for payload in payloads]
    for message in sent:
        message.wait_for_publish(TIMEOUT_SECONDS)
        assert message.is_published()
    client.disconnect()
    client.loop_stop()


*arguments, file = sys.argv[1:]
publish([bytes.fromhex(line) for line in Path(file).read_text().splitlines()], *arguments)
