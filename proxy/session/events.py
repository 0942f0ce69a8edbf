"""What a session tells the product and what the product answers. A packet that says it all is its own event."""

from dataclasses import dataclass, field
from enum import StrEnum

from proxy.mqtt.packets import Connect, Publish, ReasonCode, Subscribe, Unsubscribe


@dataclass(slots=True)
class Acknowledged:
    """The device has a message that was sent to it, or has refused it with a reason code of 0x80 and above. At QoS 2
    that is said by PUBREC: from then on the message is the device's, and sent once more it would be a second one.
    """

    packet_id: int
    reason_code: int


@dataclass(slots=True)
class Completed:
    """The last acknowledgement of a QoS 2 message: there is room for one more in flight."""

    packet_id: int


@dataclass(slots=True)
class Heard:
    """The device has sent something after its CONNACK, so it has a session and knows which."""


#: Connect waits for `accept_connect` or `refuse_connect`; a Publish at QoS 1 and 2 for `settle_publishes`; Subscribe
#: and Unsubscribe for their acknowledgement.
Event = Connect | Publish | Subscribe | Unsubscribe | Acknowledged | Completed | Heard


class EndReason(StrEnum):
    """Why a connection ended, as `<prefix>status` and the metrics say it."""

    NORMAL = "normal"
    KEEPALIVE_TIMEOUT = "keepalive_timeout"
    TCP_CLOSED = "tcp_closed"
    TAKEN_OVER = "taken_over"
    KICKED = "kicked"
    NOT_AUTHORIZED = "not_authorized"
    PROTOCOL_ERROR = "protocol_error"
    MALFORMED_PACKET = "malformed_packet"
    PACKET_TOO_LARGE = "packet_too_large"
    QUOTA_EXCEEDED = "quota_exceeded"
    KAFKA_UNAVAILABLE = "kafka_unavailable"
    SERVER_SHUTTING_DOWN = "server_shutting_down"
    USE_ANOTHER_SERVER = "use_another_server"


_END_REASONS = {
    ReasonCode.SUCCESS: EndReason.NORMAL,
    ReasonCode.MALFORMED_PACKET: EndReason.MALFORMED_PACKET,
    ReasonCode.NOT_AUTHORIZED: EndReason.NOT_AUTHORIZED,
    ReasonCode.SERVER_BUSY: EndReason.KAFKA_UNAVAILABLE,
    ReasonCode.SERVER_SHUTTING_DOWN: EndReason.SERVER_SHUTTING_DOWN,
    ReasonCode.USE_ANOTHER_SERVER: EndReason.USE_ANOTHER_SERVER,
    ReasonCode.KEEP_ALIVE_TIMEOUT: EndReason.KEEPALIVE_TIMEOUT,
    ReasonCode.SESSION_TAKEN_OVER: EndReason.TAKEN_OVER,
    ReasonCode.ADMINISTRATIVE_ACTION: EndReason.KICKED,
    ReasonCode.PACKET_TOO_LARGE: EndReason.PACKET_TOO_LARGE,
    ReasonCode.MESSAGE_RATE_TOO_HIGH: EndReason.QUOTA_EXCEEDED,
    ReasonCode.QUOTA_EXCEEDED: EndReason.QUOTA_EXCEEDED,
}


def end_reason(reason_code: int) -> EndReason:
    """The end reason of a connection that ended with this reason code; what has none of its own is a protocol error."""
    return _END_REASONS.get(ReasonCode(reason_code), EndReason.PROTOCOL_ERROR)


@dataclass(slots=True)
class Grant:
    """What an accepted CONNECT gets. `assigned_client_id` is the identifier that the server made up, if it did;
    `unreleased` are the QoS 2 packet identifiers of the session that wait for PUBREL.
    """

    assigned_client_id: str | None = None
    session_present: bool = False
    session_expiry_seconds: int = 0
    unreleased: list[int] = field(default_factory=list)


@dataclass(slots=True)
class SessionLimits:
    """What every connection of a listener is held to; the settings of the same names."""

    connect_timeout_seconds: float
    keep_alive_max_seconds: int
    publish_bytes_max: int
    receive_maximum: int
    topic_alias_maximum: int
