"""The one tree of errors that the project raises on purpose.

Anything else that escapes is a bug of ours. What never belongs here: wording for one caller only.
"""


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


class GatewayError(ProxyError):
    """Kafka did not take a record.

    `retriable` False: it was not stored and never can be, the cause is in the message. True: the outcome is unknown,
    or it was not stored but may be when the device sends it again.
    """

    def __init__(self, message: str, *, retriable: bool) -> None:
        super().__init__(message)
        self.retriable = retriable


class SessionError(ProxyError):
    """The application asked a connection for something that its state does not allow."""
