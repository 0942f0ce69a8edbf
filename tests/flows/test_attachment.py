"""What a session remembers over reconnects: who is let in and when, QoS 2, expiry, and whose a client identifier is."""

import pytest

from proxy import limits
from proxy.errors import GatewayError
from proxy.kafka.records import ASSERT, CLAIM, RELEASE, SessionState
from proxy.mqtt.encode import encode_packet
from proxy.mqtt.packets import MQTT_3_1_1, MQTT_5_0, SESSION_EXPIRY_INTERVAL, Disconnect, Pingreq, ReasonCode
from tests.flows.harness import UP, Device, Replica, connected, disconnect, puback, refused, resuming
from tests.support.fakes import turn

BOTH = pytest.mark.parametrize("version", [MQTT_3_1_1, MQTT_5_0], ids=["3.1.1", "5.0"])
PUBREC, PUBREL, PUBCOMP = b"\x50\x02\x00\x01", b"\x62\x02\x00\x01", b"\x70\x02\x00\x01"
PINGREQ, PINGRESP = encode_packet(Pingreq(), MQTT_5_0), b"\xd0\x00"
UNDELIVERED = GatewayError("not delivered in time")


async def settled(replica: Replica) -> None:
    """Kafka has answered, and the devices have been told."""
    assert await replica.gateway.flush(5.0) == 0
    await turn()
    await turn()


def stored(replica: Replica) -> list[bytes | None]:
    return [record.value for record in replica.gateway.stored(UP)]


def unknown(version: int) -> bytes:
    """PUBCOMP for an identifier that nobody knows."""
    return PUBCOMP if version == MQTT_3_1_1 else b"\x70\x03\x00\x01\x92"


async def assert_completes(replica: Replica, device: Device, version: int) -> None:
    """The device repeats message 1, which is in Kafka, and releases it: it was the same message all the time."""
    device.publish(qos=2, dup=True)
    await settled(replica)
    assert device.take() == PUBREC
    device.send(PUBREL)
    device.send(PUBREL)
    assert device.take() == PUBCOMP + unknown(version)
    assert stored(replica) == [b"x"]


# ---- Session Present ----


@BOTH
async def test_the_session_is_there_for_who_has_seen_it(replica: Replica, version: int) -> None:
    first = resuming(replica, version=version)
    assert not first.present
    first.vanish()
    second = resuming(replica, version=version)
    assert not second.present, "the first was never heard after its CONNACK"
    second.send(PINGREQ)
    second.vanish()
    third = resuming(replica, version=version)
    assert third.present
    third.vanish()
    assert not resuming(replica, version=version, clean_start=True).present


@BOTH
async def test_the_session_is_there_on_any_replica(replica: Replica, version: int) -> None:
    beside = Replica(node="node-8", beside=replica)
    resuming(replica, version=version).send(PINGREQ)
    assert resuming(beside, version=version).present
    assert resuming(replica, version=version).present


async def test_a_device_is_heard_once(replica: Replica) -> None:
    device = resuming(replica)
    for _ in range(3):
        device.send(PINGREQ)
    said = [record.state for record in replica.log.records() if record.kind == ASSERT]
    assert [state.confirmed for state in said if state is not None].count(True) == 1


async def test_without_a_session_nothing_is_asserted(replica: Replica) -> None:
    device = connected(replica)
    device.publish(qos=2)
    await settled(replica)
    assert device.take() == PUBREC
    device.vanish()
    assert [record.kind for record in replica.log.records()] == [CLAIM, RELEASE]


async def test_a_takeover_on_the_same_replica_goes_on_with_the_session(replica: Replica) -> None:
    older = resuming(replica)
    older.send(PINGREQ)
    older.take()
    newer = resuming(replica)
    assert newer.present
    assert older.take() == disconnect(ReasonCode.SESSION_TAKEN_OVER, MQTT_5_0)


# ---- expiry ----


@pytest.mark.parametrize(("asked", "granted"), [(10, 10), (100, 100), (101, 100), (0xFFFF_FFFF, 100)])
async def test_expiry_is_capped(asked: int, granted: int) -> None:
    replica = Replica(expiry_seconds_max=100)
    device = Device(replica, MQTT_5_0)
    connack = device.connect("c1", properties={SESSION_EXPIRY_INTERVAL: asked})
    assert (b"\x11" + granted.to_bytes(4, "big") in connack) == (asked != granted)
    assert replica.log.records()[0].expiry_seconds == granted


