"""Subscribes with gmqtt: `subscribe_gmqtt.py PORT VERSION QOS CLIENT_ID FILTER COUNT` writes `ready` once it has its
SUBACK, then each payload in hex on a line, and leaves after COUNT.
"""

import asyncio
import sys
from typing import Any

import gmqtt


async def subscribe(port: str, version: str, qos: str, client_id: str, topic_filter: str, count: str) -> None:
    client = gmqtt.Client(client_id)
    left, done = int(count), asyncio.Event()

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

    client.on_subscribe, client.on_message = on_subscribe, on_message
    await client.connect("127.0.0.1", int(port), version=int(version), keepalive=37)
    client.subscribe(topic_filter, qos=int(qos))
    await done.wait()
    await client.disconnect()


asyncio.run(subscribe(*sys.argv[1:]))
