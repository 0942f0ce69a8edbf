"""The status topic and wills: every field as its readers expect it, told by whose turn it is, and never lost."""

import logging

import pytest

from proxy import limits
from proxy.errors import GatewayError, Refusal
from proxy.kafka.batches import md5_partition
from proxy.kafka.records import CLAIM, RELEASE, RELEASED, About, SessionRecord, StoredWill
from proxy.mqtt.packets import (
    MQTT_3_1_1,
    MQTT_5_0,
    WILL_DELAY_INTERVAL,
    ReasonCode,
    Will,
)
from proxy.mqtt.topics import TopicName
from proxy.session.events import EndReason
from tests.flows.harness import STATUS, UP, Replica, connected, resuming
from tests.support.fakes import turn, until
from tests.support.session_log import NOON_MS
from tests.support.wire import proves

BOTH = pytest.mark.parametrize("version", [MQTT_3_1_1, MQTT_5_0], ids=["3.1.1", "5.0"])


def will(payload: bytes = b"gone", delay_seconds: int = 0) -> Will:
    properties = {WILL_DELAY_INTERVAL: delay_seconds} if delay_seconds else {}
    return Will(TopicName("tlink/w", b"tlink/w"), payload, properties=properties)


async def told(replica: Replica) -> None:
    """All announcements are on their way, and Kafka has them."""
    assert await replica.gateway.flush(5.0) == 0
    await turn()


def wills(replica: Replica) -> list[bytes | None]:
    return [record.value for record in replica.gateway.stored(UP)]


# ---- fields ----


async def test_connected(replica: Replica) -> None:
    connected(replica, "c1", username="dev1&pk1", keep_alive=60)
    await told(replica)
    (record,) = replica.gateway.stored(STATUS)
    session_id = replica.log.records()[0].connection
    assert (record.value or b"").decode() == (
        '{"action":"connected","clientid":"c1","username":"dev1&pk1","keepalive":60,"ipaddress":"10.0.0.1",'
        f'"proto_name":"MQTT","proto_ver":4,"timestamp":{NOON_MS},"online":1,"node":"node-7","peer_cert_cn":null,'
        f'"session_id":"{session_id:016x}","epoch":0,"offset":0}}'
    )
    assert (record.key, record.headers) == (b"c1", [])


async def test_disconnected(replica: Replica) -> None:
    device = connected(replica, "c1", username="dev1&pk1")
    replica.log.now_ms += 5_000
    device.disconnect()
    await told(replica)
    record = replica.gateway.stored(STATUS)[-1]
    session_id = replica.log.records()[0].connection
    assert (record.value or b"").decode() == (
        '{"action":"disconnected","clientid":"c1","username":"dev1&pk1","reason":"normal",'
        f'"timestamp":{NOON_MS + 5_000},"online":0,"node":"node-7","peer_cert_cn":null,'
        f'"session_id":"{session_id:016x}","epoch":0,"offset":1}}'
    )


async def test_without_a_user_name_and_with_5_0(replica: Replica) -> None:
    # A CONNECT may leave its client id to us, so the one that counts is told.
    device = connected(replica, "", MQTT_5_0)
    (given,) = replica.uplink.clients
    device.vanish()
    await told(replica)
    came, went = replica.told()
    assert (came["clientid"], came["username"], came["keepalive"], came["proto_ver"]) == (given, None, 0, 5)
    assert (went["clientid"], went["username"], went["reason"]) == (given, None, "tcp_closed")


async def test_a_session_has_one_identifier_for_all_its_connections(replica: Replica) -> None:
    device = resuming(replica, "c1")
    device.publish(qos=0)
    device.vanish()
    again = resuming(replica, "c1")
    again.disconnect()
    connected(replica, "c1", MQTT_5_0)
    await told(replica)
    ids = [each["session_id"] for each in replica.told()]
    assert len(set(ids[:4])) == 1
    assert ids[4] != ids[0]


async def test_text_is_utf_8_and_cannot_leave_its_field(replica: Replica) -> None:
    name = 'gerät","online":1,"\n'
    connected(replica, name, username=name)
    await told(replica)
    (record,) = replica.gateway.stored(STATUS)
    assert "gerät".encode() in (record.value or b"")
    assert record.key == name.encode()
    (came,) = replica.told()
    assert (came["clientid"], came["username"]) == (name, name)


@pytest.mark.parametrize("reason", EndReason)
def test_every_reason_is_a_plain_word(reason: EndReason) -> None:
    assert reason.value.replace("_", "").isalpha()