async def test_clean_session_0_lives_as_long_as_any() -> None:
    replica = Replica(expiry_seconds_max=100)
    resuming(replica, version=MQTT_3_1_1).send(PINGREQ)
    assert {record.expiry_seconds for record in replica.log.records()} == {100}
    connected(replica, "other")
    assert replica.log.records()[-1].expiry_seconds == 0


@BOTH
async def test_there_may_be_no_sessions_at_all(version: int) -> None:
    replica = Replica(expiry_seconds_max=0)
    device = resuming(replica, version=version)
    device.send(PINGREQ)
    device.vanish()
    assert not resuming(replica, version=version).present
    assert replica.log.records()[1].encode()[0] is None


@pytest.mark.parametrize(("said", "kept"), [(0, 0), (50, 50), (500, 100)])
async def test_disconnect_changes_the_expiry(said: int, kept: int) -> None:
    replica = Replica(expiry_seconds_max=100)
    device = resuming(replica, seconds=30)
    device.send(PINGREQ)
    device.send(encode_packet(Disconnect(0, {SESSION_EXPIRY_INTERVAL: said}), MQTT_5_0))
    ended = replica.log.records()[-1]
    assert (ended.kind, ended.expiry_seconds, ended.state is None) == (RELEASE, kept, kept == 0)
    replica.log.now_ms += 1_000 * max(kept - 1, 0)
    assert resuming(replica).present == (kept > 0)


async def test_a_session_that_has_expired_is_not_there(replica: Replica) -> None:
    device = resuming(replica, seconds=30)
    device.send(PINGREQ)
    device.vanish()
    replica.log.now_ms += 30_000
    assert not resuming(replica).present


# ---- the claim ----


@BOTH
async def test_connack_waits_for_the_claim(replica: Replica, version: int) -> None:
    replica.log.hold()
    device = Device(replica, version)
    assert device.connect("c1") == b""
    device.publish()
    await settled(replica)
    assert (device.take(), stored(replica), replica.uplink.clients) == (b"", [], {})
    replica.log.release()
    await settled(replica)
    answer = device.take()
    assert answer[0] == 0x20
    assert answer.endswith(puback(1))


@BOTH
async def test_a_claim_that_comes_too_late(replica: Replica, version: int) -> None:
    replica.log.hold()
    device = Device(replica, version)
    device.connect("c1")
    replica.clock.now += limits.CLAIM_SECONDS_MAX - 0.1
    replica.sessions.tick()
    assert not device.gone
    assert replica.sessions.claims_waiting == 1
    replica.clock.now += 0.1
    replica.sessions.tick()
    assert device.take() == refused(ReasonCode.SERVER_BUSY, 3, version)
    assert device.gone
    assert (replica.sessions.claims_late, replica.sessions.claims_waiting) == (1, 0)
    # When it comes after all, the log says a connection that is not there; its owner says so.
    replica.log.release()
    assert [record.kind for record in replica.log.records()] == [CLAIM, RELEASE]
    assert replica.count("mqk_connects_total", result="accepted") == 0


async def test_who_was_let_in_in_time_stays(replica: Replica) -> None:
    device = connected(replica)
    replica.clock.now += 10 * limits.CLAIM_SECONDS_MAX
    replica.sessions.tick()
    assert not device.gone
    assert replica.sessions.claims_late == 0


@BOTH
async def test_a_claim_that_cannot_be_written(replica: Replica, version: int) -> None:
    replica.log.error = UNDELIVERED
    device = Device(replica, version)
    assert device.connect("c1") == refused(ReasonCode.SERVER_BUSY, 3, version)
    assert device.gone


async def test_a_device_that_goes_while_its_claim_is_on_its_way(replica: Replica) -> None:
    replica.log.hold()
    device = Device(replica)
    device.connect("c1")
    device.vanish()
    replica.log.release()
    await settled(replica)
    assert replica.comings_and_goings() == [("c1", "connected"), ("c1", "tcp_closed")]
    assert replica.sessions.local("c1") is None


@BOTH
async def test_a_newer_connection_elsewhere(replica: Replica, version: int) -> None:
    beside = Replica(node="node-8", beside=replica)
    older = connected(replica, "c1", version)
    newer = connected(beside, "c1", version)
    assert older.take() == disconnect(ReasonCode.SESSION_TAKEN_OVER, version)
    assert older.gone
    assert not newer.gone
    await settled(replica)
    assert replica.comings_and_goings() == [("c1", "connected"), ("c1", "taken_over"), ("c1", "connected")]
    assert replica.count("mqk_disconnects_total", reason="taken_over") == 1


