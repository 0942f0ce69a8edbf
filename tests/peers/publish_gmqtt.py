"""Publishes with gmqtt: `publish_gmqtt.py PORT VERSION QOS CLIENT_ID TOPIC FILE`, a payload in hex on each line."""

import asyncio
import sys
from pathlib import Path

import gmqtt
from gmqtt.storage import PersistentStorage

#: gmqtt does not wait when the server's Receive Maximum is reached, so its user has to. The default is 128.
AT_A_TIME = 100
TIMEOUT_SECONDS = 60


async def publish(payloads: list[bytes], port: str, version: str, qos: str, client_id: str, topic: str) -> None:
    unacknowledged = PersistentStorage()
    client = gmqtt.Client(client_id, persistent_storage=unacknowledged)
    await client.connect("127.0.0.1", int(port), version=int(version))
    for start in range(0, len(payloads), AT_A_TIME):
        for payload in payloads[start : start + AT_A_TIME]:
            client.publish(topic, payload, int(qos))
        async with asyncio.timeout(TIMEOUT_SECONDS):
            await unacknowledged.wait_empty()
    await client.disconnect()


*arguments, file = sys.argv[1:]
asyncio.run(publish([bytes.fromhex(line) for line in Path(file).read_text().splitlines()], *arguments))