async def test_the_key_may_be_the_action() -> None:
    replica = Replica(key_is_action=True)
    connected(replica, "c1").disconnect()
    await told(replica)
    assert [record.key for record in replica.gateway.stored(STATUS)] == [b"connected", b"disconnected"]


async def test_the_partition_follows_from_the_key(replica: Replica) -> None:
    replica.gateway.add_partitions(STATUS, 8)
    for client_id in ("c1", "c2", "c3"):
        connected(replica, client_id)
    await told(replica)
    found = {record.key: record.partition for record in replica.gateway.stored(STATUS)}
    assert found == {key: md5_partition(key, 8) for key in (b"c1", b"c2", b"c3")}


# ---- nothing is lost, and nobody tells twice ----


async def test_what_failed_is_told_again_in_order(replica: Replica, caplog: pytest.LogCaptureFixture) -> None:
    replica.gateway.error = GatewayError("not delivered in time")
    connected(replica, "c1").disconnect()
    await told(replica)
    assert replica.presence.waiting == 2
    replica.gateway.error = None
    replica.take_turn()
    await told(replica)
    assert replica.comings_and_goings() == [("c1", "connected"), ("c1", "normal")]
    assert replica.presence.waiting == 0
    assert replica.count("mqk_presence_records_total", result="lost") == 2
    assert replica.count("mqk_presence_records_total", result="stored") == 2
    assert caplog.records[0].levelno == logging.WARNING


async def test_what_kafka_will_never_take_is_given_up(replica: Replica) -> None:
    replica.gateway.error = GatewayError("too large", Refusal.TOO_LARGE)
    connected(replica, "c1")
    await told(replica)
    replica.gateway.error = None
    replica.take_turn()
    await told(replica)
    assert replica.told() == []
    assert replica.presence.marks(frozenset({0})) == {0: (1, str(NOON_MS))}


async def test_the_mark_moves_behind_what_kafka_has(replica: Replica) -> None:
    replica.gateway.hold()
    connected(replica, "c1")
    connected(replica, "c2").disconnect()
    replica.take_turn()
    mine = frozenset({0})
    assert replica.presence.marks(mine) == {0: (0, str(NOON_MS))}
    replica.gateway.release(1)
    assert replica.presence.marks(mine) == {0: (1, str(NOON_MS))}
    assert replica.presence.marks(mine) == {}, "committed already"
    replica.gateway.release()
    assert replica.presence.marks(mine) == {0: (3, str(NOON_MS))}


async def test_one_record_of_the_log_is_told_as_a_whole(replica: Replica) -> None:
    """A takeover brings about a will, `disconnected` and `connected`; the mark moves behind the last of them."""
    connected(replica, "c1", will=will())
    await told(replica)
    replica.gateway.hold()
    connected(replica, "c1")
    mine = frozenset({0})
    for records, mark in ((0, 1), (1, 1), (1, 1), (1, 2)):
        replica.gateway.release(records)
        replica.presence.marks(mine)
        assert replica.presence._partitions[0].mark == mark
    replica.gateway.release()


async def test_a_successor_goes_on_from_the_mark(replica: Replica) -> None:
    beside = Replica(node="node-8", beside=replica)
    connected(replica, "c1")
    connected(replica, "c2")
    await told(replica)
    marks = replica.presence.marks(frozenset({0}))
    beside.presence.learn_marks(marks)
    assert beside.presence.waiting == 0
    replica.take_turn(mine=False)
    connected(replica, "c3")
    await told(replica)
    assert len(replica.told()) == 2, "it is nobody's turn"
    beside.take_turn()
    await told(replica)
    assert [each["clientid"] for each in replica.told()] == ["c1", "c2", "c3"]


async def test_a_crash_repeats_with_the_same_offset_and_epoch(replica: Replica) -> None:
    beside = Replica(node="node-8", beside=replica)
    device = connected(replica, "c1", will=will())
    device.vanish()
    await told(replica)
    # It had no time to commit its mark.
    replica.take_turn(mine=False)
    beside.take_turn()
    await told(replica)
    pairs = [(each["action"], each["offset"], each["epoch"]) for each in replica.told()]
    assert pairs == [("connected", 0, 0), ("disconnected", 1, 0)] * 2
    first, repeated = replica.gateway.stored(UP)
    assert (first.value, first.headers) == (repeated.value, repeated.headers)


async def test_after_a_replay_only_what_is_above_the_mark_is_told(replica: Replica) -> None:
    for number in range(3):
        connected(replica, f"c{number}")
    await told(replica)
    late = Replica(node="node-8", beside=replica)
    late.presence.begin({0: (2, "0")}, 1)
    for record in replica.log.log:
        late.sessions.receive(0, record.key, record.value, record.headers, record.offset, record.timestamp)
    late.sessions.end_batch()
    assert late.presence.waiting == 1
    replica.take_turn(mine=False)
    late.take_turn()
    await told(replica)
    assert [each["clientid"] for each in replica.told()] == ["c0", "c1", "c2", "c2"]


