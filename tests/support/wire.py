"""What the tests of the wire share: the notation for bytes, the vectors, the normative statements, one session.

What is right is in `tests/vectors`; nothing here knows it.

Bytes are written as a reader of the standard sees them, blanks anywhere:

    0a1f     hexadecimal
    (hi)     text as it is
    "a/b"    a UTF-8 string: two bytes of length, then the text
    < … >    two bytes of length, then what is inside
    { … }    a variable byte integer with the length, then what is inside
    [x] [x|y] [x|y|z]  x in MQTT 5.0, y (or nothing) in 3.1.1, z (or what 3.1.1 has) in 3.1
    P        the protocol name and level of CONNECT: "MQIsdp" 03, "MQTT" 04 or "MQTT" 05
    V        the protocol level alone
    …*9      the element before it, nine times
    ?? and * in an answer: any byte, any bytes
"""

import re
import tomllib
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any, Final, TypeVar

from proxy.mqtt import packets
from proxy.mqtt.encode import encode_varint
from proxy.mqtt.framing import Framer
from proxy.mqtt.packets import SESSION_EXPIRY_INTERVAL, Connect, Publish, Subscribe, Unsubscribe
from proxy.mqtt.topics import TopicName
from proxy.session.events import Event, Grant, Heard, SessionLimits
from proxy.session.protocol import ServerProtocol

VECTORS: Final = Path(__file__).parent.parent / "vectors"
VERSIONS: Final = (packets.MQTT_3_1, packets.MQTT_3_1_1, packets.MQTT_5_0)
#: 3.1 is no OASIS standard and numbers no statements: its vectors prove none.
STANDARDS: Final = {packets.MQTT_3_1: "3.1", packets.MQTT_3_1_1: "3.1.1", packets.MQTT_5_0: "5.0"}
#: The limits that the vectors were written for.
PACKET_BYTES_MAX: Final = 100_000
RECEIVE_MAXIMUM: Final = 4
TOPIC_ALIAS_MAXIMUM: Final = 3
KEEP_ALIVE_MAX_SECONDS: Final = 3_600
CONNECT_TIMEOUT_SECONDS: Final = 10.0
EXPIRY_SECONDS_MAX: Final = 604_800
#: A client that asks for nothing special.
CONNECT: Final = '10 { P 02 003c [00] "dev" }'

# ---- the notation ----

_ANY_BYTE: Final = -1
_ANY_BYTES: Final = -2
_TOKEN: Final = re.compile(r'\s+|[0-9a-f]{2}|"[^"]*"|\([^)]*\)|\?\?|\*\d+|[*{}<>\[\]|PV]')


def octets(notation: str, version: int = packets.MQTT_3_1_1) -> bytes:
    """The bytes of a notation, for one protocol version."""
    return bytes(_elements(notation, version))


def pattern(notation: str, version: int) -> re.Pattern[bytes]:
    """A regular expression for a notation that may contain wildcards."""
    wild = {_ANY_BYTE: b".", _ANY_BYTES: b".*"}
    return re.compile(
        b"".join(
            wild[element] if element < 0 else re.escape(bytes((element,))) for element in _elements(notation, version)
        ),
        re.DOTALL,
    )


def _elements(notation: str, version: int) -> list[int]:
    tokens = []
    position = 0
    while position < len(notation):
        match = _TOKEN.match(notation, position)
        if match is None:
            raise ValueError(f"not in the notation: {notation[position:]!r}")
        position = match.end()
        if match[0].strip():
            tokens.append(match[0])
    tokens.reverse()
    elements = _group(tokens, version, "")
    if tokens:
        raise ValueError(f"{tokens[-1]} closes nothing in {notation!r}")
    return elements


def _group(tokens: list[str], version: int, closing: str) -> list[int]:
    """Takes tokens up to the one that closes this group."""
    elements: list[int] = []
    last: list[int] = []
    while tokens and tokens[-1] not in {"}", ">", "]", "|"}:
        token = tokens.pop()
        repeats = token[0] == "*" and len(token) > 1
        last = last * (int(token[1:]) - 1) if repeats else _element(token, tokens, version)
        elements += last
    if closing and not (tokens and tokens[-1] in closing):
        raise ValueError(f"{closing} is missing")
    return elements


def _element(token: str, tokens: list[str], version: int) -> list[int]:
    match token[0]:
        case '"':
            return _prefixed(list(token[1:-1].encode()))
        case "(":
            return list(token[1:-1].encode())
        case "P":
            return [*_prefixed(list(b"MQIsdp" if version == packets.MQTT_3_1 else b"MQTT")), version]
        case "V":
            return [version]
        case "*":
            return [_ANY_BYTES]
        case "?":
            return [_ANY_BYTE]
        case "{":
            inside = _closed(tokens, version, "}")
            return [*encode_varint(len(inside)), *inside]
        case "<":
            return _prefixed(_closed(tokens, version, ">"))
        case "[":
            return _choice(tokens, version)
        case _:
            return [int(token, 16)]


