"""Replicas with a Kafka and a session log in memory, and devices on sockets that the test plays."""

import json
from collections.abc import Sequence
from typing import Any, Literal

from proxy.flows.access import Access, AccessSettings
from proxy.flows.downlink import Downlink
from proxy.flows.executor import Executor
from proxy.flows.goodbyes import Goodbyes
from proxy.flows.presence import Presence
from proxy.flows.sessions import Sessions
from proxy.flows.uplink import Uplink, UplinkSettings
from proxy.flows.wills import Wills
from proxy.metrics import Metrics
from proxy.mqtt.encode import encode_packet
from proxy.mqtt.packets import (
    MQTT_3_1_1,
    MQTT_5_0,
    REQUEST_PROBLEM_INFORMATION,
    SESSION_EXPIRY_INTERVAL,
    Connect,
    Disconnect,
    Publish,
)
from proxy.mqtt.topics import TopicName
from proxy.net.connection import MqttConnection
from proxy.net.listener import Listener
from proxy.policy.authenticators.base import Authenticator, Chain
from proxy.policy.rules import RoutingContext, RuleSpec, compile_routes, preset_specs
from proxy.session.events import SessionLimits
from tests.support.fakes import Clock, FakeTransport
from tests.support.memory_gateway import MemoryGateway
from tests.support.session_log import SessionLog
from tests.support.wire import EXPIRY_SECONDS_MAX

#: One partition, so that the records of all devices have one order.
STATUS = "t_status"
#: Where `tlink/a/b/up` goes.
UP = "t_msg"


class Replica:
    """The parts that a node is made of, without sockets and without Kafka."""

    def __init__(
        self,
        *,
        headers: Sequence[str] = ("mqtt.topic", "mqtt.clientid"),
        unmatched: Literal["drop", "dead_letter", "reject"] = "drop",
        connects_per_second_max: int = 1000,
        authenticators: Sequence[Authenticator] = (),
        md5_partitions: int | None = None,
        key_is_action: bool = False,
        rules: Sequence[RuleSpec] = (),
        clusters: Sequence[str] = (),
        context: RoutingContext | None = None,
        node: str = "node-7",
        expiry_seconds_max: int = EXPIRY_SECONDS_MAX,
        bind_client_id: bool = False,
        access: AccessSettings | None = None,
        beside: "Replica | None" = None,
    ) -> None:
        """`beside`: another replica on the same Kafka and the same session log, whose turn it is not to announce."""
        self.clock = Clock()
        self.metrics = Metrics()
        context = context or RoutingContext("t_", "node-7", clusters={"", *clusters})
        routes = compile_routes(rules or preset_specs("tlink"), context)
        self.gateway = (
            beside.gateway
            if beside
            else MemoryGateway(dict.fromkeys(routes.topics(), 4) | {STATUS: 1}, md5_partitions=md5_partitions)
        )
        #: The further clusters.
        self.others = {name: MemoryGateway(dict.fromkeys(routes.topics(name), 4)) for name in clusters}
        self.log = beside.log if beside else SessionLog()
        self.presence = Presence(
            self.gateway, self.metrics, STATUS, key_is_action=key_is_action, wall_ms=lambda: self.log.now_ms
        )
        self.sessions = Sessions(self.log, "t_sessions", self.presence, self.clock)  # type: ignore[arg-type]
        self.uplink = Uplink(
            UplinkSettings(node, headers, unmatched, connects_per_second_max, expiry_seconds_max, bind_client_id),
            {"": self.gateway, **self.others},
            routes,
            Chain(authenticators, anonymous=not authenticators),
            self.sessions,
            Goodbyes(),
            self.metrics,
            Access(access or AccessSettings()),
        )
        self.downlink = Downlink(30.0, self.metrics, self.clock, lambda: self.log.now_ms)
        self.executor = Executor(self.uplink, self.downlink)
        self.presence.wills = Wills(self.uplink)
        self.presence.begin({}, 1)
        # The number of an incarnation is the offset of its JOIN; no two replicas have the same name here.
        self.sessions.begin(node, 1, 1)
        self.take_turn(mine=beside is None)
        self.log.readers.append(self.sessions)
        self.listener = Listener(SessionLimits(10, 60, 100_000, 128, 16), 1000, self.gateway, self.uplink.new_client)
        self.listener.now = self.clock

    def take_turn(self, *, mine: bool = True) -> None:
        """From now on this replica sweeps and announces, or does not."""
        self.sessions.tables[0].sweeping = mine
        self.presence.take_turns(frozenset({0} if mine else ()))

    def count(self, name: str, **labels: str) -> float:
        """One sample of the metrics, 0 when there is none."""
        return self.metrics.registry.get_sample_value(name, labels) or 0.0

    def told(self) -> list[dict[str, Any]]:
        """What the status topic says, in order."""
        return [json.loads(record.value or b"") for record in self.gateway.stored(STATUS)]

    def comings_and_goings(self) -> list[tuple[str, str]]:
        """Client id and `connected`, or the reason of the end, in order."""
        return [(each["clientid"], each.get("reason", "connected")) for each in self.told()]


