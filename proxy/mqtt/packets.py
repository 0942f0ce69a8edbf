"""What the two standards name: packet types, reason codes, properties, and one class per packet.

Data only. How they look on the wire is in `decode` and `encode`; what they mean is the session's business.
Numbers are plain ints on the hot path; the enums are for people.
"""

from dataclasses import dataclass, field
from enum import IntEnum
from typing import Final, NamedTuple

from proxy.mqtt.topics import TopicName

MQTT_3_1: Final = 3
MQTT_3_1_1: Final = 4
MQTT_5_0: Final = 5

CONNECT: Final = 1
CONNACK: Final = 2
PUBLISH: Final = 3
PUBACK: Final = 4
PUBREC: Final = 5
PUBREL: Final = 6
PUBCOMP: Final = 7
SUBSCRIBE: Final = 8
SUBACK: Final = 9
UNSUBSCRIBE: Final = 10
UNSUBACK: Final = 11
PINGREQ: Final = 12
PINGRESP: Final = 13
DISCONNECT: Final = 14
AUTH: Final = 15

#: Longest packet that the remaining length can express (2.1.4).
PACKET_BYTES_MAX: Final = 268_435_455 + 5


class ReasonCode(IntEnum):
    """MQTT 5.0, table 2-6. The names are the standard's."""

    SUCCESS = 0x00
    GRANTED_QOS_1 = 0x01
    GRANTED_QOS_2 = 0x02
    DISCONNECT_WITH_WILL = 0x04
    NO_MATCHING_SUBSCRIBERS = 0x10
    NO_SUBSCRIPTION_EXISTED = 0x11
    CONTINUE_AUTHENTICATION = 0x18
    REAUTHENTICATE = 0x19
    UNSPECIFIED_ERROR = 0x80
    MALFORMED_PACKET = 0x81
    PROTOCOL_ERROR = 0x82
    IMPLEMENTATION_SPECIFIC_ERROR = 0x83
    UNSUPPORTED_PROTOCOL_VERSION = 0x84
    CLIENT_IDENTIFIER_NOT_VALID = 0x85
    BAD_USER_NAME_OR_PASSWORD = 0x86
    NOT_AUTHORIZED = 0x87
    SERVER_UNAVAILABLE = 0x88
    SERVER_BUSY = 0x89
    BANNED = 0x8A
    SERVER_SHUTTING_DOWN = 0x8B
    BAD_AUTHENTICATION_METHOD = 0x8C
    KEEP_ALIVE_TIMEOUT = 0x8D
    SESSION_TAKEN_OVER = 0x8E
    TOPIC_FILTER_INVALID = 0x8F
    TOPIC_NAME_INVALID = 0x90
    PACKET_IDENTIFIER_IN_USE = 0x91
    PACKET_IDENTIFIER_NOT_FOUND = 0x92
    RECEIVE_MAXIMUM_EXCEEDED = 0x93
    TOPIC_ALIAS_INVALID = 0x94
    PACKET_TOO_LARGE = 0x95
    MESSAGE_RATE_TOO_HIGH = 0x96
    QUOTA_EXCEEDED = 0x97
    ADMINISTRATIVE_ACTION = 0x98
    PAYLOAD_FORMAT_INVALID = 0x99
    RETAIN_NOT_SUPPORTED = 0x9A
    QOS_NOT_SUPPORTED = 0x9B
    USE_ANOTHER_SERVER = 0x9C
    SERVER_MOVED = 0x9D
    SHARED_SUBSCRIPTIONS_NOT_SUPPORTED = 0x9E
    CONNECTION_RATE_EXCEEDED = 0x9F
    MAXIMUM_CONNECT_TIME = 0xA0
    SUBSCRIPTION_IDENTIFIERS_NOT_SUPPORTED = 0xA1
    WILDCARD_SUBSCRIPTIONS_NOT_SUPPORTED = 0xA2


#: CONNACK return codes of 3.1.1 (table 3.1) for the 5.0 reasons that have one; every other is 3, server unavailable.
CONNACK_RETURN_CODES: Final[dict[int, int]] = {
    ReasonCode.SUCCESS: 0,
    ReasonCode.UNSUPPORTED_PROTOCOL_VERSION: 1,
    ReasonCode.CLIENT_IDENTIFIER_NOT_VALID: 2,
    ReasonCode.BAD_USER_NAME_OR_PASSWORD: 4,
    ReasonCode.NOT_AUTHORIZED: 5,
    ReasonCode.BANNED: 5,
}
CONNACK_SERVER_UNAVAILABLE: Final = 3

PropertyValue = int | str | bytes | list[int] | list[tuple[str, str]]
#: Property identifier → value. User properties are pairs in their order; subscription identifiers a list.
Properties = dict[int, PropertyValue]


