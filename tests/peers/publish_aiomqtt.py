"""Publishes with aiomqtt: `publish_aiomqtt.py PORT VERSION QOS CLIENT_ID TOPIC FILE`, a payload in hex on each line,
with every option of CONNECT that it offers. Its properties are those of paho-mqtt.
"""

import asyncio
import sys
from pathlib import Path

import aiomqtt
from publish_paho import CONNECT, KEEP_ALIVE_SECONDS, PUBLISH, TIMEOUT_SECONDS, WILL

#: Calls of `publish` that wait for their acknowledgement at a time. They are written in the order in which they begin.
AT_A_TIME = 100


async def publish(payloads: list[bytes], port: str, version: str, qos: str, client_id: str, topic: str) -> None:
    connect, will, message = (CONNECT, WILL, PUBLISH) if version == "5" else (None, None, None)
    async with aiomqtt.Client(
        "127.0.0.1",
        int(port),
        username="peer",
        password="secret",
        identifier=client_id,
        protocol=aiomqtt.ProtocolVersion(int(version)),
        will=aiomqtt.Will(f"{topic}/will", b"gone", 1, properties=will),
        keepalive=KEEP_ALIVE_SECONDS,
        properties=connect,
    ) as client:
        for start in range(0, len(payloads), AT_A_TIME):
            messages = payloads[start : start + AT_A_TIME]
            sent = (
                client.publish(topic, each, int(qos), properties=message, timeout=TIMEOUT_SECONDS) for each in messages
            )
            await asyncio.gather(*sent)


*arguments, file = sys.argv[1:]
asyncio.run(publish([bytes.fromhex(line) for line in Path(file).read_text().splitlines()], *arguments))
