"""Subscribes with gmqtt: `subscribe_gmqtt.py PORT VERSION QOS CLIENT_ID FILTER COUNT` writes `ready` once it has its
SUBACK, then each payload in hex on a line, and leaves after COUNT.
"""

import asyncio
import sys
from typing import Any

import gmqtt


async def subscribe(port: str, version: str, qos: str, client_id: str, topic_filter: str, count: str) -> None:
    client = gmqtt.Client(client_id)
    left, done, heard = int(count), asyncio.Event(), asyncio.Event()

    def on_subscribe(_client: Any, _mid: int, granted: list[int], _properties: Any) -> None:
        assert list(granted) == [int(qos)]
        sys.stdout.write("ready\n")
        sys.stdout.flush()

    def on_message(_client: Any, _topic: str, payload: bytes, message_qos: int, properties: dict[str, Any]) -> int:
        nonlocal left
        assert message_qos == int(qos)
        assert version == "4" or dict(properties["user_property"])["mqk-command-id"]
        sys.stdout.write(f"{bytes(payload).hex()}\n")
        left -= 1
        if not left:
            done.set()
        return 0

    def on_unsubscribe(*_: Any) -> None:
        heard.set()

    client.on_subscribe, client.on_message, client.on_unsubscribe = on_subscribe, on_message, on_unsubscribe
    await client.connect("127.0.0.1", int(port), version=int(version), keepalive=37)
    client.subscribe(topic_filter, qos=int(qos))
    await done.wait()
    # At QoS 2 the last PUBRELs are still on their way. Were the socket closed now they would be answered with a reset,
    # which may overtake what is unread at the other end, its PUBRECs among it.
    client.unsubscribe(topic_filter)
    await heard.wait()
    await client.disconnect()


asyncio.run(subscribe(*sys.argv[1:]))
