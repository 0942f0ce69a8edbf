"""Publishes with gmqtt: `publish_gmqtt.py PORT VERSION QOS CLIENT_ID TOPIC FILE`, a payload in hex on each line, with
the options of CONNECT that it offers.
"""

import asyncio
import sys
from pathlib import Path
from typing import Any

import gmqtt
from gmqtt.storage import PersistentStorage

#: gmqtt does not wait when the server's Receive Maximum is reached, so its user has to. The default is 128.
AT_A_TIME = 100
KEEP_ALIVE_SECONDS = 37
TIMEOUT_SECONDS = 60
USER: dict[str, Any] = {"user_property": [("colour", "blue"), ("colour", "green")]}
CONNECT = {**USER, "session_expiry_interval": 60, "receive_maximum": 20, "maximum_packet_size": 100_000}
PUBLISH = {**USER, "message_expiry_interval": 3_600, "content_type": "application/octet-stream"}
WILL = {**PUBLISH, "will_delay_interval": 5}


async def publish(payloads: list[bytes], port: str, version: str, qos: str, client_id: str, topic: str) -> None:
    connect, will, message = (CONNECT, WILL, PUBLISH) if version == "5" else ({}, {}, {})
    unacknowledged = PersistentStorage()
    last_words = gmqtt.Message(f"{topic}/will", b"gone", 1, **will)
    client = gmqtt.Client(client_id, persistent_storage=unacknowledged, will_message=last_words, **connect)
    client.set_auth_credentials("peer", "secret")
    await client.connect("127.0.0.1", int(port), version=int(version), keepalive=KEEP_ALIVE_SECONDS)
    for start in range(0, len(payloads), AT_A_TIME):
        for payload in payloads[start : start + AT_A_TIME]:
            client.publish(topic, payload, int(qos), **message)
        async with asyncio.timeout(TIMEOUT_SECONDS):
            await unacknowledged.wait_empty()
    await client.disconnect()


*arguments, file = sys.argv[1:]
asyncio.run(publish([bytes.fromhex(line) for line in Path(file).read_text().splitlines()], *arguments))
