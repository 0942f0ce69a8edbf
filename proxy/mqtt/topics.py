"""Topic names and topic filters: what is valid, and what matches what (MQTT section 4.7)."""

from proxy.errors import MqttError

_TOPIC_FILTER_INVALID = 0x8F
_TOPIC_NAME_INVALID = 0x90
_MALFORMED_PACKET = 0x81


class TopicName:
    """A topic name that was checked once.

    `decision` belongs to whoever routes: what was decided for this name, kept where the next PUBLISH finds it without a
    look-up. The codec never touches it.
    """

    __slots__ = ("decision", "name", "raw")

    def __init__(self, name: str, raw: bytes) -> None:
        self.name = name
        self.raw = raw
        self.decision: object | None = None

    def __eq__(self, other: object) -> bool:
        return isinstance(other, TopicName) and self.raw == other.raw

    def __hash__(self) -> int:
        return hash(self.raw)

    def __repr__(self) -> str:
        return f"TopicName({self.name!r})"


def decode_text(raw: bytes) -> str:
    """UTF-8 as MQTT wants it: no surrogates, no U+0000; a BOM is kept [MQTT-1.5.4-1, -2, -3].

    Raises MqttError.
    """
    try:
        text = raw.decode()
    except UnicodeDecodeError as error:
        raise MqttError(_MALFORMED_PACKET, f"text is not UTF-8: {error.reason} at byte {error.start}") from None
    if "\0" in text:
        raise MqttError(_MALFORMED_PACKET, "text contains U+0000")
    return text


def parse_topic_name(raw: bytes) -> TopicName:
    """A topic name from its bytes: text without wildcards [MQTT-3.3.2-1, -2].

    Empty ones pass: 5.0 uses them with a topic alias, and the session knows. Raises MqttError.
    """
    name = decode_text(raw)
    if "+" in name or "#" in name:
        raise MqttError(_TOPIC_NAME_INVALID, "topic name contains a wildcard")
    return TopicName(name, raw)


def parse_topic_filter(raw: bytes) -> str:
    """A topic filter from its bytes: not empty [MQTT-4.7.3-1], `+` and `#` alone in their level, `#` only in the last
    [MQTT-4.7.1-1, -2]; 3.1.1: [MQTT-4.7.1-2, -3]. Raises MqttError.
    """
    topic_filter = decode_text(raw)
    levels = topic_filter.split("/")
    if not topic_filter:
        raise MqttError(_TOPIC_FILTER_INVALID, "topic filter is empty")
    if "#" in levels[:-1] or any(len(level) > 1 and ("+" in level or "#" in level) for level in levels):
        raise MqttError(_TOPIC_FILTER_INVALID, "topic filter has a wildcard where none may stand")
    return topic_filter