def _closed(tokens: list[str], version: int, closing: str) -> list[int]:
    inside = _group(tokens, version, closing)
    tokens.pop()
    return inside


def _choice(tokens: list[str], version: int) -> list[int]:
    five, three, oldest = _group(tokens, version, "]|"), [], None
    if tokens.pop() == "|":
        three = _group(tokens, version, "]|")
        oldest = _closed(tokens, version, "]") if tokens.pop() == "|" else None
    if version == packets.MQTT_3_1 and oldest is not None:
        return oldest
    return five if version == packets.MQTT_5_0 else three


def _prefixed(inside: list[int]) -> list[int]:
    return [len(inside) >> 8, len(inside) & 0xFF, *inside]


# ---- the normative statements ----


def statements() -> frozenset[str]:
    """All of them, as in `5.0:MQTT-3.3.2-2`."""
    found = set()
    standard = ""
    for line in (VECTORS / "statements.txt").read_text().splitlines():
        if line.startswith("#"):
            standard = line[1:].strip()
        else:
            section, _, numbers = line.partition(":")
            found |= {f"{standard}:MQTT-{section}-{number}" for number in numbers.split()}
    return frozenset(found)


_STATEMENTS: Final = statements()
Test = TypeVar("Test", bound=Callable[..., Any])


def proves(*ids: str) -> Callable[[Test], Test]:
    """Names the statements that a test holds the code to, where a vector cannot."""
    unknown = set(ids) - _STATEMENTS
    if unknown:
        raise ValueError(f"no such statement: {', '.join(sorted(unknown))}")

    def mark(test: Test) -> Test:
        test.proves = ids  # type: ignore[attr-defined]
        return test

    return mark


# ---- the vectors ----


@dataclass(frozen=True)
class Vector:
    """One packet from a client, for one protocol version, and what it leads to."""

    packet_type: str
    name: str
    version: int
    proves: tuple[str, ...]
    data: bytes
    #: The reason code of 5.0 that it is refused with, whatever the version; None when it is accepted.
    reason: int | None
    #: Who refuses it: framing, codec or session.
    by: str
    #: What the codec reads, if accepted: some fields of the packet.
    packet: dict[str, Any]
    #: Whether encoding the packet gives the same bytes.
    canonical: bool
    #: The topic name that the session makes of it, where the codec cannot know.
    means: str | None
    #: The CONNECT before it; empty when there is none.
    after: bytes
    #: What the server sends.
    answer: re.Pattern[bytes]
    #: Why the connection ends, if it was accepted and ends.
    end: str | None

    def __str__(self) -> str:
        return f"{self.packet_type}, {STANDARDS[self.version]}: {self.name}"


_KEYS: Final = {
    "name",
    "only",
    "proves",
    "bytes",
    "reason",
    "by",
    "packet",
    "canonical",
    "means",
    "after",
    "answer",
    "end",
}


@cache
def vectors() -> list[Vector]:
    """All vectors of all packet types."""
    found: list[Vector] = []
    for path in sorted(VECTORS.glob("*.toml")):
        lines = tomllib.loads(path.read_text())
        for outcome in ("accepted", "refused"):
            for line in lines.pop(outcome, []):
                found += _vectors_of(path.stem, line, refused=outcome == "refused")
        if lines:
            raise ValueError(f"{path.name}: what is {', '.join(lines)}?")
    return found


def _vectors_of(packet_type: str, line: dict[str, Any], *, refused: bool) -> Iterator[Vector]:
    if unknown := line.keys() - _KEYS:
        raise ValueError(f"{packet_type}, {line['name']}: what is {', '.join(unknown)}?")
    ids = line.get("proves", "").split()
    versions = _versions(line)
    if strange := [
        each for each in ids if each not in _STATEMENTS or each[: each.index(":")] not in map(STANDARDS.get, versions)
    ]:
        raise ValueError(f"{packet_type}, {line['name']}: cannot prove {', '.join(strange)}")
    for version in versions:
        after = line.get("after", "" if packet_type == "CONNECT" else CONNECT)
        yield Vector(
            packet_type,
            line["name"],
            version,
            tuple(each for each in ids if each.startswith(STANDARDS[version] + ":")),
            octets(line["bytes"], version),
            line["reason"] if refused else None,
            line.get("by", "codec"),
            line.get("packet", {}),
            line.get("canonical", True),
            line.get("means"),
            octets(after, version),
            pattern(line.get("answer", _usual_answer(packet_type, line, after)), version),
            line.get("end"),
        )


