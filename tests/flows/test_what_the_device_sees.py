"""The table "What the device sees" of ARCHITECTURE.md, row by row, at a live socket, for every version of MQTT.

A row is tested here, named in `ELSEWHERE` with the test that has it, or named in `WAITING` with what it waits for.
"""

import asyncio
import re
from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path
from typing import Any

import pytest

from proxy import limits
from proxy.cluster.commands import DELIVER, KICK, Command, Message, Selector
from proxy.errors import GatewayError, Refusal
from proxy.flows.access import AccessSettings
from proxy.flows.bans import Bans, BanSettings
from proxy.flows.drain import drain, let_go
from proxy.kafka.dead_letters import DeadLetters
from proxy.mqtt.packets import MQTT_3_1, MQTT_3_1_1, MQTT_5_0, ReasonCode
from proxy.policy.authenticators.base import Login
from proxy.policy.bans import Ban
from proxy.policy.rules import RuleSpec
from tests.flows.harness import UP, Replica
from tests.support.fakes import until
from tests.support.kafka_broker import Record
from tests.support.live import LiveDevice
from tests.support.wire import EXPIRY_SECONDS_MAX, STANDARDS, VERSIONS

ROOT = Path(__file__).parents[2]
#: Rows that have their test in another file.
ELSEWHERE: dict[str, str] = {}
#: Rows of the design whose feature does not exist yet, and what it is.
WAITING = {
    "not authorised at CONNECT": "access control",
    "too many messages": "quotas for each client",
}
ALREADY: dict[str, str] = {}

DEAD = "t_dead_letter"
CONNECT = '10 { P 02 003c [{ 17 00 }] "dev" }'
CONNACK = "20 ?? 00 00 [*]"
DISCONNECT = "[ e0 01 %02x ]"
KICKED = Command("1", KICK, Selector("dev"))
#: To a topic that has a route.
PUBLISH = '32 { "tlink/a" 0001 [00] (hi) }'

Test = Callable[..., Awaitable[None]]


def row(outcome: str, *versions: int) -> Callable[[Test], Test]:
    """The test is that of a row, for these versions of MQTT, for all of them unless it says which."""

    def mark(test: Test) -> Test:
        assert outcome not in ALREADY, outcome
        ALREADY[outcome] = test.__name__
        return part(*versions)(test)

    return mark


def part(*versions: int) -> Callable[[Test], Test]:
    """The test is one more of the row before it."""
    return pytest.mark.parametrize("version", versions or VERSIONS, ids=STANDARDS.__getitem__)


@pytest.fixture
async def replica(request: pytest.FixtureRequest) -> AsyncIterator[Replica]:
    replica = Replica(**getattr(request, "param", {}))
    yield replica
    assert (replica.listener.bugs, replica.gateway.bugs) == (0, [])


def like(**arguments: Any) -> pytest.MarkDecorator:
    """The replica of the test is made with these."""
    return pytest.mark.parametrize("replica", [arguments], indirect=True, ids=[""])