async def test_a_state_that_cannot_be_written_ends_the_connection(replica: Replica) -> None:
    device = resuming(replica)
    replica.log.error = UNDELIVERED
    device.send(PINGREQ)
    assert device.gone
    assert device.take().endswith(disconnect(ReasonCode.SERVER_BUSY, MQTT_5_0))


async def test_an_end_that_was_lost_is_said_again(replica: Replica) -> None:
    device = resuming(replica)
    replica.log.error = UNDELIVERED
    device.vanish()
    replica.sessions.tick()
    assert (replica.sessions.tables[0].live, replica.sessions.local("device")) == (1, None)
    replica.log.error = None
    replica.sessions.tick()
    assert (replica.sessions.tables[0].live, replica.sessions.tables[0].offline) == (0, 1)
    said = len(replica.log.log)
    replica.sessions.tick()
    assert len(replica.log.log) == said


async def test_records_of_others_are_passed_over(replica: Replica, caplog: pytest.LogCaptureFixture) -> None:
    replica.log.append_raw(b"c1", b"not ours", [])
    replica.log.append_raw(b"\xff", b"not ours", [])
    assert replica.sessions.unreadable == 2
    assert [vars(record)["offset"] for record in caplog.records] == [0, 1]
    connected(replica, "c1")


# ---- whose an identifier is ----


@BOTH
async def test_a_client_identifier_belongs_to_a_user(version: int) -> None:
    replica = Replica(bind_client_id=True)
    first = connected(replica, "c1", version, username="a")
    stranger = Device(replica, version)
    assert stranger.connect("c1", username="b") == refused(ReasonCode.CLIENT_IDENTIFIER_NOT_VALID, 2, version)
    assert not first.gone
    connected(replica, "c1", version, username="a").disconnect()
    connected(replica, "c1", version, username="b")


async def test_it_belongs_to_him_until_the_session_ends() -> None:
    replica = Replica(bind_client_id=True)
    # As `_owns` asks the wall clock.
    resuming(replica, "c1", seconds=0xFFFF_FFFF, username="a").vanish()
    view = replica.sessions.view("c1")
    assert view is not None
    assert view.about.username == "a"
    late = Device(replica)
    # The log's clock stands at noon in 2022, a week is long over.
    assert late.connect("c1", username="b")[3] == 0


async def test_anybody_may_take_over_when_identifiers_are_not_bound(replica: Replica) -> None:
    first = connected(replica, "c1", username="a")
    connected(replica, "c1", username="b")
    assert first.gone


# ---- QoS 2 over reconnects ----


@BOTH
@pytest.mark.parametrize("ends", ["vanishes", "is taken over"])
async def test_a_message_that_waits_for_pubrel(replica: Replica, version: int, ends: str) -> None:
    device = resuming(replica, version=version)
    device.publish(qos=2)
    await settled(replica)
    assert device.take() == PUBREC
    if ends == "vanishes":
        device.vanish()
        state = replica.log.records()[-1].state
        assert state is not None
        assert state.qos2 == [1]
    again = resuming(replica, version=version)
    assert again.present
    await assert_completes(replica, again, version)


@BOTH
async def test_a_message_that_waits_for_pubrel_on_another_replica(replica: Replica, version: int) -> None:
    beside = Replica(node="node-8", beside=replica)
    device = resuming(replica, version=version)
    device.publish(qos=2)
    await settled(replica)
    device.vanish()
    again = resuming(beside, version=version)
    assert again.present
    await assert_completes(replica, again, version)


async def test_a_takeover_by_another_replica_while_qos_2_is_in_use(replica: Replica) -> None:
    """Only the older one knows the identifiers, so the session is not there."""
    beside = Replica(node="node-8", beside=replica)
    device = resuming(replica)
    device.publish(qos=2)
    await settled(replica)
    assert not resuming(beside).present


