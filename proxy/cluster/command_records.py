"""Commands as a backend writes them into Kafka: a record becomes a `Command`, or an error. Pure.

`msg_down` is a message: the key is the MQTT topic, the value the payload, headers say for whom and how. `kick_out` and
`acl_clean` are JSON objects that name clients. What the system before us sent is understood as it is.
"""

import json
from collections.abc import Callable, Iterable
from typing import Any, Final

from proxy import limits
from proxy.cluster.commands import Command, Message, Selector
from proxy.errors import MqttError, ProxyError
from proxy.mqtt.topics import decode_text, parse_topic_name

#: Whose a topic is, when only its name says so; None: it is nobody's in particular.
Owner = Callable[[str], str | None]
Headers = Iterable[tuple[str, bytes]]

_QOS: Final = {b"": 0, b"0": 0, b"1": 1, b"2": 2}
_FLAGS: Final = {b"": False, b"0": False, b"false": False, b"1": True, b"true": True}
#: Headers that say something to us; all others are user properties.
_OURS: Final = frozenset({"qos", "clientid", "username", "retain", "expiry_ms", "id"})
#: Names of one and the same field.
_CLIENT_ID: Final = ("clientid", "client_id")
_PRODUCT_KEY: Final = ("productKey", "product_key")
_DEVICE_NAME: Final = ("deviceName", "device_name")


class MalformedCommand(ProxyError):
    """A record that is no command; the message says why."""


def command_id(place: str, headers: Headers) -> str:
    """What the sender calls the command, else its place in Kafka."""
    given = dict(headers).get("id") or b""
    return given[: limits.COMMAND_ID_BYTES_MAX].decode(errors="replace") or place


def parse_deliver(
    place: str, key: bytes | None, value: bytes | None, headers: Headers, timestamp_ms: int, owner: Owner
) -> Command:
    """A record of `msg_down`. Raises MalformedCommand."""
    headers = list(headers)
    ours = {name: content or b"" for name, content in headers if name in _OURS}
    topic = _topic(key)
    selector = Selector(_header_text(ours, "clientid"), _header_text(ours, "username"))
    if selector == Selector():
        selector = Selector(username=owner(topic))
    message = Message(
        topic,
        value or b"",
        _one_of(_QOS, ours, "qos", "0, 1 or 2"),
        _one_of(_FLAGS, ours, "retain", "true or false"),
        _user_properties(headers),
    )
    expiry_ms = _number(ours, "expiry_ms")
    expires_at_ms = timestamp_ms + expiry_ms if expiry_ms else 0
    return Command(command_id(place, headers), "deliver", selector, expires_at_ms, message)


def parse_selection(place: str, kind: str, value: bytes | None, headers: Headers) -> Command:
    """A record of `kick_out` or `acl_clean`. Raises MalformedCommand."""
    if not value:
        raise MalformedCommand("the record has no value")
    try:
        fields = json.loads(value)
    except (ValueError, RecursionError) as error:
        raise MalformedCommand(f"not JSON: {error}") from None
    if not isinstance(fields, dict):
        raise MalformedCommand("not a JSON object")
    selector = Selector(_field(fields, _CLIENT_ID), _username(fields))
    if selector == Selector():
        raise MalformedCommand("names nobody: give username, productKey and deviceName, or clientid")
    return Command(command_id(place, headers), kind, selector)


def device_username(product_key: str, device_name: str) -> str:
    """The user name that a device of a product has."""
    return f"{device_name}&{product_key}"


def _topic(key: bytes | None) -> str:
    if not key:
        raise MalformedCommand("the record has no key: it is the MQTT topic")
    if len(key) > limits.MQTT_TEXT_BYTES_MAX:
        raise MalformedCommand(f"the key has {len(key)} bytes, an MQTT topic at most {limits.MQTT_TEXT_BYTES_MAX}")
    try:
        return parse_topic_name(key).name
    except MqttError as error:
        raise MalformedCommand(f"the key is no MQTT topic: {error}") from None


def _header_text(ours: dict[str, bytes], name: str) -> str | None:
    try:
        return decode_text(ours.get(name, b"")) or None
    except MqttError as error:
        raise MalformedCommand(f"header {name}: {error}") from None


def _one_of(known: dict[bytes, Any], ours: dict[str, bytes], name: str, wording: str) -> Any:
    given = ours.get(name, b"").strip().lower()
    if given not in known:
        raise MalformedCommand(f"header {name} should be {wording}, not {given[:20].decode(errors='replace')}")
    return known[given]


def _number(ours: dict[str, bytes], name: str) -> int:
    given = ours.get(name, b"").strip()
    # As many digits as milliseconds of three centuries have.
    if given and not (given.isdigit() and len(given) <= 13):
        raise MalformedCommand(f"header {name} should be milliseconds, not {given[:20].decode(errors='replace')}")
    return int(given or b"0")


def _user_properties(headers: list[tuple[str, bytes]]) -> list[tuple[str, str]]:
    """What is no text, as the headers of a tracing library may be, cannot be told to a device and is left out."""
    found = []
    for name, content in headers:
        if name in _OURS:
            continue
        try:
            pair = decode_text(name.encode()), decode_text(content or b"")
        except (MqttError, UnicodeEncodeError):
            continue
        if max(len(name.encode()), len(content or b"")) <= limits.MQTT_TEXT_BYTES_MAX:
            found.append(pair)
    if len(found) > limits.HEADERS_PER_RECORD_MAX:
        raise MalformedCommand(f"{len(found)} headers, at most {limits.HEADERS_PER_RECORD_MAX}")
    return found


def _field(fields: dict[str, Any], names: tuple[str, ...]) -> str | None:
    """An empty text is as good as none."""
    for name in names:
        value = fields.get(name)
        if value is None or value == "":
            continue
        if not isinstance(value, str):
            raise MalformedCommand(f"{name} should be text")
        try:
            return decode_text(value.encode())
        except (MqttError, UnicodeEncodeError) as error:
            raise MalformedCommand(f"{name}: {error}") from None
    return None


def _username(fields: dict[str, Any]) -> str | None:
    username, product_key, device_name = (
        _field(fields, names) for names in (("username",), _PRODUCT_KEY, _DEVICE_NAME)
    )
    if product_key is None and device_name is None:
        return username
    if product_key is None or device_name is None:
        raise MalformedCommand("productKey and deviceName go together")
    if username not in {None, device_username(product_key, device_name)}:
        raise MalformedCommand("username is not that of productKey and deviceName")
    return device_username(product_key, device_name)
