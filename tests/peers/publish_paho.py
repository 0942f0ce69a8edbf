"""Publishes with paho-mqtt: `publish_paho.py PORT VERSION QOS CLIENT_ID TOPIC FILE`, a payload in hex on each line,
with every option of CONNECT that it offers.
"""

import sys
from pathlib import Path

import paho.mqtt.client as paho
from paho.mqtt.enums import CallbackAPIVersion
from paho.mqtt.packettypes import PacketTypes
from paho.mqtt.properties import Properties

KEEP_ALIVE_SECONDS = 37
TIMEOUT_SECONDS = 60


def properties(packet_type: int, **values: object) -> Properties:
    made = Properties(packet_type)
    for name, value in {**values, "UserProperty": [("colour", "blue"), ("colour", "green")]}.items():
        setattr(made, name, value)
    return made


CONNECT = properties(
    PacketTypes.CONNECT,
    SessionExpiryInterval=60,
    ReceiveMaximum=20,
    MaximumPacketSize=100_000,
    TopicAliasMaximum=5,
    RequestResponseInformation=1,
    RequestProblemInformation=1,
)
WILL = properties(
    PacketTypes.WILLMESSAGE,
    WillDelayInterval=5,
    PayloadFormatIndicator=1,
    MessageExpiryInterval=60,
    ContentType="text/plain",
    ResponseTopic="answers",
    CorrelationData=b"\1\2",
)
PUBLISH = properties(
    PacketTypes.PUBLISH,
    PayloadFormatIndicator=0,
    MessageExpiryInterval=3_600,
    ContentType="application/octet-stream",
    ResponseTopic="answers",
    CorrelationData=b"\1\2",
)


def publish(payloads: list[bytes], port: str, version: str, qos: str, client_id: str, topic: str) -> None:
    client = paho.Client(CallbackAPIVersion.VERSION2, client_id, protocol=paho.MQTTProtocolVersion(int(version)))
    connect, will, message = (CONNECT, WILL, PUBLISH) if version == "5" else (None, None, None)
    client.username_pw_set("peer", "secret")
    client.will_set(f"{topic}/will", b"gone", 1, properties=will)
    client.connect("127.0.0.1", int(port), KEEP_ALIVE_SECONDS, properties=connect)
    client.loop_start()
    # Paho does not wait for its CONNACK, and at QoS 0 it may have closed its side by then: nothing is lost.
    sent = [client.publish(topic, payload, int(qos), properties=message) for payload in payloads]
    for each in sent:
        each.wait_for_publish(TIMEOUT_SECONDS)
        assert each.is_published()
    client.disconnect()
    client.loop_stop()


if __name__ == "__main__":
    *arguments, file = sys.argv[1:]
    publish([bytes.fromhex(line) for line in Path(file).read_text().splitlines()], *arguments)
