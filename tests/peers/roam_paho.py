"""Devices by paho-mqtt that want to stay connected: `roam_paho.py PORT DEVICES QOS SECONDS`, half of them 3.1.1, half
5.0. Each publishes a numbered message every SECONDS until SIGTERM; when all are acknowledged a JSON object of what they
were told is written and the program ends.

Reconnecting, keeping what is not acknowledged and sending it again is the library's. Paho does that without looking at
Session Present: after 0 it sends again what 5.0 tells it to discard, so it is never it that loses a message.
"""

import json
import signal
import sys
import threading
import time

import paho.mqtt.client as paho
from paho.mqtt.enums import CallbackAPIVersion
from paho.mqtt.packettypes import PacketTypes
from paho.mqtt.properties import Properties

#: Messages of a device that are not acknowledged. Paho sends all it has after a reconnect, whatever the server's
#: Receive Maximum, so its user has to keep count.
AT_A_TIME = 20
SESSION_EXPIRY_SECONDS = 3600
RECONNECT_SECONDS = 0.2
ALL_ACKNOWLEDGED_SECONDS = 60


class Device:
    def __init__(self, number: int, port: int, qos: int) -> None:
        version = (paho.MQTTProtocolVersion.MQTTv311, paho.MQTTProtocolVersion.MQTTv5)[number % 2]
        self.client_id = f"paho-{version}-{number}"
        self.session_present: list[bool] = []
        self.published = 0
        self.acknowledged = 0
        self._qos = qos
        keeps: dict[str, object] = {} if version == 5 else {"clean_session": False}
        self.client = paho.Client(CallbackAPIVersion.VERSION2, self.client_id, protocol=version, **keeps)
        self.client.on_connect = self.on_connect
        self.client.on_publish = self.on_publish
        self.client.reconnect_delay_set(RECONNECT_SECONDS, RECONNECT_SECONDS)
        if version == 5:
            expiry = Properties(PacketTypes.CONNECT)
            expiry.SessionExpiryInterval = SESSION_EXPIRY_SECONDS
            self.client.connect_async("127.0.0.1", port, clean_start=False, properties=expiry)
        else:
            self.client.connect_async("127.0.0.1", port)
        self.client.loop_start()

    def on_connect(self, client: object, data: object, flags: paho.ConnectFlags, reason: object, more: object) -> None:
        if not reason.is_failure:
            self.session_present.append(flags.session_present)

    def on_publish(self, client: object, data: object, mid: int, reason: object, properties: object) -> None:
        self.acknowledged += 1

    def publish(self) -> None:
        if self.session_present and self.published - self.acknowledged < AT_A_TIME:
            self.published += 1
            payload = f"{self.client_id} {self.published}"
            self.client.publish(f"tlink/{self.client_id}/up", payload, self._qos)


def roam(port: int, devices: int, qos: int, seconds: float) -> None:
    stopping = threading.Event()
    signal.signal(signal.SIGTERM, lambda *_: stopping.set())
    fleet = [Device(number, port, qos) for number in range(devices)]
    while not stopping.is_set():
        for device in fleet:
            device.publish()
            stopping.wait(seconds / devices)
    deadline = time.monotonic() + ALL_ACKNOWLEDGED_SECONDS
    while any(device.acknowledged < device.published for device in fleet) and time.monotonic() < deadline:
        time.sleep(0.05)
    told = [
        {
            "client_id": device.client_id,
            "session_present": device.session_present,
            "published": device.published,
            "unacknowledged": device.published - device.acknowledged,
        }
        for device in fleet
    ]
    print(json.dumps(told), flush=True)
    for device in fleet:
        device.client.disconnect()
        device.client.loop_stop()


roam(int(sys.argv[1]), int(sys.argv[2]), int(sys.argv[3]), float(sys.argv[4]))
