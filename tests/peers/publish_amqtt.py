"""Publishes with amqtt: `publish_amqtt.py PORT VERSION QOS CLIENT_ID TOPIC FILE`, a payload in hex on each line,
with every option of CONNECT that it offers. It speaks 3.1.1 only, and waits for each acknowledgement.
"""

import asyncio
import sys
from pathlib import Path

from amqtt.client import MQTTClient

TIMEOUT_SECONDS = 60


async def publish(payloads: list[bytes], port: str, qos: str, client_id: str, topic: str) -> None:
    will = {"topic": f"{topic}/will", "message": "gone", "qos": 1, "retain": False}
    # It announces `keep_alive` less `ping_delay`.
    client = MQTTClient(client_id, {"keep_alive": 38, "ping_delay": 1, "auto_reconnect": False, "will": will})
    await client.connect(f"mqtt://peer:secret@127.0.0.1:{port}/", cleansession=True)
    for payload in payloads:
        await client.publish(topic, payload, int(qos), ack_timeout=TIMEOUT_SECONDS)
    await client.disconnect()


port, _, *arguments, file = sys.argv[1:]
asyncio.run(publish([bytes.fromhex(line) for line in Path(file).read_text().splitlines()], port, *arguments))
