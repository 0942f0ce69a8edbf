"""Who comes in, who is turned away and what they hear, and that a client identifier has one connection."""

import asyncio
import logging

import pytest

from proxy.errors import AuthError
from proxy.mqtt.packets import MQTT_3_1_1, MQTT_5_0, ReasonCode, Will
from proxy.mqtt.topics import TopicName
from proxy.policy.authenticators.base import Login
from tests.flows.harness import UP, Device, Replica, connected, disconnect, puback, refused
from tests.support.fakes import break_session, turn, until

BOTH = pytest.mark.parametrize("version", [MQTT_3_1_1, MQTT_5_0], ids=["3.1.1", "5.0"])
CONNACK = b"\x20\x02\x00\x00"


class Gate:
    """An authenticator that lets nobody through until the test has said what it answers."""

    def __init__(self, known: bool | None = None) -> None:
        #: What is known without waiting.
        self.known = known
        self.logins: list[Login] = []
        self.answer: asyncio.Future[bool] = asyncio.get_running_loop().create_future()

    def passes_on(self, login: Login) -> bool:
        return False

    def cached(self, login: Login) -> bool | None:
        return self.known

    async def authenticate(self, login: Login) -> bool | None:
        self.logins.append(login)
        return await asyncio.shield(self.answer)

    def forget(self, username: str | None) -> None:
        pass

    def close(self) -> None:
        pass


@pytest.fixture
async def gate() -> Gate:
    return Gate()


@pytest.fixture
async def guarded(gate: Gate) -> Replica:
    return Replica(authenticators=[gate])


async def test_a_device_comes_in(replica: Replica) -> None:
    device = Device(replica)
    assert device.connect("c1", username="u", keep_alive=30) == CONNACK
    assert list(replica.uplink.clients) == ["c1"]
    await turn()
    await until(replica.told, "the status record")
    assert replica.comings_and_goings() == [("c1", "connected")]
    assert replica.count("mqk_connects_total", result="accepted") == 1


@BOTH
@pytest.mark.parametrize(
    ("reason", "return_code"),
    [
        (ReasonCode.SERVER_UNAVAILABLE, 3),
        (ReasonCode.SERVER_BUSY, 3),
        (ReasonCode.CONNECTION_RATE_EXCEEDED, 3),
        (ReasonCode.BAD_USER_NAME_OR_PASSWORD, 4),
    ],
    ids=lambda value: value.name.lower() if isinstance(value, ReasonCode) else "",
)
async def test_who_is_turned_away_hears_why(version: int, reason: ReasonCode, return_code: int) -> None:
    replica = Replica(
        authenticators=[Gate(known=False)] if reason == ReasonCode.BAD_USER_NAME_OR_PASSWORD else (),
        connects_per_second_max=1,
    )
    replica.gateway.full = reason == ReasonCode.SERVER_BUSY
    replica.gateway.ready = reason != ReasonCode.SERVER_UNAVAILABLE
    if reason == ReasonCode.CONNECTION_RATE_EXCEEDED:
        connected(replica, "first")
    device = Device(replica, version)
    assert device.connect("c1") == refused(reason, return_code, version)
    assert device.gone
    await turn()
    assert "c1" not in replica.uplink.clients
    assert replica.count("mqk_connects_total", result=reason.name.lower()) == 1
    assert ("c1", "connected") not in replica.comings_and_goings()
    assert len(replica.listener.connections) == (reason == ReasonCode.CONNECTION_RATE_EXCEEDED)


@BOTH
async def test_nobody_comes_in_while_the_replica_drains(replica: Replica, version: int) -> None:
    replica.uplink.draining = True
    device = Device(replica, version)
    assert device.connect() == refused(ReasonCode.SERVER_UNAVAILABLE, 3, version)


async def test_nobody_is_authenticated_while_the_replica_drains(gate: Gate, guarded: Replica) -> None:
    guarded.uplink.draining = True
    device = Device(guarded)
    device.connect()
    await turn()
    assert device.gone
    assert gate.logins == []


async def test_a_refused_device_leaves_no_will(replica: Replica) -> None:
    replica.uplink.draining = True
    Device(replica).connect(will=Will(TopicName("tlink/w", b"tlink/w"), b"gone"))
    await turn()
    assert replica.gateway.stored(UP) == []
    assert replica.told() == []


async def test_connects_are_counted_by_the_second(monkeypatch: pytest.MonkeyPatch) -> None:
    replica = Replica(connects_per_second_max=4)
    monkeypatch.setattr("proxy.flows.client.monotonic", replica.clock)
    answers = [Device(replica).connect(f"c{number}")[3] for number in range(6)]
    assert answers == [0, 0, 0, 0, 3, 3]
    replica.clock.now += 0.25
    assert [Device(replica).connect(f"d{number}")[3] for number in range(2)] == [0, 3]