@BOTH
@pytest.mark.parametrize("ends", ["vanishes", "is taken over"])
@pytest.mark.parametrize("repeats", [True, False], ids=["repeats", "does not repeat"])
async def test_a_message_that_kafka_has_not_answered(replica: Replica, version: int, ends: str, repeats: bool) -> None:
    device = resuming(replica, version=version)
    await settled(replica)
    replica.gateway.hold()
    device.publish(qos=2)
    if ends == "vanishes":
        device.vanish()
    again = resuming(replica, version=version)
    assert again.present
    if repeats:
        again.publish(qos=2, dup=True)
        again.publish(qos=2, dup=True)
    replica.gateway.release()
    await settled(replica)
    assert again.take() == (PUBREC if repeats else b"")
    await assert_completes(replica, again, version)


@BOTH
async def test_it_fails_and_was_repeated(replica: Replica, version: int) -> None:
    device = resuming(replica, version=version)
    await settled(replica)
    replica.gateway.hold()
    device.publish(qos=2)
    device.vanish()
    again = resuming(replica, version=version)
    again.publish(qos=2, dup=True)
    replica.gateway.error = UNDELIVERED
    replica.gateway.release(1)
    replica.gateway.error = None
    assert stored(replica) == []
    replica.gateway.release()
    await settled(replica)
    assert again.take() == PUBREC
    await assert_completes(replica, again, version)


@BOTH
async def test_it_fails_before_it_is_repeated(replica: Replica, version: int) -> None:
    device = resuming(replica, version=version)
    await settled(replica)
    replica.gateway.hold()
    device.publish(qos=2)
    device.vanish()
    again = resuming(replica, version=version)
    replica.gateway.error = UNDELIVERED
    replica.gateway.release(1)
    replica.gateway.error = None
    replica.gateway.release()
    await settled(replica)
    await assert_completes(replica, again, version)


@BOTH
async def test_it_is_stored_while_the_claim_is_on_its_way(replica: Replica, version: int) -> None:
    device = resuming(replica, version=version)
    await settled(replica)
    replica.gateway.hold()
    device.publish(qos=2)
    replica.log.hold()
    again = Device(replica, version)
    fields = {"properties": {SESSION_EXPIRY_INTERVAL: 60}} if version == MQTT_5_0 else {}
    again.connect("device", clean_start=False, **fields)
    replica.gateway.release()
    await settled(replica)
    replica.log.release()
    await settled(replica)
    assert again.take()[2] == 1
    await assert_completes(replica, again, version)


async def test_it_is_handed_on_from_connection_to_connection(replica: Replica) -> None:
    device = resuming(replica)
    await settled(replica)
    replica.gateway.hold()
    device.publish(qos=2)
    resuming(replica).publish(qos=2, dup=True)
    third = resuming(replica)
    third.publish(qos=2, dup=True)
    replica.gateway.release()
    await settled(replica)
    assert third.take() == PUBREC
    await assert_completes(replica, third, MQTT_5_0)


async def test_the_end_waits_for_the_last_messages(replica: Replica) -> None:
    """What the log says of a session that waits must be exact."""
    device = resuming(replica)
    await settled(replica)
    replica.gateway.hold()
    device.publish(qos=2)
    device.vanish()
    assert replica.log.records()[-1].kind == ASSERT
    replica.gateway.release()
    ended = replica.log.records()[-1]
    assert (ended.kind, ended.state) == (RELEASE, SessionState(ended.connection, True, [], [1]))


async def test_what_failed_is_not_remembered(replica: Replica) -> None:
    device = resuming(replica)
    await settled(replica)
    replica.gateway.hold()
    device.publish(qos=2)
    device.vanish()
    replica.gateway.error = UNDELIVERED
    replica.gateway.release(1)
    ended = replica.log.records()[-1]
    assert (ended.kind, ended.state) == (RELEASE, SessionState(ended.connection, True, [], []))
    replica.gateway.error = None
    replica.gateway.release()


async def test_a_new_session_forgets_what_is_under_way(replica: Replica) -> None:
    device = resuming(replica)
    await settled(replica)
    replica.gateway.hold()
    device.publish(qos=2, payload=b"old")
    device.vanish()
    again = resuming(replica, clean_start=True)
    again.publish(qos=2, payload=b"new")
    replica.gateway.release()
    await settled(replica)
    assert again.take() == PUBREC
    assert stored(replica) == [b"old", b"new"]


# ---- rule 9 ----


