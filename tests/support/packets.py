"""Hypothesis strategies for packets: everything that the two standards allow on the wire, and little of everything.

`packets_of(version)` are all packets, `client_packets(version)` those that a client may send after CONNACK. Strategies
are made once: making one costs more than an example of it.
"""

import os
from functools import cache
from typing import Final

from hypothesis import settings
from hypothesis import strategies as st

from proxy.mqtt import packets
from proxy.mqtt.packets import (
    MQTT_5_0,
    Ack,
    Auth,
    Connack,
    Connect,
    Disconnect,
    Packet,
    Pingreq,
    Pingresp,
    Properties,
    PropertyValue,
    Publish,
    Suback,
    Subscribe,
    Subscription,
    Unsuback,
    Unsubscribe,
    Will,
)
from proxy.mqtt.topics import TopicName

#: Reason codes that each packet may carry, as tables 3-4 to 3-11 of MQTT 5.0 have them.
_RECEIVED: Final = (0x00, 0x10, 0x80, 0x83, 0x87, 0x90, 0x91, 0x97, 0x99)
_RELEASED: Final = (0x00, 0x92)
REASON_CODES: Final[dict[int, tuple[int, ...]]] = {
    packets.PUBACK: _RECEIVED,
    packets.PUBREC: _RECEIVED,
    packets.PUBREL: _RELEASED,
    packets.PUBCOMP: _RELEASED,
    packets.DISCONNECT: (
        0x00, 0x04, 0x80, 0x81, 0x82, 0x83, 0x87, 0x89, 0x8B, 0x8C, 0x8D, 0x8E, 0x8F, 0x90, 0x93, 0x94, 0x95, 0x96,
        0x97, 0x98, 0x99, 0x9A, 0x9B, 0x9C, 0x9D, 0x9E, 0x9F, 0xA0, 0xA1, 0xA2,
    ),
    packets.AUTH: (0x00, 0x18, 0x19),
}  # fmt: skip


#: How many times the examples of the core tests; more than once, and they are new ones in every run.
TIMES: Final = int(os.environ.get("WIRE_EXAMPLES_TIMES", "1"))


def examples(count: int) -> settings:
    """So many, and the same ones in every run: a failure is the fault of the change that it comes with. A deadline for
    each would fail on a busy machine and say nothing about the code.
    """
    return settings(
        max_examples=count * TIMES, derandomize=TIMES == 1, database=None, deadline=None, print_blob=TIMES > 1
    )


# ---- fields ----

u8 = st.integers(0, 0xFF)
u16 = st.integers(0, 0xFFFF)
u32 = st.integers(0, 0xFFFF_FFFF)
packet_ids = st.integers(1, 0xFFFF)
flags = st.booleans()
binaries = st.binary(max_size=40)
payloads = st.one_of(st.binary(max_size=20), st.binary(min_size=100, max_size=300))
_characters = st.characters(exclude_categories=["Cs"], exclude_characters="\0")
texts = st.text(_characters, max_size=20)
_levels = st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\0+#/"), max_size=8)


@cache
@st.composite
def topic_names(draw: st.DrawFn) -> TopicName:
    name = draw(st.lists(_levels, min_size=1, max_size=4).map("/".join).filter(bool))
    return TopicName(name, name.encode())


@cache
@st.composite
def topic_filters(draw: st.DrawFn) -> str:
    levels = draw(st.lists(st.one_of(_levels, st.just("+")), min_size=1, max_size=4))
    if draw(flags):
        levels.append("#")
    return "/".join(levels) or "a"


def _values(kind: packets.PropertyKind) -> st.SearchStrategy[PropertyValue]:
    positive = {"positive2": 0xFFFF, "positive4": 0xFFFF_FFFF}
    if kind.wire in positive:
        return st.integers(1, positive[kind.wire])
    return {
        "flag": st.integers(0, 1),
        "byte2": u16,
        "byte4": u32,
        "text": texts,
        "topic": topic_names().map(lambda topic: topic.name),
        "binary": binaries,
        "pair": st.lists(st.tuples(texts, texts), min_size=1, max_size=3),
        "varint": st.lists(st.integers(1, 268_435_455), min_size=1, max_size=1),
    }[kind.wire]


@cache
@st.composite
def properties(draw: st.DrawFn, packet_type: int, version: int) -> Properties:
    """Those that may stand in this packet; none before 5.0."""
    if version < MQTT_5_0:
        return {}
    allowed = sorted(identifier for identifier, kind in packets.PROPERTIES.items() if packet_type in kind.packets)
    chosen = draw(st.lists(st.sampled_from(allowed), unique=True, max_size=4))
    found = {identifier: draw(_values(packets.PROPERTIES[identifier])) for identifier in chosen}
    if packet_type == packets.CONNECT and packets.AUTHENTICATION_METHOD not in found:
        found.pop(packets.AUTHENTICATION_DATA, None)
    return found