@pytest.fixture
async def port(replica: Replica, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[int]:
    monkeypatch.setattr(limits, "TICK_SECONDS", 0.001)
    yield await replica.listener.listen("127.0.0.1", 0)
    replica.listener.stop()


@pytest.fixture
async def device(port: int, version: int) -> AsyncIterator[LiveDevice]:
    """Its socket is open, nothing has been said."""
    async with await LiveDevice.on(port, version) as device:
        yield device


@pytest.fixture
async def connected(device: LiveDevice) -> LiveDevice:
    device.sends(CONNECT)
    await device.hears(CONNACK)
    return device


def stored(replica: Replica, kafka_topic: str = UP) -> list[bytes | None]:
    return [record.value for record in replica.gateway.stored(kafka_topic)]


# ---- CONNECT ----


@row("unsupported version / empty client id that has to last")
async def test_an_unsupported_version(device: LiveDevice) -> None:
    device.sends('10 { "MQTT" 06 02 003c "dev" }')
    await device.ends("20 02 00 01")


@part()
async def test_an_empty_client_id(device: LiveDevice, version: int) -> None:
    device.sends("10 { P 00 003c [00] <> }")
    if version == MQTT_5_0:
        await device.hears(CONNACK)
    else:
        await device.ends("20 02 00 02")


class Nobody:
    """An authenticator that knows nobody."""

    def passes_on(self, login: Login) -> bool:
        return False

    def cached(self, login: Login) -> bool | None:
        return False

    async def authenticate(self, login: Login) -> bool | None:
        return False

    def forget(self, username: str | None) -> None:
        pass

    def close(self) -> None:
        pass


@row("bad credentials / Kafka unreachable / too many connects")
@like(authenticators=[Nobody()])
async def test_bad_credentials(device: LiveDevice) -> None:
    device.sends(CONNECT)
    await device.ends("[ 20 03 00 86 00 | 20 02 00 04 ]")


@part()
async def test_kafka_unreachable(replica: Replica, device: LiveDevice) -> None:
    replica.gateway.ready = False
    device.sends(CONNECT)
    await device.ends("[ 20 03 00 88 00 | 20 02 00 03 ]")


@part()
@like(connects_per_second_max=1)
async def test_too_many_connects(connected: LiveDevice, port: int, version: int) -> None:
    async with await LiveDevice.on(port, version) as hasty:
        hasty.sends(CONNECT)
        await hasty.ends("[ 20 03 00 9f 00 | 20 02 00 03 ]")


@row("authentication method", MQTT_5_0)
async def test_an_authentication_method(device: LiveDevice) -> None:
    device.sends('10 { P 02 003c { 15 "SCRAM" 17 00 } "dev" }')
    await device.ends("20 03 00 8c 00")


@row("malformed or wrong before CONNACK")
@pytest.mark.parametrize("sent", [PUBLISH, "10 { 0004 (MQ) }", '10 { P 03 003c [00] "dev" }', "00 00"])
async def test_wrong_before_connack(device: LiveDevice, sent: str) -> None:
    device.sends(sent)
    await device.ends()


@row("closes its side before CONNACK, with more said than CONNECT")
async def test_in_one_breath(replica: Replica, device: LiveDevice) -> None:
    replica.log.hold()
    device.sends(CONNECT + ' 30 { "tlink/a" [00] (hi) } e0 00')
    await until(lambda: bool(replica.log.unread), "the CLAIM is written")
    device.writer.write_eof()
    (connection,) = replica.listener.connections
    await until(lambda: connection.protocol._peer_closed, "the end is seen")
    assert stored(replica) == []
    replica.log.release()
    await device.ends(CONNACK)
    assert stored(replica) == [b"hi"]


# ---- PUBLISH ----


@row("PUBLISH matches no route")
async def test_no_route(replica: Replica, connected: LiveDevice) -> None:
    connected.sends('32 { "elsewhere" 0001 [00] (hi) }')
    await connected.hears("40 { 0001 [10] }")
    assert replica.count("mqk_publishes_total", qos="1", result="unmatched") == 1


@part()
@like(unmatched="reject")
async def test_no_route_when_that_is_refused(connected: LiveDevice) -> None:
    connected.sends('32 { "elsewhere" 0001 [00] (hi) }')
    await connected.hears("40 { 0001 [90] }")


@row("`$…` topic")
async def test_a_topic_of_the_server(replica: Replica, connected: LiveDevice) -> None:
    connected.sends('32 { "$SYS/uptime" 0001 [00] (hi) }')
    await connected.hears("40 { 0001 [90] }")
    assert replica.count("mqk_publishes_total", qos="1", result="unmatched") == 1


@row("PUBLISH denied by access control")
@like(access=AccessSettings(publish_default="deny"))
async def test_denied(replica: Replica, connected: LiveDevice) -> None:
    connected.sends(f'30 {{ "tlink/a" [00] (hi) }} {PUBLISH} 34 {{ "tlink/a" 0002 [00] (hi) }}')
    await connected.hears("40 { 0001 [87] }", "50 { 0002 [87] }")
    counted = [replica.count("mqk_publishes_total", qos=qos, result="denied") for qos in "012"]
    assert (counted, replica.uplink.access.denied["publish"], stored(replica)) == ([1, 1, 1], 3, [])


@part()
@like(access=AccessSettings(publish_default="deny", on_publish_denied="close"))
@pytest.mark.parametrize("qos", [0, 1, 2])
async def test_denied_and_closed(connected: LiveDevice, qos: int) -> None:
    connected.sends(f'{0x30 | qos << 1:02x} {{ "tlink/a" {"0001" if qos else ""} [00] (hi) }}')
    if qos and connected.version == MQTT_5_0:
        await connected.hears(f"{0x30 + 0x10 * qos:02x} {{ 0001 87 }}")
    else:
        await connected.ends(DISCONNECT % 0x87)


@row("delivered")
async def test_delivered(replica: Replica, connected: LiveDevice) -> None:
    replica.gateway.hold()
    connected.sends(f'{PUBLISH} 34 {{ "tlink/a" 0002 [00] (ho) }} c0 00')
    await connected.hears("d0 00")
    assert stored(replica) == []
    replica.gateway.release()
    await connected.hears("40 { 0001 }", "50 { 0002 }")
    assert stored(replica) == [b"hi", b"ho"]


@row("payload is not the UTF-8 that it claims to be", MQTT_5_0)
async def test_no_utf_8(replica: Replica, connected: LiveDevice) -> None:
    connected.sends('32 { "tlink/a" 0001 { 01 01 } ff }')
    await connected.hears("40 { 0001 99 }")
    assert stored(replica) == []


@row("delivery timed out or producer lost")
async def test_the_outcome_is_unknown(replica: Replica, connected: LiveDevice) -> None:
    replica.gateway.error = GatewayError("not after 120 s")
    connected.sends(PUBLISH)
    await connected.ends(DISCONNECT % 0x89)


@row("record can never be stored")
@pytest.mark.parametrize(
    ("refusal", "reason"),
    [
        (Refusal.TOO_LARGE, 0x97),
        (Refusal.NOT_AUTHORIZED, 0x87),
        (Refusal.INVALID, 0x99),
        (Refusal.UNKNOWN_TOPIC, 0x90),
    ],
)
async def test_never_stored(replica: Replica, connected: LiveDevice, refusal: Refusal, reason: int) -> None:
    replica.gateway.error = GatewayError("never", refusal)
    connected.sends(PUBLISH)
    await connected.hears(f"40 {{ 0001 [{reason:02x}] }}")
    assert replica.count("mqk_publishes_total", qos="1", result="refused") == 1


@part()
async def test_never_stored_becomes_a_dead_letter(replica: Replica, connected: LiveDevice) -> None:
    replica.gateway.add_topic(DEAD, 1)
    replica.gateway.dead_letters = DeadLetters(replica.gateway, DEAD, replica.metrics.kafka.dead_letters)
    replica.gateway.record_bytes_max = limits.DEAD_LETTER_VALUE_BYTES_MAX + 1_000
    connected.sends(f'32 {{ "tlink/a" 0001 [00] ({"x" * (replica.gateway.record_bytes_max + 1)}) }}')
    await connected.hears("40 { 0001 }")
    assert [value[:1] for value in stored(replica, DEAD) if value] == [b"x"]


@row("PUBLISH that a rule refuses: its topic, its size")
@like(rules=[RuleSpec([UP], filter="#", payload_bytes_max=1)])
async def test_a_rule_refuses(replica: Replica, connected: LiveDevice) -> None:
    connected.sends(PUBLISH)
    await connected.hears("40 { 0001 [97] }")
    assert stored(replica) == []


@part()
@like(rules=[RuleSpec([UP], filter="#", payload_bytes_max=1)])
async def test_what_a_rule_refuses_becomes_a_dead_letter(replica: Replica, connected: LiveDevice) -> None:
    replica.gateway.add_topic(DEAD, 1)
    replica.gateway.dead_letters = DeadLetters(replica.gateway, DEAD, replica.metrics.kafka.dead_letters)
    connected.sends(PUBLISH)
    await connected.hears("40 { 0001 }")
    assert (stored(replica), stored(replica, DEAD)) == ([], [b"hi"])


# ---- sessions ----


@row("CONNECT to a session that lives on", MQTT_3_1_1, MQTT_5_0)
async def test_a_session_lives_on(port: int, version: int) -> None:
    connect = '10 { P 00 003c [{ 11 ffffffff 17 00 }] "dev" }'
    for present in (0, 1):
        async with await LiveDevice.on(port, version) as device:
            device.sends(connect)
            connack = await device.packet()
            assert connack[2:4] == bytes((present, 0))
            # The most that there is was granted, and 5.0 is told.
            assert version != MQTT_5_0 or b"\x11" + EXPIRY_SECONDS_MAX.to_bytes(4, "big") in connack
            device.sends("c0 00")
            await device.hears("d0 00")


@row("the session log does not answer in time")
async def test_the_log_is_silent(replica: Replica, device: LiveDevice, version: int) -> None:
    replica.log.hold()
    device.sends(CONNECT)
    await until(lambda: bool(replica.log.unread), "the CLAIM is written")
    replica.clock.now += limits.CLAIM_SECONDS_MAX
    replica.sessions.tick()
    await device.ends("20 ?? 00 89 [*]" if version == MQTT_5_0 else "20 02 00 03")


# ---- what a device may not do ----


@row("malformed / protocol error / too large, after CONNACK")
@pytest.mark.parametrize(
    ("sent", "reason"),
    [('36 { "tlink/a" 0001 [00] }', 0x81), (CONNECT, 0x82), ("30 ff ff ff 7f", 0x95)],
    ids=["malformed", "protocol error", "too large"],
)
async def test_wrong_after_connack(connected: LiveDevice, sent: str, reason: int) -> None:
    connected.sends(sent)
    await connected.ends(DISCONNECT % reason)


@row("QoS 2 packet id before its PUBREL")
async def test_qos_2_repeated(replica: Replica, connected: LiveDevice) -> None:
    message = '{ "tlink/a" 0001 [00] (hi) }'
    first, again = f"34 {message}", f"3c {message}"
    replica.gateway.hold()
    connected.sends(f"{first} {again} {first} c0 00")
    await connected.hears("d0 00")
    replica.gateway.release()
    await connected.hears("50 { 0001 }")
    connected.sends(f"{again} {first} 62 {{ 0001 }}")
    await connected.hears("50 { 0001 }", "50 { 0001 }", "70 { 0001 }")
    assert stored(replica) == [b"hi"]


@row("QoS 1 packet id still unacknowledged")
async def test_qos_1_repeated(replica: Replica, connected: LiveDevice) -> None:
    replica.gateway.hold()
    connected.sends(f"{PUBLISH} {PUBLISH}")
    await connected.ends(DISCONNECT % 0x82)


@part(MQTT_3_1, MQTT_3_1_1)
async def test_qos_1_repeated_as_a_retry(replica: Replica, connected: LiveDevice) -> None:
    replica.gateway.hold()
    connected.sends(f'{PUBLISH} 3a {{ "tlink/a" 0001 (hi) }} c0 00')
    await connected.hears("d0 00")
    replica.gateway.release()
    connected.sends("c0 00")
    await connected.hears("40 { 0001 }", "d0 00")
    assert stored(replica) == [b"hi"]


@row("PUBREL / PUBREC / PUBCOMP for an unknown id")
async def test_an_unknown_id(connected: LiveDevice) -> None:
    connected.sends("62 { 0001 }")
    await connected.hears("70 { 0001 [92] }")
    connected.sends("50 { 0002 } 70 { 0003 } c0 00")
    await connected.hears(*(["62 { 0002 92 }"] if connected.version == MQTT_5_0 else []), "d0 00")


@row("receive window exceeded")
async def test_the_window(replica: Replica, connected: LiveDevice) -> None:
    replica.gateway.hold()
    ids = range(1, replica.listener.session_limits.receive_maximum + 2)
    connected.sends("".join(f'32 {{ "tlink/a" {packet_id:04x} [00] }}' for packet_id in ids))
    if connected.version == MQTT_5_0:
        await connected.ends(DISCONNECT % 0x93)
    else:
        connected.sends("c0 00")
        await connected.hears("d0 00")
        replica.gateway.release()
        await connected.hears(*(f"40 {{ {packet_id:04x} }}" for packet_id in ids))


@row("topic alias 0 or above `mqtt.topic_alias_maximum` / unknown", MQTT_5_0)
@pytest.mark.parametrize(
    ("sent", "reason"),
    [
        ('30 { "tlink/a" { 23 0000 } }', 0x94),
        ('30 { "tlink/a" { 23 0011 } }', 0x94),
        ("30 { <> { 23 0001 } }", 0x82),
    ],
    ids=["0", "above", "unknown"],
)
async def test_a_topic_alias(connected: LiveDevice, sent: str, reason: int) -> None:
    connected.sends(sent)
    await connected.ends(DISCONNECT % reason)


# ---- ends ----


@row("keep alive over")
async def test_the_keep_alive(replica: Replica, connected: LiveDevice) -> None:
    replica.clock.now += 60 * 1.5 - 0.1
    connected.sends("c0 00")
    await connected.hears("d0 00")
    replica.clock.now += 60 * 1.5
    await connected.ends(DISCONNECT % 0x8D)


@row("taken over / kicked / shutting down")
async def test_taken_over(connected: LiveDevice, port: int) -> None:
    async with await LiveDevice.on(port, MQTT_5_0) as newer:
        newer.sends(CONNECT)
        await newer.hears(CONNACK)
        await connected.ends(DISCONNECT % 0x8E)


@part()
async def test_shutting_down(replica: Replica, connected: LiveDevice) -> None:
    replica.gateway.hold()
    connected.sends(f"{PUBLISH} c0 00")
    await connected.hears("d0 00")
    draining = asyncio.create_task(drain(replica.listener, replica.uplink, 60.0))
    await until(lambda: replica.uplink.draining, "it drains")
    replica.gateway.release()
    await connected.hears("40 { 0001 }")
    await connected.ends(DISCONNECT % 0x8B)
    await draining


@row("more devices here than elsewhere, after a replica was away")
async def test_sent_home(replica: Replica, connected: LiveDevice) -> None:
    clients = list(replica.uplink.clients.values())
    leaving = let_go(replica.listener, clients, ReasonCode.USE_ANOTHER_SERVER, "too many", 60.0, 100.0)
    task = asyncio.create_task(leaving)
    await connected.ends(DISCONNECT % 0x9C)
    await task


@row("a PROXY header from who may not send one, or none from who must")
async def test_a_forged_proxy_header(replica: Replica, device: LiveDevice) -> None:
    device.sends(f"(PROXY UNKNOWN) 0d 0a {CONNECT}")
    await device.ends("")
    assert replica.listener.headers_refused == 1


@part()
async def test_kicked(replica: Replica, connected: LiveDevice) -> None:
    assert replica.executor.execute(KICKED, lambda *_: None) == ["dev"]
    await connected.ends(DISCONNECT % 0x98)


@row("kicked before CONNACK")
async def test_kicked_at_once(replica: Replica, device: LiveDevice) -> None:
    replica.log.hold()
    device.sends(CONNECT)
    await until(lambda: bool(replica.log.unread), "the CLAIM is written")
    assert replica.executor.execute(KICKED, lambda *_: None) == ["dev"]
    await device.ends("[ 20 03 00 88 00 | 20 02 00 03 ]")


@row("banned at CONNECT / while connected")
async def test_banned_at_connect(replica: Replica, device: LiveDevice) -> None:
    replica.uplink.banned = lambda client_id, username, address: (client_id, username) == ("dev", None)
    device.sends(CONNECT)
    await device.ends("[ 20 03 00 8a 00 | 20 02 00 05 ]")


@part()
async def test_banned_while_connected(replica: Replica, connected: LiveDevice) -> None:
    replica.gateway.add_topic("t_bans")
    bans = Bans(BanSettings("t_bans", {}), replica.gateway, replica.uplink, lambda: 0)
    ban = Ban("clientid", "dev", nonce=1, since_ms=0)
    bans.receive([Record("t_bans", 0, 0, ban.key, ban.encode(), [], 0)])
    await connected.ends(DISCONNECT % 0x98)


# ---- SUBSCRIBE ----


@row("SUBSCRIBE")
@like(access=AccessSettings(subscribe_default="allow"))
async def test_subscribe(replica: Replica, connected: LiveDevice) -> None:
    connected.sends('82 { 0001 [00] "down/#" 02 "a/+" 00 }')
    await connected.hears("90 { 0001 [00] 02 00 }")
    message = Message("down/a", b"hi", 2)
    told: list[tuple[str, str]] = []
    replica.executor.execute(Command("7", DELIVER, Selector(), message=message), lambda *each: told.append(each))
    await connected.hears('34 { "down/a" 0001 [{ 26 "mqk-command-id" "7" }] (hi) }')
    connected.sends("50 { 0001 }")
    await connected.hears("62 { 0001 }")
    assert told == [("dev", "delivered")]


@part(MQTT_3_1_1, MQTT_5_0)
@like(access=AccessSettings(subscribe_default="allow"))
async def test_subscribe_with_a_session_that_lives_on(replica: Replica, device: LiveDevice) -> None:
    device.sends('10 { P 00 003c [{ 11 ffffffff 17 00 }] "dev" } c0 00')
    await device.hears(CONNACK, "d0 00")
    replica.log.hold()
    device.sends('82 { 0001 [00] "down/#" 01 } c0 00')
    await device.hears("d0 00")
    replica.log.release()
    await device.hears("90 { 0001 [00] 01 }")


@row("SUBSCRIBE not allowed / too many")
async def test_subscribe_not_allowed(connected: LiveDevice) -> None:
    connected.sends('82 { 0001 [00] "tlink/#" 01 "a/+" 00 }')
    await connected.hears("90 { 0001 [00] [87|80|00] [87|80|00] }")


@part()
@like(access=AccessSettings(subscribe_default="allow"))
async def test_too_many_subscriptions(connected: LiveDevice, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(limits, "SUBSCRIPTIONS_PER_CLIENT_MAX", 1)
    connected.sends('82 { 0001 [00] "a" 01 "b" 01 } 82 { 0002 [00] "a" 02 }')
    await connected.hears("90 { 0001 [00] 01 [97|80|00] }", "90 { 0002 [00] 02 }")


@row("invalid topic filter / shared subscription")
async def test_an_invalid_topic_filter(connected: LiveDevice) -> None:
    connected.sends('82 { 0001 [00] "a/#/b" 01 }')
    await connected.ends(DISCONNECT % 0x8F)


@part()
@like(access=AccessSettings(subscribe_default="allow"))
async def test_a_shared_subscription(connected: LiveDevice) -> None:
    connected.sends('82 { 0001 [00] "$share/group/a" 01 }')
    if connected.version == MQTT_5_0:
        await connected.ends(DISCONNECT % 0x9E)
    else:
        await connected.hears("90 { 0001 [|80|00] }")


@row("UNSUBSCRIBE")
async def test_unsubscribe(connected: LiveDevice) -> None:
    connected.sends('a2 { 0001 [00] "tlink/#" }')
    await connected.hears("b0 { 0001 [00] [11] }")


@part()
@like(access=AccessSettings(subscribe_default="allow"))
async def test_unsubscribe_from_something(replica: Replica, connected: LiveDevice) -> None:
    connected.sends('82 { 0001 [00] "a" 01 } a2 { 0002 [00] "a" "a" }')
    await connected.hears("90 { 0001 [00] 01 }", "b0 { 0002 [00] [00 11] }")
    assert len(replica.uplink.subscribers) == 0


# ---- the table itself ----


def rows() -> list[str]:
    """The outcomes that ARCHITECTURE.md names."""
    _, _, rest = (ROOT / "ARCHITECTURE.md").read_text().partition("## What the device sees\n")
    section, _, _ = rest.partition("\n## ")
    _, _, *found = re.findall(r"^\| (.*?) +\|", section, re.MULTILINE)
    return found


def test_every_row_is_tested_or_waits() -> None:
    assert sorted(rows()) == sorted({*ALREADY, *ELSEWHERE} | (WAITING.keys() & set(rows())))


def test_nothing_that_is_tested_waits() -> None:
    assert not WAITING.keys() & {*ALREADY, *ELSEWHERE}
    assert not ALREADY.keys() & ELSEWHERE.keys()


def test_tests_elsewhere_are_there() -> None:
    for test in ELSEWHERE.values():
        path, _, name = test.partition("::")
        assert f"def {name}(" in (ROOT / path).read_text(), test