class PropertyKind(NamedTuple):
    """One row of table 2-4: how a property is written, and in which packets it may stand."""

    name: str
    wire: str
    packets: frozenset[int]


#: Stands for the will's own properties in the sets below; no packet type has this number.
WILL: Final = 0


def _kind(name: str, wire: str, *packets: int) -> PropertyKind:
    return PropertyKind(name, wire, frozenset(packets))


PAYLOAD_FORMAT_INDICATOR: Final = 0x01
MESSAGE_EXPIRY_INTERVAL: Final = 0x02
CONTENT_TYPE: Final = 0x03
RESPONSE_TOPIC: Final = 0x08
CORRELATION_DATA: Final = 0x09
SUBSCRIPTION_IDENTIFIER: Final = 0x0B
SESSION_EXPIRY_INTERVAL: Final = 0x11
ASSIGNED_CLIENT_IDENTIFIER: Final = 0x12
SERVER_KEEP_ALIVE: Final = 0x13
AUTHENTICATION_METHOD: Final = 0x15
AUTHENTICATION_DATA: Final = 0x16
REQUEST_PROBLEM_INFORMATION: Final = 0x17
WILL_DELAY_INTERVAL: Final = 0x18
REQUEST_RESPONSE_INFORMATION: Final = 0x19
RESPONSE_INFORMATION: Final = 0x1A
SERVER_REFERENCE: Final = 0x1C
REASON_STRING: Final = 0x1F
RECEIVE_MAXIMUM: Final = 0x21
TOPIC_ALIAS_MAXIMUM: Final = 0x22
TOPIC_ALIAS: Final = 0x23
MAXIMUM_QOS: Final = 0x24
RETAIN_AVAILABLE: Final = 0x25
USER_PROPERTY: Final = 0x26
MAXIMUM_PACKET_SIZE: Final = 0x27
WILDCARD_SUBSCRIPTION_AVAILABLE: Final = 0x28
SUBSCRIPTION_IDENTIFIER_AVAILABLE: Final = 0x29
SHARED_SUBSCRIPTION_AVAILABLE: Final = 0x2A

_MESSAGE: Final = (PUBLISH, WILL)
_ACKS: Final = (PUBACK, PUBREC, PUBREL, PUBCOMP, SUBACK, UNSUBACK)
_ANY: Final = (*_MESSAGE, *_ACKS, CONNECT, CONNACK, SUBSCRIBE, UNSUBSCRIBE, DISCONNECT, AUTH)
#: Wire forms: `flag` a byte that is 0 or 1, `byte2` and `byte4` integers, `positive2` and `positive4` the same but
#: never 0, `varint` a positive variable byte integer, `text`, `topic` a topic name, `binary`, `pair`.
PROPERTIES: Final[dict[int, PropertyKind]] = {
    PAYLOAD_FORMAT_INDICATOR: _kind("Payload Format Indicator", "flag", *_MESSAGE),
    MESSAGE_EXPIRY_INTERVAL: _kind("Message Expiry Interval", "byte4", *_MESSAGE),
    CONTENT_TYPE: _kind("Content Type", "text", *_MESSAGE),
    RESPONSE_TOPIC: _kind("Response Topic", "topic", *_MESSAGE),
    CORRELATION_DATA: _kind("Correlation Data", "binary", *_MESSAGE),
    SUBSCRIPTION_IDENTIFIER: _kind("Subscription Identifier", "varint", PUBLISH, SUBSCRIBE),
    SESSION_EXPIRY_INTERVAL: _kind("Session Expiry Interval", "byte4", CONNECT, CONNACK, DISCONNECT),
    ASSIGNED_CLIENT_IDENTIFIER: _kind("Assigned Client Identifier", "text", CONNACK),
    SERVER_KEEP_ALIVE: _kind("Server Keep Alive", "byte2", CONNACK),
    AUTHENTICATION_METHOD: _kind("Authentication Method", "text", CONNECT, CONNACK, AUTH),
    AUTHENTICATION_DATA: _kind("Authentication Data", "binary", CONNECT, CONNACK, AUTH),
    REQUEST_PROBLEM_INFORMATION: _kind("Request Problem Information", "flag", CONNECT),
    WILL_DELAY_INTERVAL: _kind("Will Delay Interval", "byte4", WILL),
    REQUEST_RESPONSE_INFORMATION: _kind("Request Response Information", "flag", CONNECT),
    RESPONSE_INFORMATION: _kind("Response Information", "text", CONNACK),
    SERVER_REFERENCE: _kind("Server Reference", "text", CONNACK, DISCONNECT),
    REASON_STRING: _kind("Reason String", "text", CONNACK, DISCONNECT, AUTH, *_ACKS),
    RECEIVE_MAXIMUM: _kind("Receive Maximum", "positive2", CONNECT, CONNACK),
    TOPIC_ALIAS_MAXIMUM: _kind("Topic Alias Maximum", "byte2", CONNECT, CONNACK),
    TOPIC_ALIAS: _kind("Topic Alias", "byte2", PUBLISH),
    MAXIMUM_QOS: _kind("Maximum QoS", "flag", CONNACK),
    RETAIN_AVAILABLE: _kind("Retain Available", "flag", CONNACK),
    USER_PROPERTY: _kind("User Property", "pair", *_ANY),
    MAXIMUM_PACKET_SIZE: _kind("Maximum Packet Size", "positive4", CONNECT, CONNACK),
    WILDCARD_SUBSCRIPTION_AVAILABLE: _kind("Wildcard Subscription Available", "flag", CONNACK),
    SUBSCRIPTION_IDENTIFIER_AVAILABLE: _kind("Subscription Identifier Available", "flag", CONNACK),
    SHARED_SUBSCRIPTION_AVAILABLE: _kind("Shared Subscription Available", "flag", CONNACK),
}  # fmt: skip

