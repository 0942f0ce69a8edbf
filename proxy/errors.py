"""The one tree of errors that the project raises on purpose.

Anything else that escapes is a bug of ours. What never belongs here: wording for one caller only.
"""

from enum import StrEnum


class ProxyError(Exception):
    """Base of every error that the project raises on purpose."""


class ConfigError(ProxyError):
    """A setting, rule or file that the operator wrote cannot be used; the message names it."""

    def __init__(self, setting: str, message: str) -> None:
        super().__init__(f"{setting}: {message}")
        self.setting = setting
        self.message = message


class MqttError(ProxyError):
    """The peer broke the protocol. Raised by the codec, caught by the session, never seen outside it."""

    def __init__(self, reason: int, message: str) -> None:
        super().__init__(message)
        self.reason = reason


class AuthError(ProxyError):
    """A device may not connect; `reason` is the MQTT 5.0 reason code that says why."""

    def __init__(self, reason: int, message: str) -> None:
        super().__init__(message)
        self.reason = reason


class Refusal(StrEnum):
    """Why Kafka can never store a record, however often it is sent."""

    TOO_LARGE = "too_large"
    NOT_AUTHORIZED = "not_authorized"
    INVALID = "invalid"
    UNKNOWN_TOPIC = "unknown_topic"


class GatewayError(ProxyError):
    """Kafka did not take a record.

    With a `refusal` it was not stored and never can be. Without one the outcome is unknown, or it was not stored but
    may be when the device sends it again.
    """

    def __init__(self, message: str, refusal: Refusal | None = None) -> None:
        super().__init__(message)
        self.refusal = refusal

    @property
    def retriable(self) -> bool:
        return self.refusal is None


class SessionError(ProxyError):
    """The application asked a connection for something that its state does not allow."""


class SendWindowFull(SessionError):
    """As many messages are in flight as the device takes."""


class MessageTooLarge(SessionError):
    """The device does not take a packet of this size."""
