"""Subscribes with paho-mqtt: `subscribe_paho.py PORT VERSION QOS CLIENT_ID FILTER COUNT` writes `ready` once it has its
SUBACK, then each payload in hex on a line, and leaves after COUNT.
"""

import sys
from typing import Any

import paho.mqtt.client as paho
from paho.mqtt.enums import CallbackAPIVersion
from paho.mqtt.packettypes import PacketTypes
from paho.mqtt.properties import Properties


def subscribe(port: str, version: str, qos: str, client_id: str, topic_filter: str, count: str) -> None:
    client = paho.Client(CallbackAPIVersion.VERSION2, client_id, protocol=paho.MQTTProtocolVersion(int(version)))
    left = int(count)

    def on_connect(*_: Any) -> None:
        if version == "5":
            properties = Properties(PacketTypes.SUBSCRIBE)
            properties.SubscriptionIdentifier = 7
            options = paho.SubscribeOptions(int(qos), noLocal=True, retainAsPublished=True)
            client.subscribe(topic_filter, options=options, properties=properties)
        else:
            client.subscribe(topic_filter, int(qos))

    def on_subscribe(_client: Any, _data: Any, _mid: int, reason_codes: list[Any], _properties: Any) -> None:
        assert [each.value for each in reason_codes] == [int(qos)]
        sys.stdout.write("ready\n")
        sys.stdout.flush()

    def on_message(_client: Any, _data: Any, message: paho.MQTTMessage) -> None:
        nonlocal left
        assert message.qos == int(qos)
        if version == "5":
            assert message.properties is not None
            assert message.properties.SubscriptionIdentifier == [7]
            assert dict(message.properties.UserProperty)["mqk-command-id"]
        sys.stdout.write(f"{message.payload.hex()}\n")
        left -= 1

    client.on_connect, client.on_subscribe, client.on_message = on_connect, on_subscribe, on_message
    client.connect("127.0.0.1", int(port), 37)
    # Not in `on_message`: the message is acknowledged after it.
    while left:
        client.loop()
    client.disconnect()


subscribe(*sys.argv[1:])