#: Shared by all packets that carry none. Nobody may write to it.
NO_PROPERTIES: Final[Properties] = {}


@dataclass(slots=True)
class Will:
    """The message that the server publishes when the client vanishes."""

    topic: TopicName
    payload: bytes
    qos: int = 0
    retain: bool = False
    properties: Properties = field(default_factory=dict)


@dataclass(slots=True)
class Connect:
    """`keep_alive` in seconds, 0 for none."""

    protocol_version: int
    client_id: str
    clean_start: bool = True
    keep_alive: int = 0
    username: str | None = None
    password: bytes | None = None
    will: Will | None = None
    properties: Properties = field(default_factory=dict)


@dataclass(slots=True)
class Connack:
    """`reason_code` is the return code of 3.1.1 when it is spoken there."""

    session_present: bool
    reason_code: int
    properties: Properties = field(default_factory=dict)


class Publish:
    """One application message on its way. Also the session's event: nothing is copied on the hot path.

    `packet_id` is 0 at QoS 0.
    """

    __slots__ = ("dup", "packet_id", "payload", "properties", "qos", "retain", "topic")

    def __init__(
        self,
        topic: TopicName,
        payload: bytes,
        qos: int = 0,
        retain: bool = False,
        dup: bool = False,
        packet_id: int = 0,
        properties: Properties = NO_PROPERTIES,
    ) -> None:
        self.topic = topic
        self.payload = payload
        self.qos = qos
        self.retain = retain
        self.dup = dup
        self.packet_id = packet_id
        self.properties = properties

    def _fields(self) -> tuple[object, ...]:
        return (self.topic, self.payload, self.qos, self.retain, self.dup, self.packet_id, self.properties)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Publish) and self._fields() == other._fields()

    __hash__ = None  # type: ignore[assignment]

    def __repr__(self) -> str:
        return f"Publish{self._fields()!r}"


@dataclass(slots=True)
class Ack:
    """PUBACK, PUBREC, PUBREL or PUBCOMP, told apart by `packet_type`."""

    packet_type: int
    packet_id: int
    reason_code: int = ReasonCode.SUCCESS
    properties: Properties = field(default_factory=dict)


@dataclass(slots=True)
class Subscription:
    """One topic filter of a SUBSCRIBE with its options; all but `qos` exist in 5.0 only."""

    topic_filter: str
    qos: int = 0
    no_local: bool = False
    retain_as_published: bool = False
    retain_handling: int = 0


@dataclass(slots=True)
class Subscribe:
    packet_id: int
    subscriptions: list[Subscription]
    properties: Properties = field(default_factory=dict)


@dataclass(slots=True)
class Suback:
    packet_id: int
    reason_codes: list[int]
    properties: Properties = field(default_factory=dict)


@dataclass(slots=True)
class Unsubscribe:
    packet_id: int
    topic_filters: list[str]
    properties: Properties = field(default_factory=dict)


@dataclass(slots=True)
class Unsuback:
    """`reason_codes` is empty before 5.0."""

    packet_id: int
    reason_codes: list[int]
    properties: Properties = field(default_factory=dict)


@dataclass(slots=True)
class Pingreq:
    pass


@dataclass(slots=True)
class Pingresp:
    pass


@dataclass(slots=True)
class Disconnect:
    reason_code: int = ReasonCode.SUCCESS
    properties: Properties = field(default_factory=dict)


@dataclass(slots=True)
class Auth:
    reason_code: int = ReasonCode.SUCCESS
    properties: Properties = field(default_factory=dict)


Packet = (
    Connect
    | Connack
    | Publish
    | Ack
    | Subscribe
    | Suback
    | Unsubscribe
    | Unsuback
    | Pingreq
    | Pingresp
    | Disconnect
    | Auth
)