class Device:
    """Sends packets, and sees the bytes of the answers."""

    def __init__(self, replica: Replica, version: int = MQTT_3_1_1) -> None:
        self.version = version
        self.connection = MqttConnection(replica.listener)
        self.transport = FakeTransport(self.connection)
        #: What CONNACK said to one that resumes.
        self.present = False

    def send(self, data: bytes) -> None:
        self.connection.data_received(data)

    def take(self) -> bytes:
        """What was written since the last time."""
        return self.transport.take()

    def connect(self, client_id: str = "device", **fields: Any) -> bytes:
        """Returns what is written at once. It wants no reasons in words, so that answers are a few known bytes."""
        if self.version == MQTT_5_0:
            fields.setdefault("properties", {REQUEST_PROBLEM_INFORMATION: 0})
        self.send(encode_packet(Connect(self.version, client_id, **fields), self.version))
        return self.take()

    def publish(self, topic: str = "tlink/a/b/up", payload: bytes = b"x", qos: int = 1, **fields: Any) -> None:
        if qos:
            fields.setdefault("packet_id", 1)
        message = Publish(TopicName(topic, topic.encode()), payload, qos, **fields)
        self.send(encode_packet(message, self.version))

    def disconnect(self) -> None:
        self.send(encode_packet(Disconnect(), self.version))

    def vanish(self) -> None:
        self.connection.eof_received()

    @property
    def gone(self) -> bool:
        return self.transport.is_closing()


def connected(replica: Replica, client_id: str = "device", version: int = MQTT_3_1_1, **fields: Any) -> Device:
    device = Device(replica, version)
    connack = device.connect(client_id, **fields)
    assert (connack[0], connack[3]) == (0x20, 0), connack.hex()
    return device


def resuming(
    replica: Replica, client_id: str = "device", version: int = MQTT_5_0, seconds: int = 3_600, **fields: Any
) -> Device:
    """Connected with a session that lives on, and goes on with one that there is; `present` says whether there was."""
    device = Device(replica, version)
    fields = {"clean_start": False, **fields}
    if version == MQTT_5_0:
        fields["properties"] = {SESSION_EXPIRY_INTERVAL: seconds, REQUEST_PROBLEM_INFORMATION: 0}
    connack = device.connect(client_id, **fields)
    assert (connack[0], connack[3]) == (0x20, 0), connack.hex()
    device.present = bool(connack[2])
    return device


def puback(packet_id: int, reason_code: int = 0, version: int = MQTT_3_1_1) -> bytes:
    if version == MQTT_3_1_1 or not reason_code:
        return b"\x40\x02" + packet_id.to_bytes(2, "big")
    return b"\x40\x03" + packet_id.to_bytes(2, "big") + bytes([reason_code])


def disconnect(reason_code: int, version: int) -> bytes:
    """What a device of this version hears when we let it go: in 3.1.1 nothing."""
    return bytes([0xE0, 1, reason_code]) if version > MQTT_3_1_1 else b""


def refused(reason_code: int, return_code: int, version: int) -> bytes:
    """A CONNACK that says no."""
    return bytes([0x20, 3, 0, reason_code, 0]) if version > MQTT_3_1_1 else bytes([0x20, 2, 0, return_code])
