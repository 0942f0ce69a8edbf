"""Tells `<prefix>status` who came and who went, in the fields, order and types that its readers know."""

import json
import logging

from proxy.clock import wall_ms
from proxy.errors import GatewayError
from proxy.kafka.gateway import KafkaGateway
from proxy.metrics import Metrics
from proxy.mqtt.packets import MQTT_3_1, Connect
from proxy.session.events import EndReason

log = logging.getLogger(__name__)


class Presence:
    """Writes connected and disconnected records; the key is the client id, or the action as the plugin had it."""

    def __init__(self, gateway: KafkaGateway, metrics: Metrics, topic: str, node: str, *, key_is_action: bool) -> None:
        self._gateway = gateway
        self._topic = topic
        self._node = node
        self._key_is_action = key_is_action
        self._stored = metrics.presence.labels("stored")
        self._lost = metrics.presence.labels("lost")

    def connected(self, client_id: str, address: str, connect: Connect) -> None:
        self._tell(
            {
                "action": "connected",
                "clientid": client_id,
                "username": connect.username,
                "keepalive": connect.keep_alive,
                "ipaddress": address,
                "proto_name": "MQIsdp" if connect.protocol_version == MQTT_3_1 else "MQTT",
                "proto_ver": connect.protocol_version,
                "timestamp": wall_ms(),
                "online": 1,
            }
        )

    def disconnected(self, client_id: str, username: str | None, reason: EndReason) -> None:
        self._tell(
            {
                "action": "disconnected",
                "clientid": client_id,
                "username": username,
                "reason": reason.value,
                "timestamp": wall_ms(),
                "online": 0,
            }
        )

    def _tell(self, fields: dict[str, object]) -> None:
        """Own fields come last. The certificate's name is null until devices can show one."""
        fields |= {"node": self._node, "peer_cert_cn": None}
        value = json.dumps(fields, ensure_ascii=False, separators=(",", ":"))
        key = str(fields["action" if self._key_is_action else "clientid"]).encode()
        try:
            destination = self._gateway.destination(self._topic, key)
        except GatewayError as error:
            self.settle([0], error, 0.0)
        else:
            self._gateway.enqueue(destination, value.encode(), [], self, 0)

    def settle(self, tokens: list[int], error: GatewayError | None, seconds: float) -> None:
        """As a `Recipient` of the gateway."""
        if error is None:
            self._stored.inc(len(tokens))
        else:
            self._lost.inc(len(tokens))
            log.warning("status records lost", extra={"records": len(tokens), "error": str(error)})
