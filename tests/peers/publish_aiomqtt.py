"""Publishes with aiomqtt: `publish_aiomqtt.py PORT VERSION QOS CLIENT_ID TOPIC FILE`, a payload in hex on each line."""

import asyncio
import sys
from pathlib import Path

import aiomqtt

#: Calls of `publish` that wait for their acknowledgement at a time. They are written in the order in which they begin.
AT_A_TIME = 100


async def publish(payloads: list[bytes], port: str, version: str, qos: str, client_id: str, topic: str) -> None:
    protocol = aiomqtt.ProtocolVersion(int(version))
    async with aiomqtt.Client("127.0.0.1", int(port), identifier=client_id, protocol=protocol) as client:
        for start in range(0, len(payloads), AT_A_TIME):
            messages = payloads[start : start + AT_A_TIME]
            await asyncio.gather(*(client.publish(topic, payload, int(qos), timeout=60) for payload in messages))


*arguments, file = sys.argv[1:]
asyncio.run(publish([bytes.fromhex(line) for line in Path(file).read_text().splitlines()], *arguments))