def _versions(line: dict[str, Any]) -> tuple[int, ...]:
    only = line.get("only", VERSIONS)
    return (only,) if isinstance(only, int) else tuple(only)


def _usual_answer(packet_type: str, line: dict[str, Any], after: str) -> str:
    if "reason" in line:
        # With a reason string, as CONNECT does not say that it wants none.
        return f"[e0 ?? {line['reason']:02x} ?? 1f *]" if after else ""
    return "20 ?? 00 00 *" if packet_type == "CONNECT" else ""


# ---- packets ----


def framed(data: bytes, packet_bytes_max: int = packets.PACKET_BYTES_MAX) -> Framer:
    """The framer, standing at the only packet in `data`."""
    framer = Framer(packet_bytes_max)
    framer.feed(data)
    assert framer.next_packet(), "no whole packet"
    assert not framer.unread_bytes, f"{framer.unread_bytes} bytes follow the packet"
    return framer


def assert_fields(expected: Any, actual: Any, version: int) -> None:
    """Compares what a vector says with what was decoded: of a packet only the fields that it names, of properties all.
    Bytes are in the notation.
    """
    if isinstance(actual, bytes):
        assert actual == octets(expected, version)
    elif isinstance(actual, list | tuple):
        assert len(actual) == len(expected)
        for one, other in zip(expected, actual, strict=True):
            assert_fields(one, other, version)
    elif isinstance(actual, dict):
        named = {packets.PROPERTIES[identifier].name: value for identifier, value in actual.items()}
        assert named.keys() == expected.keys()
        for name, value in named.items():
            assert_fields(expected[name], value, version)
    elif isinstance(expected, dict):
        for name, value in expected.items():
            assert_fields(value, getattr(actual, name), version)
    else:
        assert (actual.name if isinstance(actual, TopicName) else actual) == expected


# ---- a session ----


def session_limits(**changed: float) -> SessionLimits:
    """Those that the vectors were written for, some of them changed."""
    return SessionLimits(
        **{
            "connect_timeout_seconds": CONNECT_TIMEOUT_SECONDS,
            "keep_alive_max_seconds": KEEP_ALIVE_MAX_SECONDS,
            "publish_bytes_max": PACKET_BYTES_MAX,
            "receive_maximum": RECEIVE_MAXIMUM,
            "topic_alias_maximum": TOPIC_ALIAS_MAXIMUM,
        }
        | changed
    )


def answer(protocol: ServerProtocol, event: Event) -> list[Event]:
    """Does with an event what the product does while Kafka takes everything at once."""
    match event:
        case Connect():
            assigned = None if event.client_id else "mqk-" + "0" * 20
            asked = event.properties.get(SESSION_EXPIRY_INTERVAL, 0)
            return protocol.accept_connect(Grant(assigned, session_expiry_seconds=min(asked, EXPIRY_SECONDS_MAX)))
        case Publish() if event.qos:
            protocol.settle_publishes([event.packet_id], 0)
        case Subscribe():
            protocol.acknowledge_subscribe(event.packet_id, [0x87] * len(event.subscriptions))
        case Unsubscribe():
            protocol.acknowledge_unsubscribe(event.packet_id, [0x11] * len(event.topic_filters))
    return []


class Session:
    """A `ServerProtocol` with a clock that the test turns, told and asked in the notation."""

    def __init__(self, version: int, connect: str = CONNECT, **limits: float) -> None:
        """`connect` is received and accepted; an empty one leaves the session as it is when a connection opens."""
        self.version = version
        self.now = 1_000.0
        self.heard = 0
        self.protocol = ServerProtocol(session_limits(**limits), self.now)
        if connect:
            self.receive(connect)
            self.protocol.accept_connect(Grant())
            self.sent()

    def octets(self, notation: str) -> bytes:
        return octets(notation, self.version)

    def receive(self, notation: str) -> list[Event]:
        """One read; the events that came of it."""
        return self.feed(self.octets(notation))

    def feed(self, data: bytes) -> list[Event]:
        """The same with bytes. That the device was heard is counted, and left out of the events."""
        events = self.protocol.receive_data(data, self.now)
        self.heard += sum(isinstance(event, Heard) for event in events)
        return [event for event in events if not isinstance(event, Heard)]

    def sent(self) -> bytes:
        """What is to be written now."""
        return b"".join(self.protocol.data_to_send())

    def assert_sent(self, notation: str) -> None:
        """Exactly this is to be written now."""
        sent = self.sent()
        assert pattern(notation, self.version).fullmatch(sent), f"sent {sent.hex(' ')}, not {notation}"