@BOTH
async def test_qos_2_waits_until_the_log_says_that_it_is_in_use(replica: Replica, version: int) -> None:
    """Else a message that is repeated to another replica would be stored twice although its session is present."""
    device = resuming(replica, version=version)
    replica.log.hold()
    device.publish(qos=2)
    device.publish(qos=2, packet_id=2)
    device.publish(packet_id=3)
    await settled(replica)
    assert len(stored(replica)) == 1, "only the one of QoS 1"
    assert device.take() == b""
    replica.log.release()
    await settled(replica)
    assert len(stored(replica)) == 3
    assert device.take() == PUBREC + b"\x50\x02\x00\x02" + puback(3), "in order of receipt"
    device.publish(qos=2, packet_id=4)
    replica.log.hold()
    await settled(replica)
    assert device.take() == b"\x50\x02\x00\x04", "it is said once for all"


@BOTH
async def test_restored_identifiers_are_used_once_the_log_does_not_list_them(replica: Replica, version: int) -> None:
    """The device may use a released identifier anew at once; then the log must not call that a repetition."""
    device = resuming(replica, version=version)
    device.publish(qos=2)
    await settled(replica)
    device.vanish()
    replica.log.hold()
    again = Device(replica, version)
    fields = {"properties": {SESSION_EXPIRY_INTERVAL: 60}} if version == MQTT_5_0 else {}
    again.connect("device", clean_start=False, **fields)
    replica.log.release(1)
    connack = again.take()
    assert (connack[0], connack[2]) == (0x20, 1)
    again.send(PUBREL)
    again.publish(qos=2, payload=b"another")
    again.send(PINGREQ)
    await settled(replica)
    assert again.take() == PINGRESP
    assert stored(replica) == [b"x"]
    replica.log.release()
    await settled(replica)
    assert again.take() == PUBCOMP + PUBREC
    assert stored(replica) == [b"x", b"another"]


@BOTH
async def test_a_message_that_waits_for_the_log_goes_with_its_connection(replica: Replica, version: int) -> None:
    device = resuming(replica, version=version)
    replica.log.hold()
    device.publish(qos=2)
    device.vanish()
    replica.log.release()
    await settled(replica)
    assert stored(replica) == []
    again = resuming(replica, version=version)
    assert again.present
    await assert_completes(replica, again, version)


@BOTH
async def test_a_message_before_goodbye_is_stored_though_the_log_is_late(replica: Replica, version: int) -> None:
    device = resuming(replica, version=version)
    replica.log.hold()
    device.publish(qos=2)
    device.disconnect()
    await settled(replica)
    assert stored(replica) == [b"x"]
    replica.log.release()
    again = resuming(replica, version=version)
    assert again.present
    await assert_completes(replica, again, version)


@BOTH
async def test_what_was_set_aside_at_the_end_waits_for_the_log_too(replica: Replica, version: int) -> None:
    device = resuming(replica, version=version)
    device.publish(qos=2)
    await settled(replica)
    device.vanish()
    replica.log.hold()
    again = Device(replica, version)
    fields = {"properties": {SESSION_EXPIRY_INTERVAL: 60}} if version == MQTT_5_0 else {}
    again.connect("device", clean_start=False, **fields)
    replica.log.release(1)
    again.publish(qos=2, packet_id=2, payload=b"another")
    again.vanish()
    replica.log.release()
    await settled(replica)
    assert stored(replica) == [b"x"]


async def test_the_log_is_told_of_what_a_takeover_inherits(replica: Replica) -> None:
    """Another replica could not know the message that Kafka has not answered, so there the session is not present."""
    beside = Replica(node="node-8", beside=replica)
    device = resuming(replica)
    await settled(replica)
    replica.gateway.hold()
    device.publish(qos=2)
    assert resuming(replica).present
    replica.gateway.release()
    assert not resuming(beside).present


@BOTH
async def test_a_takeover_and_at_once_another_elsewhere(replica: Replica, version: int) -> None:
    """The first one's CLAIM lists what waits for PUBREL, but not what is still on its way to Kafka."""
    beside = Replica(node="node-8", beside=replica)
    device = resuming(replica, version=version)
    await settled(replica)
    replica.gateway.hold()
    device.publish(qos=2)
    replica.log.hold()
    fields = {"properties": {SESSION_EXPIRY_INTERVAL: 60}} if version == MQTT_5_0 else {}
    Device(replica, version).connect("device", clean_start=False, **fields)
    elsewhere = Device(beside, version)
    elsewhere.connect("device", clean_start=False, **fields)
    replica.log.release()
    connack = elsewhere.take()
    assert (connack[0], connack[2]) == (0x20, 0)
    replica.gateway.release()
