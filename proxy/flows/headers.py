"""The headers of a record: what `kafka.headers` asks for, and what says something without being asked."""

from collections.abc import Callable, Sequence
from typing import Final

from proxy.kafka.gateway import Headers
from proxy.mqtt.packets import (
    CONTENT_TYPE,
    CORRELATION_DATA,
    MESSAGE_EXPIRY_INTERVAL,
    PAYLOAD_FORMAT_INDICATOR,
    RESPONSE_TOPIC,
    USER_PROPERTY,
    Properties,
    Publish,
)

#: The header of W3C Trace Context, which ties the record to the device's trace.
_TRACEPARENT: Final = "traceparent"
#: User properties stand behind this, so that no device can pretend to be another with one that is named mqtt.clientid.
_USER: Final = "mqtt.user."
_USER_PROPERTIES: Final = "mqtt.user_properties"


def _text(value: object) -> bytes:
    return str(value).encode()


def _binary(value: object) -> bytes:
    return value if isinstance(value, bytes) else b""


#: Properties of 5.0 that become one header each, in the order in which records have them.
_PROPERTIES: Final[Sequence[tuple[str, int, Callable[[object], bytes]]]] = (
    ("mqtt.payload_format", PAYLOAD_FORMAT_INDICATOR, _text),
    ("mqtt.message_expiry", MESSAGE_EXPIRY_INTERVAL, _text),
    ("mqtt.content_type", CONTENT_TYPE, _text),
    ("mqtt.response_topic", RESPONSE_TOPIC, _text),
    ("mqtt.correlation_data", CORRELATION_DATA, _binary),
)


class HeaderPlan:
    """`kafka.headers`, sorted by when a header is known."""

    __slots__ = ("_names", "_node", "_properties", "_with_packet_id", "_with_qos", "_with_user", "each", "telling")

    def __init__(self, names: Sequence[str], node: str) -> None:
        self._names = names
        self._node = node
        self._with_qos = "mqtt.qos" in names
        self._with_packet_id = "mqtt.packet_id" in names
        self._with_user = _USER_PROPERTIES in names
        self._properties = [(name, key, encode) for name, key, encode in _PROPERTIES if name in names]
        #: Every message has headers of its own.
        self.each = self._with_qos or self._with_packet_id
        #: A message with one of these properties has to be looked at: for a header, or for what it promises.
        self.telling = frozenset((PAYLOAD_FORMAT_INDICATOR, USER_PROPERTY, *(key for _, key, _ in self._properties)))

    def of_topic(self, topic: bytes, client_id: str, username: str | None) -> Headers:
        """Those that every message of a client under one topic name carries."""
        values = {
            "mqtt.topic": topic,
            "mqtt.clientid": client_id.encode(),
            "mqtt.username": username.encode() if username is not None else None,
            "mqtt.node": self._node.encode(),
        }
        return [(name, value) for name in self._names if (value := values.get(name)) is not None]

    def of_message(self, publish: Publish) -> Headers:
        """Those of this one message: what says something, or was asked for."""
        headers = []
        if publish.retain:
            headers.append(("mqtt.retain", b"1"))
        if publish.dup:
            headers.append(("mqtt.dup", b"1"))
        if self._with_qos:
            headers.append(("mqtt.qos", b"%d" % publish.qos))
        if publish.qos and (publish.dup or self._with_packet_id):
            headers.append(("mqtt.packet_id", b"%d" % publish.packet_id))
        return headers

    def of_properties(self, properties: Properties) -> Headers:
        """Those of 5.0: what was asked for, and `traceparent` always."""
        headers = [(name, encode(properties[key])) for name, key, encode in self._properties if key in properties]
        pairs = user_properties(properties)
        if self._with_user:
            headers += [(_USER + name, value.encode()) for name, value in pairs]
        trace = next((value for name, value in pairs if name == _TRACEPARENT), None)
        if trace is not None:
            headers.append((_TRACEPARENT, trace.encode()))
        return headers


def user_properties(properties: Properties) -> Sequence[tuple[str, str]]:
    """Names and values in the order in which the device sent them."""
    pairs = properties.get(USER_PROPERTY, ())
    return [pair for pair in pairs if isinstance(pair, tuple)] if isinstance(pairs, list) else ()
