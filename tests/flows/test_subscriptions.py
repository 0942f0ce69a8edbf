"""SUBSCRIBE and UNSUBSCRIBE: what is granted, when the device is told, and what its session brings along."""

import logging
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from proxy import limits
from proxy.errors import ConfigError
from proxy.flows.access import AccessSettings
from proxy.flows.reload import Reloader
from proxy.kafka.records import SessionState
from proxy.mqtt.packets import MQTT_3_1, MQTT_3_1_1, MQTT_5_0, Will
from proxy.mqtt.topics import TopicName
from proxy.policy.acl import PUBLISH, SUBSCRIBE
from tests.flows.harness import UP, Device, Replica, connected, puback, resuming
from tests.support.fakes import turn
from tests.support.wire import octets, proves

OPEN = AccessSettings(subscribe_default="allow")


@pytest.fixture
async def replica() -> AsyncIterator[Replica]:
    replica = Replica(access=OPEN)
    yield replica
    assert (replica.listener.bugs, replica.gateway.bugs) == (0, [])


def says(device: Device, notation: str) -> bytes:
    """What is answered at once."""
    device.send(octets(notation, device.version))
    return device.take()


def state(replica: Replica) -> SessionState:
    """The session state that was written last."""
    found = replica.log.records()[-1].state
    assert found is not None
    return found


SUBSCRIBE_A = '82 { 0001 [00] "a/#" 01 }'
SUBACK_A = "90 { 0001 [00] 01 }"


# ---- what is durable ----


async def test_without_a_session_the_log_is_not_asked(replica: Replica) -> None:
    device = connected(replica)
    written = len(replica.log.log)
    replica.log.hold()
    assert says(device, SUBSCRIBE_A) == octets(SUBACK_A)
    assert says(device, 'a2 { 0002 "a/#" }') == octets("b0 { 0002 }")
    assert len(replica.log.log) == written


@pytest.mark.parametrize("version", [MQTT_3_1_1, MQTT_5_0])
async def test_who_has_a_session_is_told_in_order_when_the_log_says_so(replica: Replica, version: int) -> None:
    device = resuming(replica, version=version)
    says(device, "c0 00")
    replica.log.hold()
    # The last one changes nothing, and waits its turn.
    assert (
        says(device, f'{SUBSCRIBE_A} 82 {{ 0002 [00] "b" 00 }} a2 {{ 0003 [00] "a/#" }} a2 {{ 0004 [00] "c" }}') == b""
    )
    replica.log.release(1)
    await turn()
    assert device.take() == octets(SUBACK_A, version)
    replica.log.release(1)
    await turn()
    assert device.take() == octets("90 { 0002 [00] 00 }", version)
    replica.log.release()
    await turn()
    assert device.take() == octets("b0 { 0003 [00] [00] } b0 { 0004 [00] [11] }", version)
    assert state(replica).subscriptions == [["b", 0]]


async def test_who_is_gone_before_the_log_says_so_is_not_told(replica: Replica) -> None:
    device = resuming(replica, version=MQTT_3_1_1)
    says(device, "c0 00")
    replica.log.hold()
    assert says(device, f'{SUBSCRIBE_A} a2 {{ 0002 "a/#" }}') == b""
    device.vanish()
    replica.log.release()
    await turn()
    assert device.take() == b""


# ---- sessions ----


@pytest.mark.parametrize("version", [MQTT_3_1, MQTT_3_1_1, MQTT_5_0])
@proves("3.1.1:MQTT-3.1.2-4", "5.0:MQTT-3.1.2-5")
async def test_they_come_back_with_the_session_on_any_replica(replica: Replica, version: int) -> None:
    other = Replica(access=OPEN, node="other", beside=replica)
    device = resuming(replica, version=version)
    says(device, '82 { 0001 [{ 0b 07 }] "a/+" [2e|02] "b" 01 }')
    kept = [["a/+", 0x2E, 7], ["b", 1, 7]] if version == MQTT_5_0 else [["a/+", 2], ["b", 1]]
    assert state(replica).subscriptions == kept
    device.vanish()
    assert len(replica.uplink.subscribers) == 0
    again = resuming(other, version=version)
    assert again.present is (version != MQTT_3_1)
    (client,) = other.uplink.clients.values()
    assert [each.packed() for each in client.matching("a/x")] == kept[:1]
    assert list(other.uplink.subscribers.find("b")) == [client]


async def test_a_takeover_here_hands_them_over(replica: Replica) -> None:
    older = resuming(replica)
    says(older, SUBSCRIBE_A)
    newer = resuming(replica)
    (client,) = replica.uplink.clients.values()
    assert (older.gone, newer.present, len(replica.uplink.subscribers)) == (True, True, 1)
    assert list(replica.uplink.subscribers.find("a")) == [client]


async def test_clean_start_has_none(replica: Replica) -> None:
    says(resuming(replica), SUBSCRIBE_A)
    resuming(replica, clean_start=True)
    assert len(replica.uplink.subscribers) == 0
    assert state(replica).subscriptions == []


async def test_what_comes_back_is_what_is_allowed_now(replica: Replica, tmp_path: Path) -> None:
    rules = tmp_path / "acl.conf"
    rules.write_text("allow subscribe user u b\n")
    other = Replica(access=AccessSettings(rules), node="other", beside=replica)
    device = resuming(replica, username="u")
    says(device, '82 { 0001 [00] "a" 01 "b" 01 }')
    device.vanish()
    resuming(other, username="u")
    assert state(replica).subscriptions == [["b", 1]]
    # Somebody else under the same client identifier.
    resuming(other, username="v")
    assert state(replica).subscriptions == []
    assert len(other.uplink.subscribers) == 0