@cache
def _reason_codes(packet_type: int, version: int) -> st.SearchStrategy[int]:
    return st.sampled_from(REASON_CODES[packet_type]) if version == MQTT_5_0 else st.just(0)


# ---- packets ----


@cache
@st.composite
def wills(draw: st.DrawFn, version: int) -> Will:
    will_properties = draw(properties(packets.WILL, version))
    return Will(draw(topic_names()), draw(binaries), draw(st.integers(0, 2)), draw(flags), will_properties)


@cache
@st.composite
def connects(draw: st.DrawFn, version: int) -> Connect:
    username = draw(st.none() | texts)
    may_have_password = version == MQTT_5_0 or username is not None
    return Connect(
        version,
        draw(texts),
        draw(flags),
        draw(u16),
        username,
        draw(st.none() | binaries) if may_have_password else None,
        draw(st.none() | wills(version)),
        draw(properties(packets.CONNECT, version)),
    )


@cache
def connacks(version: int) -> st.SearchStrategy[Connack]:
    return st.builds(Connack, flags, u8, properties(packets.CONNACK, version))


@cache
@st.composite
def publishes(draw: st.DrawFn, version: int, qos_max: int = 2) -> Publish:
    qos = draw(st.integers(0, qos_max))
    return Publish(
        draw(topic_names()),
        draw(payloads),
        qos,
        draw(flags),
        bool(qos) and draw(flags),
        draw(packet_ids) if qos else 0,
        draw(properties(packets.PUBLISH, version)),
    )


@cache
@st.composite
def acks(draw: st.DrawFn, version: int) -> Ack:
    packet_type = draw(st.sampled_from([packets.PUBACK, packets.PUBREC, packets.PUBREL, packets.PUBCOMP]))
    reason_code = draw(_reason_codes(packet_type, version))
    return Ack(packet_type, draw(packet_ids), reason_code, draw(properties(packet_type, version)))


@cache
def _subscriptions(version: int) -> st.SearchStrategy[Subscription]:
    options = (flags, flags, st.integers(0, 2)) if version == MQTT_5_0 else ()
    return st.builds(Subscription, topic_filters(), st.integers(0, 2), *options)


@cache
def subscribes(version: int) -> st.SearchStrategy[Subscribe]:
    entries = st.lists(_subscriptions(version), min_size=1, max_size=3)
    return st.builds(Subscribe, packet_ids, entries, properties(packets.SUBSCRIBE, version))


@cache
def unsubscribes(version: int) -> st.SearchStrategy[Unsubscribe]:
    entries = st.lists(topic_filters(), min_size=1, max_size=3)
    return st.builds(Unsubscribe, packet_ids, entries, properties(packets.UNSUBSCRIBE, version))


@cache
def subacks(version: int) -> st.SearchStrategy[Suback]:
    return st.builds(Suback, packet_ids, st.lists(u8, min_size=1, max_size=3), properties(packets.SUBACK, version))


@cache
def unsubacks(version: int) -> st.SearchStrategy[Unsuback]:
    codes = st.lists(u8, min_size=1, max_size=3) if version == MQTT_5_0 else st.just([])
    return st.builds(Unsuback, packet_ids, codes, properties(packets.UNSUBACK, version))


@cache
def disconnects(version: int) -> st.SearchStrategy[Disconnect]:
    codes = _reason_codes(packets.DISCONNECT, version)
    return st.builds(Disconnect, codes, properties(packets.DISCONNECT, version))


@cache
def auths() -> st.SearchStrategy[Auth]:
    return st.builds(Auth, _reason_codes(packets.AUTH, MQTT_5_0), properties(packets.AUTH, MQTT_5_0))


@cache
def client_packets(version: int, qos_max: int = 2) -> st.SearchStrategy[Packet]:
    """What a client may send once it is connected."""
    return st.one_of(
        publishes(version, qos_max),
        subscribes(version),
        unsubscribes(version),
        acks(version),
        st.just(Pingreq()),
        disconnects(version),
    )


@cache
def packets_of(version: int) -> st.SearchStrategy[Packet]:
    """Every packet of this version, in both directions."""
    return st.one_of(
        client_packets(version),
        connects(version),
        connacks(version),
        subacks(version),
        unsubacks(version),
        st.just(Pingresp()),
        *([auths()] if version == MQTT_5_0 else []),
    )
