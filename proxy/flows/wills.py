"""A will on its way into Kafka: a message of a device that is gone, published by whoever announces that."""

from proxy.clock import wall_ms
from proxy.errors import GatewayError, Refusal
from proxy.flows.forwarding import UNMATCHED, Joint, is_as_announced, outlets, refuse
from proxy.flows.headers import user_properties
from proxy.flows.uplink import Uplink
from proxy.kafka.gateway import Headers, Recipient
from proxy.kafka.records import SessionRecord
from proxy.mqtt.packets import Publish
from proxy.mqtt.topics import TopicName
from proxy.policy.acl import PUBLISH, Who
from proxy.policy.templates import Scope

#: Headers that tell a repeated will from another one: consumers drop what is not above the last pair.
OFFSET_HEADER = "mqk.offset"
EPOCH_HEADER = "mqk.epoch"


class Wills:
    """Publishes wills by the rules of a replica's `Uplink`."""

    def __init__(self, uplink: Uplink) -> None:
        self._uplink = uplink

    def publish_will(self, record: SessionRecord, offset: int, recipient: Recipient, token: int) -> None:
        """`record` is of the connection whose will it is, `offset` that of the record which ended it. Raises
        GatewayError: it can never be published.
        """
        uplink, will, about = self._uplink, record.will, record.about
        if will is None:
            raise GatewayError("no will", Refusal.INVALID)
        name = TopicName(will.topic.decode(), will.topic)
        message = Publish(name, will.payload, 0, will.retain, properties=will.properties)
        if not is_as_announced(message):
            raise GatewayError("the will is not the text that it claims to be", Refusal.INVALID)
        if not uplink.access.allows_publish(name.name, Who(record.client_id, about.username, about.address)):
            uplink.access.denied[PUBLISH] += 1
            raise GatewayError("access control does not allow the will's topic", Refusal.NOT_AUTHORIZED)
        headers = uplink.headers.of_topic(will.topic, record.client_id, about.username)
        own = [
            *uplink.headers.of_message(message),
            *uplink.headers.of_properties(will.properties),
            (OFFSET_HEADER, b"%d" % offset),
            (EPOCH_HEADER, b"%d" % record.epoch),
        ]
        scope = Scope(name.name, record.client_id, about.username, about.address, about.peer_cert_cn)
        scope.retain, scope.ts, scope.user_properties = will.retain, wall_ms(), user_properties(will.properties)
        ways = outlets(uplink.routes.match(name.name), uplink.gateways, uplink.routes.names, scope, headers)
        if not ways:
            self._unmatched(message, headers + own, recipient, token)
            return
        if len(ways) > 1:
            joint = Joint(recipient)
            joint.expect(token, len(ways))
            recipient = joint
        for way in ways:
            way.forward(scope, will.payload, own, headers, recipient, token)

    def _unmatched(self, message: Publish, headers: Headers, recipient: Recipient, token: int) -> None:
        uplink = self._uplink
        if uplink.settings.unmatched == "dead_letter" and not message.topic.name.startswith("$"):
            refuse(uplink.gateway, UNMATCHED, "", "", message.topic.raw, message.payload, headers, recipient, token)
        else:
            uplink.publishes.unmatched[0] += 1
            recipient.settle([token], None, 0.0)