async def test_what_is_no_subscription_is_left_out(replica: Replica, caplog: pytest.LogCaptureFixture) -> None:
    device = resuming(replica)
    says(device, SUBSCRIBE_A)
    (client,) = replica.uplink.clients.values()
    assert client.attachment is not None
    client.attachment.keep_subscriptions([["a/#", 1], ["b", "1"], 7])
    device.vanish()
    with caplog.at_level(logging.WARNING):
        resuming(replica)
    assert state(replica).subscriptions == [["a/#", 1]]
    assert [record.message for record in caplog.records] == ["subscription cannot be read"] * 2


# ---- bounds ----


@pytest.mark.parametrize(
    ("limit", "most"),
    [("SUBSCRIPTIONS_PER_CLIENT_MAX", 2), ("SUBSCRIPTION_BYTES_PER_CLIENT_MAX", 7), ("SUBSCRIPTION_LEVELS_MAX", 3)],
)
async def test_no_more_than_may_be(replica: Replica, monkeypatch: pytest.MonkeyPatch, limit: str, most: int) -> None:
    monkeypatch.setattr(limits, limit, most)
    device = connected(replica, version=MQTT_5_0)
    assert says(device, '82 { 0001 00 "a/b" 01 "c/d" 01 "x/y/z/z" 01 }') == octets("90 { 0001 00 01 01 97 }")
    # One that is there already takes no more room, and what is given up makes some.
    assert says(device, '82 { 0002 00 "a/b" 02 }') == octets("90 { 0002 00 02 }")
    says(device, 'a2 { 0003 00 "a/b" }')
    assert says(device, '82 { 0004 00 "e" 00 }') == octets("90 { 0004 00 00 }")


async def test_no_more_of_one_packet_than_may_be(replica: Replica, monkeypatch: pytest.MonkeyPatch) -> None:
    """Nor is anything asked about the rest, though nothing of it is granted."""
    monkeypatch.setattr(limits, "SUBSCRIPTIONS_PER_CLIENT_MAX", 2)
    asked: list[str] = []
    monkeypatch.setattr(replica.uplink.access, "allows_subscribe", lambda each, _who: asked.append(each))
    device = connected(replica, version=MQTT_5_0)
    assert says(device, '82 { 0001 00 "a" 01 "b" 01 "c" 01 "d" 01 }') == octets("90 { 0001 00 87 87 97 97 }")
    assert asked == ["a", "b"]


async def test_a_session_brings_no_more_than_may_be(replica: Replica, monkeypatch: pytest.MonkeyPatch) -> None:
    device = resuming(replica)
    says(device, '82 { 0001 00 "a" 01 "b" 01 }')
    device.vanish()
    monkeypatch.setattr(limits, "SUBSCRIPTIONS_PER_CLIENT_MAX", 1)
    resuming(replica)
    assert state(replica).subscriptions == [["a", 1]]


async def test_who_does_not_subscribe_costs_nothing(replica: Replica) -> None:
    connected(replica)
    (client,) = replica.uplink.clients.values()
    assert (client._subscriptions, client._outbox) == (None, None)


# ---- access control ----


async def test_new_rules_at_a_reload(tmp_path: Path) -> None:
    rules = tmp_path / "acl.conf"
    rules.write_text("deny publish all tlink/b\n")
    replica = Replica(access=AccessSettings(rules))
    device = connected(replica, version=MQTT_5_0)

    async def prepare(_routes: object) -> None:
        pass

    reloader = Reloader(
        replica.uplink, [replica.uplink.access], lambda: replica.uplink.routes, prepare, replica.metrics
    )
    heard = []
    for text in (None, "deny publish all tlink/a\nallow subscribe all a/#\n", "permit\n"):
        if text is not None:
            rules.write_text(text)
        heard.append(await reloader.reload())
        for packet_id, topic in enumerate(("tlink/a", "tlink/b"), 1):
            device.publish(topic, packet_id=packet_id)
        await replica.gateway.flush(5)
        await turn()
        heard.append(device.take())
        heard.append(says(device, SUBSCRIBE_A))
    denied, allowed = puback(1, 0x87, MQTT_5_0) + puback(2), puback(1) + puback(2, 0x87, MQTT_5_0)
    granted, refused = octets(SUBACK_A, MQTT_5_0), octets("90 { 0001 00 87 }")
    assert heard == [True, allowed, refused, True, denied, granted, False, denied, granted]
    assert replica.uplink.access.denied == {PUBLISH: 3, SUBSCRIBE: 1}


async def test_a_will_is_published_where_its_device_may(tmp_path: Path) -> None:
    rules = tmp_path / "acl.conf"
    rules.write_text("deny publish user u tlink/a\n")
    replica = Replica(access=AccessSettings(rules))
    for username in ("u", "v"):
        will = Will(TopicName("tlink/a", b"tlink/a"), username.encode())
        connected(replica, username, username=username, will=will).vanish()
    await replica.gateway.flush(5)
    assert [record.value for record in replica.gateway.stored(UP)] == [b"v"]
    assert replica.uplink.access.denied[PUBLISH] == 1


async def test_a_file_that_cannot_be_read(tmp_path: Path) -> None:
    for path, complaint in ((tmp_path / "none", "cannot be read"), (tmp_path / "latin", "is not UTF-8")):
        if path.name == "latin":
            path.write_bytes(b"allow publish user \xe9 #")
        with pytest.raises(ConfigError, match=complaint):
            Replica(access=AccessSettings(path))