@BOTH
async def test_a_device_without_a_client_id_is_given_one(replica: Replica, version: int) -> None:
    one, two = Device(replica, version), Device(replica, version)
    connacks = [device.connect("") for device in (one, two)]
    first, second = replica.uplink.clients
    assert first != second
    assert first.startswith("mqk-")
    await until(replica.told, "the status records")
    assert replica.comings_and_goings() == [(first, "connected"), (second, "connected")]
    if version == MQTT_5_0:
        assert b"\x12\x00\x18" + first.encode() in connacks[0]


# ---- logins that take time ----


async def test_a_login_waits_for_its_answer(gate: Gate, guarded: Replica) -> None:
    device = Device(guarded)
    assert device.connect("c1", username="u", password=b"secret") == b""
    await turn()
    assert guarded.uplink.logins_waiting == 1
    (login,) = gate.logins
    assert (login.client_id, login.username, login.password) == ("c1", "u", b"secret")
    assert (login.address, login.peer_cert_cn) == ("10.0.0.1", None)
    assert guarded.uplink.clients == {}
    gate.answer.set_result(True)
    await until(lambda: guarded.uplink.logins_waiting == 0, "the login is over")
    assert device.take() == CONNACK
    assert list(guarded.uplink.clients) == ["c1"]


async def test_what_comes_behind_connect_waits_too(gate: Gate, guarded: Replica) -> None:
    device = Device(guarded)
    device.connect()
    device.publish()
    assert device.take() == b""
    gate.answer.set_result(True)
    await until(lambda: len(device.transport.written) > len(CONNACK), "the answers")
    assert device.take() == CONNACK + puback(1)


async def test_who_closes_before_connack_is_heard_to_the_end(gate: Gate, guarded: Replica) -> None:
    device = Device(guarded)
    device.connect()
    device.publish(qos=0)
    device.disconnect()
    assert device.connection.eof_received(), "our side stays open"
    gate.answer.set_result(True)
    await until(lambda: device.gone, "the end")
    assert device.take() == CONNACK
    assert guarded.count("mqk_disconnects_total", reason="normal") == 1
    await until(lambda: guarded.gateway.stored(UP), "the message is in Kafka")
    # The socket ends after that, and nothing more comes of it.
    device.connection.connection_lost(None)
    assert not device.connection.eof_received()


async def test_a_known_login_is_answered_at_once(gate: Gate, guarded: Replica) -> None:
    gate.known = True
    assert Device(guarded).connect() == CONNACK
    assert (gate.logins, guarded.uplink.logins_waiting) == ([], 0)


@BOTH
async def test_a_wrong_password(gate: Gate, guarded: Replica, version: int) -> None:
    device = Device(guarded, version)
    device.connect()
    gate.answer.set_result(False)
    await until(lambda: device.gone, "the answer")
    assert device.take() == refused(ReasonCode.BAD_USER_NAME_OR_PASSWORD, 4, version)


@BOTH
async def test_an_authenticator_that_cannot_answer_now(gate: Gate, guarded: Replica, version: int) -> None:
    device = Device(guarded, version)
    device.connect()
    gate.answer.set_exception(AuthError(ReasonCode.SERVER_BUSY, "too many wait"))
    await until(lambda: device.gone, "the answer")
    assert device.take() == refused(ReasonCode.SERVER_BUSY, 3, version)
    assert guarded.count("mqk_connects_total", result="server_busy") == 1


@pytest.mark.parametrize("answer", [True, False, AuthError(ReasonCode.SERVER_BUSY, "too many wait")])
async def test_a_device_that_has_gone_while_its_password_was_checked(
    gate: Gate, guarded: Replica, answer: bool | AuthError
) -> None:
    device = Device(guarded)
    device.connect()
    await turn()
    (login,) = guarded.uplink._logins
    device.vanish()
    await turn()
    if isinstance(answer, AuthError):
        gate.answer.set_exception(answer)
    else:
        gate.answer.set_result(answer)
    await login
    assert device.take() == b""
    assert guarded.uplink.clients == {}
    assert guarded.told() == []
    assert guarded.listener.bugs == 0


async def test_shutdown_began_while_the_password_was_checked(gate: Gate, guarded: Replica) -> None:
    device = Device(guarded, MQTT_5_0)
    device.connect()
    await turn()
    guarded.uplink.draining = True
    gate.answer.set_result(True)
    await until(lambda: device.gone, "the answer")
    assert device.take() == refused(ReasonCode.SERVER_UNAVAILABLE, 3, MQTT_5_0)
    assert guarded.uplink.clients == {}


async def test_a_bug_in_an_authenticator_drops_the_connection(gate: Gate, guarded: Replica) -> None:
    device = Device(guarded)
    device.connect()
    gate.answer.set_exception(ValueError("a bug"))
    await until(lambda: device.gone, "the connection is dropped")
    assert device.transport.aborted
    await until(lambda: guarded.uplink.logins_waiting == 0, "the login is over")
    assert guarded.listener.bugs == 1
    assert guarded.listener.connections == set()


# ---- who was never let in ----