async def test_what_is_compacted_away_is_told_by_the_record_alone(replica: Replica) -> None:
    about = About("u", "10.0.0.9", 30, 4, None, 0)
    ended = SessionRecord("c9", RELEASE, "gone", 1, 7, 3, 2, RELEASED, False, None, 0, "tcp_closed", None, about, None)
    replica.log.append(ended)
    await told(replica)
    (went,) = replica.told()
    assert (went["clientid"], went["reason"], went["node"], went["epoch"]) == ("c9", "tcp_closed", "gone", 3)


async def test_announcements_on_their_way_are_bounded(replica: Replica, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(limits, "ANNOUNCEMENTS_IN_FLIGHT_MAX", 2)
    replica.gateway.hold()
    for number in range(5):
        connected(replica, f"c{number}")
    assert replica.presence._partitions[0].in_flight == 2
    replica.gateway.release()
    for _ in range(3):
        replica.take_turn()
        await told(replica)
    assert [each["clientid"] for each in replica.told()] == [f"c{number}" for number in range(5)]


async def test_nothing_is_told_into_a_queue_that_is_congested(replica: Replica) -> None:
    replica.gateway.congested = True
    connected(replica, "c1")
    await told(replica)
    assert (replica.told(), replica.presence.waiting) == ([], 1)
    replica.gateway.congested = False
    replica.take_turn()
    await told(replica)
    assert replica.comings_and_goings() == [("c1", "connected")]


async def test_who_remembers_too_much_tells_it_himself(replica: Replica, monkeypatch: pytest.MonkeyPatch) -> None:
    """Repeats do no harm, a loss would; and memory is bounded."""
    monkeypatch.setattr(limits, "ANNOUNCEMENTS_KEPT_MAX", 3)
    replica.take_turn(mine=False)
    for number in range(3):
        connected(replica, f"c{number}")
    replica.take_turn(mine=False)
    await told(replica)
    assert replica.told() == []
    connected(replica, "c3")
    replica.take_turn(mine=False)
    await told(replica)
    assert len(replica.told()) == 4
    assert replica.presence.waiting == 0


# ---- wills ----


@BOTH
async def test_a_will_comes_before_disconnected(replica: Replica, version: int) -> None:
    replica.gateway.hold()
    connected(replica, "c1", version, will=will()).vanish()
    replica.gateway.release(1)
    assert replica.comings_and_goings() == [("c1", "connected")]
    replica.gateway.release(1)
    assert (wills(replica), len(replica.told())) == ([b"gone"], 1)
    replica.gateway.release()
    assert replica.comings_and_goings() == [("c1", "connected"), ("c1", "tcp_closed")]


@BOTH
@pytest.mark.parametrize("ends", ["normal", "drained"])
async def test_ends_without_a_will(replica: Replica, version: int, ends: str) -> None:
    device = connected(replica, "c1", version, will=will())
    if ends == "normal":
        device.disconnect()
    else:
        replica.uplink.clients["c1"].disconnect(ReasonCode.SERVER_SHUTTING_DOWN, "")
    await told(replica)
    assert (wills(replica), len(replica.told())) == ([], 2)


async def test_a_device_may_ask_for_its_will(replica: Replica) -> None:
    device = connected(replica, "c1", MQTT_5_0, will=will())
    device.send(b"\xe0\x01\x04")
    await told(replica)
    assert wills(replica) == [b"gone"]
    assert replica.comings_and_goings()[-1] == ("c1", "normal")


@BOTH
async def test_a_takeover_publishes_the_will(replica: Replica, version: int) -> None:
    connected(replica, "c1", version, will=will())
    connected(replica, "c1", version)
    await told(replica)
    assert wills(replica) == [b"gone"]


async def test_a_delayed_will_waits_for_its_time(replica: Replica) -> None:
    resuming(replica, "c1", will=will(delay_seconds=30)).vanish()
    replica.log.now_ms += 29_999
    replica.take_turn()
    await told(replica)
    assert (wills(replica), replica.comings_and_goings()[-1]) == ([], ("c1", "tcp_closed"))
    replica.log.now_ms += 1
    replica.take_turn()
    await told(replica)
    assert wills(replica) == [b"gone"]
    headers = dict(replica.gateway.stored(UP)[0].headers)
    ended = replica.told()[-1]
    assert (headers["mqk.offset"], headers["mqk.epoch"]) == (b"%d" % ended["offset"], b"%d" % ended["epoch"])
    replica.log.now_ms += 3_600_000
    replica.take_turn()
    await told(replica)
    assert wills(replica) == [b"gone"]


@proves("5.0:MQTT-3.1.3-9")
async def test_a_new_connection_in_time_keeps_the_will_back(replica: Replica) -> None:
    device = resuming(replica, "c1", will=will(delay_seconds=30))
    device.publish(qos=0)
    device.vanish()
    replica.log.now_ms += 29_000
    resuming(replica, "c1")
    replica.log.now_ms += 60_000
    replica.take_turn()
    await told(replica)
    assert wills(replica) == [b"x"], "what it had published"


async def test_a_new_connection_that_begins_anew_publishes_the_will(replica: Replica) -> None:
    """The session has ended, and with it the delay (3.1.3.2.2)."""
    resuming(replica, "c1", will=will(delay_seconds=30)).vanish()
    resuming(replica, "c1", clean_start=True)
    await told(replica)
    assert wills(replica) == [b"gone"]
    assert [reason for _, reason in replica.comings_and_goings()] == ["connected", "tcp_closed", "connected"]


async def test_the_end_of_the_session_ends_the_delay(replica: Replica) -> None:
    resuming(replica, "c1", seconds=10, will=will(delay_seconds=30)).vanish()
    replica.log.now_ms += 9_999
    replica.take_turn()
    assert wills(replica) == []
    replica.log.now_ms += 1
    replica.take_turn()
    await told(replica)
    assert wills(replica) == [b"gone"]


async def test_without_a_session_there_is_no_delay(replica: Replica) -> None:
    connected(replica, "c1", MQTT_5_0, will=will(delay_seconds=30)).vanish()
    await told(replica)
    assert wills(replica) == [b"gone"]


async def test_a_takeover_in_time_keeps_a_delayed_will_back(replica: Replica) -> None:
    resuming(replica, "c1", will=will(delay_seconds=30))
    resuming(replica, "c1")
    replica.log.now_ms += 60_000
    replica.take_turn()
    await told(replica)
    assert wills(replica) == []


async def test_a_successor_publishes_delayed_wills_that_were_not(replica: Replica) -> None:
    beside = Replica(node="node-8", beside=replica)
    resuming(replica, "c1", will=will(b"first", delay_seconds=10)).vanish()
    resuming(replica, "c2", will=will(b"second", delay_seconds=20)).vanish()
    replica.log.now_ms += 10_000
    replica.take_turn()
    await told(replica)
    replica.take_turn()
    beside.presence.learn_marks(replica.presence.marks(frozenset({0})))
    replica.take_turn(mine=False)
    replica.log.now_ms += 20_000
    beside.take_turn()
    await told(replica)
    assert wills(replica) == [b"first", b"second"]


async def test_a_delayed_will_that_failed_is_published_again(replica: Replica) -> None:
    resuming(replica, "c1", will=will(delay_seconds=10)).vanish()
    await told(replica)
    replica.log.now_ms += 10_000
    replica.gateway.error = GatewayError("not delivered in time")
    replica.take_turn()
    await told(replica)
    before = replica.presence._partitions[0].wills_until_ms
    assert before < replica.log.now_ms
    replica.gateway.error = None
    replica.take_turn()
    await told(replica)
    replica.take_turn()
    assert wills(replica) == [b"gone"]
    assert replica.presence._partitions[0].wills_until_ms == replica.log.now_ms


async def test_a_will_of_a_lost_replica_is_published_by_the_sweeper(replica: Replica) -> None:
    stored = StoredWill(b"tlink/w", b"gone", False, 0, {})
    about = About("u", "10.0.0.9", 30, 4, None, 0)
    claim = SessionRecord("c9", CLAIM, "lost", 1, 7, -1, 0, 0, True, None, 0, "", None, about, stored)
    replica.log.append(claim)
    (table,) = replica.sessions.tables
    assert table.sweep(["c9"], lambda node, incarnation: node == "lost", 0) == 1
    await told(replica)
    assert wills(replica) == [b"gone"]
    assert replica.comings_and_goings() == [("c9", "connected"), ("c9", "node_lost")]


async def test_a_will_that_can_never_be_published_stops_nobody(replica: Replica) -> None:
    lying = Will(TopicName("tlink/w", b"tlink/w"), b"\xff", properties={1: 1})
    connected(replica, "c1", MQTT_5_0, will=lying).vanish()
    await until(lambda: len(replica.told()) == 2, "the status records")
    assert wills(replica) == []
    assert replica.presence.waiting == 0
