"""Devices by gmqtt, 5.0, that want to stay connected: `roam_gmqtt.py PORT DEVICES QOS SECONDS`. Each publishes a
numbered message every SECONDS until SIGTERM; when all are acknowledged a JSON object of what they were told is written
and the program ends.

Reconnecting, keeping what is not acknowledged and sending it again is the library's. gmqtt does as 5.0 says: when it is
told Session Present 0 it discards what is not acknowledged. So with it a false 0 is a lost message.

It sends again without DUP, against [MQTT-3.3.1-1]. It may do so with a message that it has sent on the same connection,
when that is published between CONNACK and the resending; that is a packet identifier in use, and the proxy closes the
connection. The next one sends it again.
"""

import asyncio
import json
import signal
import sys

import gmqtt
from gmqtt.mqtt.constants import UNLIMITED_RECONNECTS
from gmqtt.storage import PersistentStorage

#: Messages of a device that are not acknowledged. gmqtt does not wait when the server's Receive Maximum is reached.
AT_A_TIME = 20
SESSION_EXPIRY_SECONDS = 3600
RECONNECT_SECONDS = 0.2
ALL_ACKNOWLEDGED_SECONDS = 60


class Device:
    def __init__(self, number: int) -> None:
        self.client_id = f"gmqtt-5-{number}"
        self.session_present: list[bool] = []
        self.published = 0
        self.unacknowledged = PersistentStorage()
        self.client = gmqtt.Client(
            self.client_id,
            clean_session=False,
            persistent_storage=self.unacknowledged,
            session_expiry_interval=SESSION_EXPIRY_SECONDS,
        )
        self.client.set_config({"reconnect_delay": RECONNECT_SECONDS, "reconnect_retries": UNLIMITED_RECONNECTS})
        self.client.on_connect = self.on_connect

    def on_connect(self, client: object, session_present: int, reason: int, properties: object) -> None:
        self.session_present.append(bool(session_present))

    def publish(self, qos: int) -> None:
        # Without a connection it would write before its CONNECT, or before it knows that its session is there.
        if self.client.is_connected and len(self.unacknowledged.get_all()) < AT_A_TIME:
            self.published += 1
            self.client.publish(f"tlink/{self.client_id}/up", f"{self.client_id} {self.published}", qos)


async def roam(port: int, devices: int, qos: int, seconds: float) -> None:
    stopping = asyncio.Event()
    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, stopping.set)
    fleet = [Device(number) for number in range(devices)]
    await asyncio.gather(*(device.client.connect("127.0.0.1", port) for device in fleet))
    while not stopping.is_set():
        for device in fleet:
            device.publish(qos)
            await asyncio.sleep(seconds / devices)
    waiting = [asyncio.create_task(device.unacknowledged.wait_empty()) for device in fleet]
    await asyncio.wait(waiting, timeout=ALL_ACKNOWLEDGED_SECONDS)
    told = [
        {
            "client_id": device.client_id,
            "session_present": device.session_present,
            "published": device.published,
            "unacknowledged": len(device.unacknowledged.get_all()),
        }
        for device in fleet
    ]
    print(json.dumps(told), flush=True)


asyncio.run(roam(int(sys.argv[1]), int(sys.argv[2]), int(sys.argv[3]), float(sys.argv[4])))