@pytest.mark.parametrize(
    ("data", "result"),
    [
        (b"\x10\x0d\x00\x04MQTT\x09\x02\x00\x00\x00\x01c", "protocol_error"),
        (b"\xc0\x00", "protocol_error"),
        (b"\x10\x03\x00\x04M", "malformed_packet"),
        (b"\x10\xff\xff\x7f", "packet_too_large"),
    ],
    ids=["unknown version", "no CONNECT", "malformed", "too large"],
)
async def test_what_is_no_connect_is_counted_and_logged(
    replica: Replica, caplog: pytest.LogCaptureFixture, data: bytes, result: str
) -> None:
    caplog.set_level(logging.INFO)
    device = Device(replica)
    device.send(data)
    assert device.gone
    assert replica.count("mqk_connects_total", result=result) == 1
    (record,) = caplog.records
    assert record.getMessage() == "connect refused"
    assert vars(record)["address"] == "10.0.0.1"
    assert vars(record)["detail"]


async def test_no_connect_in_time_is_counted(replica: Replica) -> None:
    device = Device(replica)
    replica.clock.now += 11.0
    device.connection.tick(replica.clock.now)
    assert device.gone
    assert replica.count("mqk_connects_total", result="protocol_error") == 1


async def test_a_look_at_the_port_is_not_counted(replica: Replica, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO)
    Device(replica).vanish()
    assert b"mqk_connects_total{" not in replica.metrics.exposition()
    assert caplog.records == []


# ---- one connection per client identifier ----


@BOTH
async def test_the_newer_connection_takes_over(replica: Replica, version: int) -> None:
    older = connected(replica, "c1", version)
    replica.gateway.hold()
    older.publish(payload=b"not sent yet")
    newer = connected(replica, "c1")
    assert older.take() == disconnect(ReasonCode.SESSION_TAKEN_OVER, version)
    assert older.gone
    newer.publish(payload=b"of the newer")
    assert newer.take() == b""
    replica.gateway.release()
    await turn()
    assert replica.comings_and_goings() == [("c1", "connected"), ("c1", "taken_over"), ("c1", "connected")]
    assert [record.value for record in replica.gateway.stored(UP)] == [b"of the newer"]
    assert newer.take() == puback(1)
    assert older.take() == b""
    assert replica.count("mqk_disconnects_total", reason="taken_over") == 1
    assert len(replica.listener.connections) == 1


async def test_the_end_of_the_older_leaves_the_newer_in_place(replica: Replica) -> None:
    older = connected(replica, "c1")
    older.transport.stuck = True
    newer = connected(replica, "c1")
    older.connection.connection_lost(None)
    assert replica.uplink.clients["c1"].connection is newer.connection
    newer.disconnect()
    assert replica.uplink.clients == {}
    await until(lambda: len(replica.told()) == 4, "the status records")
    assert [reason for _, reason in replica.comings_and_goings()] == ["connected", "taken_over", "connected", "normal"]


async def test_an_older_connection_that_fails_to_go_leaves_the_newer_in_place(replica: Replica) -> None:
    older = connected(replica, "c1")
    break_session(older.connection, "data_to_send")
    newer = connected(replica, "c1")
    await turn()
    assert older.transport.aborted
    assert replica.uplink.clients["c1"].connection is newer.connection
    assert list(replica.listener.connections) == [newer.connection]
    assert replica.listener.bugs == 1
    replica.listener.bugs = 0


async def test_a_taken_over_device_leaves_its_will(replica: Replica) -> None:
    connected(replica, "c1", will=Will(TopicName("tlink/w", b"tlink/w"), b"gone"))
    connected(replica, "c1")
    await until(lambda: replica.gateway.stored(UP), "the will")
    assert [record.value for record in replica.gateway.stored(UP)] == [b"gone"]


async def test_different_devices_do_not_meet(replica: Replica) -> None:
    devices = [connected(replica, client_id) for client_id in ("c1", "C1", "c1 ")]
    assert [device.gone for device in devices] == [False] * 3
    assert len(replica.uplink.clients) == 3


@pytest.mark.parametrize(
    ("end", "lines"), [("normal", 0), ("tcp_closed", 0), ("malformed_packet", 1), ("keepalive_timeout", 1)]
)
async def test_an_end_that_is_worth_a_line(
    replica: Replica, caplog: pytest.LogCaptureFixture, end: str, lines: int
) -> None:
    caplog.set_level(logging.INFO)
    device = connected(replica, "c1", keep_alive=10)
    match end:
        case "normal":
            device.disconnect()
        case "tcp_closed":
            device.vanish()
        case "malformed_packet":
            device.send(b"\x00\x00")
        case _:
            replica.clock.now += 15.0
            device.connection.tick(replica.clock.now)
    assert device.gone
    assert replica.count("mqk_disconnects_total", reason=end) == 1
    said = [
        (vars(record)["clientid"], vars(record)["reason"], bool(vars(record)["detail"])) for record in caplog.records
    ]
    assert said == [("c1", end, True)] * lines
