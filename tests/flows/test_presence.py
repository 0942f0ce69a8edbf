"""The status topic: every field, its order and its type, as those who read it expect them."""

import logging

import pytest

from proxy.errors import GatewayError
from proxy.kafka.batches import md5_partition
from proxy.mqtt.packets import MQTT_3_1_1, MQTT_5_0, Connect
from proxy.session.events import EndReason
from tests.flows.harness import STATUS, Replica
from tests.support.fakes import turn


@pytest.fixture(autouse=True)
def noon(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("proxy.flows.presence.wall_ms", lambda: 1_652_084_485_000)


async def test_connected(replica: Replica) -> None:
    replica.presence.connected("c1", "10.0.0.1", Connect(MQTT_3_1_1, "c1", keep_alive=60, username="dev1&pk1"))
    await turn()
    await turn()
    (record,) = replica.gateway.stored(STATUS)
    assert (record.value or b"").decode() == (
        '{"action":"connected","clientid":"c1","username":"dev1&pk1","keepalive":60,"ipaddress":"10.0.0.1",'
        '"proto_name":"MQTT","proto_ver":4,"timestamp":1652084485000,"online":1,"node":"node-7","peer_cert_cn":null}'
    )
    assert (record.key, record.headers) == (b"c1", [])


async def test_disconnected(replica: Replica) -> None:
    replica.presence.disconnected("c1", "dev1&pk1", EndReason.NORMAL)
    await turn()
    await turn()
    (record,) = replica.gateway.stored(STATUS)
    assert (record.value or b"").decode() == (
        '{"action":"disconnected","clientid":"c1","username":"dev1&pk1","reason":"normal",'
        '"timestamp":1652084485000,"online":0,"node":"node-7","peer_cert_cn":null}'
    )


async def test_without_a_user_name_and_with_5_0(replica: Replica) -> None:
    # A CONNECT may leave its client id to us, so the one that counts is given beside it.
    replica.presence.connected("given", "", Connect(MQTT_5_0, ""))
    replica.presence.disconnected("given", None, EndReason.TCP_CLOSED)
    await turn()
    await turn()
    came, went = replica.told()
    assert (came["clientid"], came["username"], came["keepalive"], came["proto_ver"]) == ("given", None, 0, 5)
    assert (went["clientid"], went["username"], went["reason"]) == ("given", None, "tcp_closed")


async def test_text_is_utf_8_and_cannot_leave_its_field(replica: Replica) -> None:
    name = 'gerät","online":1,"\n'
    replica.presence.disconnected(name, name, EndReason.NORMAL)
    await turn()
    await turn()
    (record,) = replica.gateway.stored(STATUS)
    assert "gerät".encode() in (record.value or b"")
    assert record.key == name.encode()
    (told,) = replica.told()
    assert (told["clientid"], told["username"], told["online"]) == (name, name, 0)


@pytest.mark.parametrize("reason", EndReason)
async def test_every_reason_is_a_plain_word(replica: Replica, reason: EndReason) -> None:
    replica.presence.disconnected("c1", None, reason)
    await turn()
    await turn()
    assert replica.told()[0]["reason"] == reason.value
    assert reason.value.replace("_", "").isalpha()


async def test_the_key_may_be_the_action() -> None:
    replica = Replica(key_is_action=True)
    replica.presence.connected("c1", "", Connect(MQTT_3_1_1, "c1"))
    replica.presence.disconnected("c1", None, EndReason.NORMAL)
    await turn()
    await turn()
    assert [record.key for record in replica.gateway.stored(STATUS)] == [b"connected", b"disconnected"]


async def test_the_partition_follows_from_the_key(replica: Replica) -> None:
    replica.gateway.add_partitions(STATUS, 8)
    for client_id in ("c1", "c2", "c3"):
        replica.presence.disconnected(client_id, None, EndReason.NORMAL)
    await turn()
    await turn()
    found = {record.key: record.partition for record in replica.gateway.stored(STATUS)}
    assert found == {key: md5_partition(key, 8) for key in (b"c1", b"c2", b"c3")}


async def test_what_is_stored_and_what_is_lost_is_counted(replica: Replica, caplog: pytest.LogCaptureFixture) -> None:
    replica.presence.disconnected("c1", None, EndReason.NORMAL)
    await turn()
    await turn()
    replica.gateway.error = GatewayError("not delivered in time")
    for _ in range(3):
        replica.presence.disconnected("c1", None, EndReason.NORMAL)
    await turn()
    await turn()
    assert replica.count("mqk_presence_records_total", result="stored") == 1
    assert replica.count("mqk_presence_records_total", result="lost") == 3
    assert caplog.records[0].levelno == logging.WARNING
    assert sum(vars(record)["records"] for record in caplog.records) == 3


async def test_a_status_topic_that_is_not_there_stops_nobody(caplog: pytest.LogCaptureFixture) -> None:
    replica = Replica(md5_partitions=250)
    replica.presence.connected("c1", "", Connect(MQTT_3_1_1, "c1"))
    await turn()
    assert replica.told() == []
    assert replica.count("mqk_presence_records_total", result="lost") == 1
    assert "has 1 partitions" in vars(caplog.records[0])["error"]
