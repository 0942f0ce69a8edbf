"""Topic aliases of 5.0: what a connection remembers of them."""

import pytest

from proxy.mqtt.packets import MQTT_5_0
from proxy.session.events import EndReason
from tests.support.wire import CONNECT, TOPIC_ALIAS_MAXIMUM, Session, proves


def define(alias: int, topic: str) -> str:
    return f'30 {{ "{topic}" {{ 23 {alias:04x} }} }}'


def use(alias: int) -> str:
    return define(alias, "")


def topics(session: Session, notation: str) -> list[str]:
    return [event.topic.name for event in session.receive(notation)]


@proves("5.0:MQTT-3.2.2-17", "5.0:MQTT-3.3.2-12")
def test_each_alias_has_its_topic() -> None:
    session = Session(MQTT_5_0)
    assert topics(session, define(1, "a") + define(3, "b/c") + use(1) + use(3) + use(1)) == [
        "a",
        "b/c",
        "a",
        "b/c",
        "a",
    ]


@proves("5.0:MQTT-3.3.2-12")
def test_an_alias_gets_another_topic() -> None:
    session = Session(MQTT_5_0)
    assert topics(session, define(1, "a") + define(2, "a") + define(1, "b") + use(1) + use(2)) == [
        "a",
        "a",
        "b",
        "b",
        "a",
    ]


def test_a_topic_name_without_alias_changes_none() -> None:
    session = Session(MQTT_5_0)
    assert topics(session, define(1, "a") + '30 { "b" 00 }' + use(1)) == ["a", "b", "a"]


@proves("5.0:MQTT-3.3.2-7")
def test_an_alias_ends_with_its_connection() -> None:
    first, second = Session(MQTT_5_0), Session(MQTT_5_0)
    first.receive(define(1, "a"))
    assert second.receive(use(1)) == []
    second.assert_sent("e0 ?? 82 *")
    assert second.protocol.end == EndReason.PROTOCOL_ERROR


@proves("5.0:MQTT-3.2.2-17", "5.0:MQTT-3.2.2-18", "5.0:MQTT-3.3.2-9")
@pytest.mark.parametrize("maximum", [0, TOPIC_ALIAS_MAXIMUM, 65_534])
def test_no_alias_beyond_what_was_announced(maximum: int) -> None:
    session = Session(MQTT_5_0, CONNECT, topic_alias_maximum=maximum)
    if maximum:
        assert topics(session, define(maximum, "a") + use(maximum)) == ["a", "a"]
    assert session.receive(define(maximum + 1, "a")) == []
    session.assert_sent("e0 ?? 94 *")
    assert session.protocol.end == EndReason.PROTOCOL_ERROR


def test_what_was_decided_for_a_topic_name_comes_with_its_alias() -> None:
    session = Session(MQTT_5_0)
    (first,) = session.receive(define(1, "a"))
    first.topic.decision = "somewhere"
    (again,) = session.receive(use(1))
    assert again.topic.decision == "somewhere"


def test_held_messages_are_resolved_in_their_order() -> None:
    session = Session(MQTT_5_0)
    session.protocol.hold()
    session.receive(define(1, "a") + use(1) + define(1, "b") + use(1))
    events = session.protocol.resume(session.now)
    assert [event.topic.name for event in events] == ["a", "a", "b", "b"]


def test_aliases_are_forgotten_when_the_connection_ends() -> None:
    session = Session(MQTT_5_0)
    session.receive(define(1, "a") + "e0 00")
    assert session.protocol._aliases is None
