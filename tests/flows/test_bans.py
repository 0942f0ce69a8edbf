"""The list of bans at work: who is let go and kept out, on every replica, and what is said when Kafka is silent."""

import asyncio
import json
from collections.abc import AsyncIterator, Callable
from typing import Any

import pytest

from proxy import limits
from proxy.errors import GatewayError
from proxy.flows.bans import BanListFull, Bans, BanSettings, BansUnwritable
from proxy.mqtt.packets import MQTT_3_1, MQTT_3_1_1, MQTT_5_0
from proxy.policy.bans import ADDRESS, CLIENT_ID, USERNAME, Ban
from tests.flows.harness import Device, Replica
from tests.support.fakes import until
from tests.support.memory_log import MemoryKafka

TOPIC = "t_bans"
KICKED = b"\xe0\x01\x98"
#: CONNACK with the refusal, by version.
REFUSED = {MQTT_3_1: b"\x20\x02\x00\x05", MQTT_3_1_1: b"\x20\x02\x00\x05", MQTT_5_0: b"\x20\x03\x00\x8a\x00"}


class Post:
    """One replica with its bans."""

    def __init__(self, replica: Replica) -> None:
        self.replica = replica
        self.now_ms = 1_000_000
        #: What the last CONNECT was answered at once.
        self.connack = b""
        self.bans = Bans(BanSettings(TOPIC, {}), replica.gateway, replica.uplink, lambda: self.now_ms)
        replica.uplink.banned = lambda *client: self.bans.find(*client) is not None
        self.running = asyncio.create_task(self.bans.run())

    async def set(self, kind: Any, value: str, seconds: int | None = None) -> Ban:
        return await self.bans.set(kind, value, seconds, "because", "ops")

    def connect(self, client_id: str = "c1", version: int = MQTT_5_0, **fields: Any) -> Device:
        device = Device(self.replica, version)
        self.connack = device.connect(client_id, **fields)
        return device


@pytest.fixture
def memory_kafka(monkeypatch: pytest.MonkeyPatch) -> MemoryKafka:
    memory_kafka = MemoryKafka()
    memory_kafka.install(monkeypatch)
    return memory_kafka


@pytest.fixture
async def make(memory_kafka: MemoryKafka) -> AsyncIterator[Callable[..., Any]]:
    made: list[Post] = []

    async def make(beside: Post | None = None) -> Post:
        replica = Replica(beside=beside.replica if beside else None, node=f"node-{len(made)}")
        replica.gateway.add_topic(TOPIC)
        if not beside:
            memory_kafka.gateways.append(replica.gateway)
        made.append(Post(replica))
        await until(made[-1].bans.known.is_set, "the bans are known")
        return made[-1]

    yield make
    for post in made:
        post.running.cancel()
        await asyncio.wait((post.running,))
        assert post.replica.listener.bugs == 0
        assert post.replica.gateway.bugs == []
    assert not memory_kafka.open


@pytest.fixture
async def post(make: Callable[..., Any]) -> Post:
    made: Post = await make()
    return made


@pytest.mark.parametrize("version", [MQTT_3_1, MQTT_3_1_1, MQTT_5_0])
@pytest.mark.parametrize(("kind", "value"), [(CLIENT_ID, "c1"), (USERNAME, "u1"), (ADDRESS, "10.0.0.0/8")])
async def test_who_is_banned_is_let_go_and_stays_out(post: Post, version: int, kind: str, value: str) -> None:
    device = post.connect(version=version, username="u1")
    other = post.connect("c2") if kind != ADDRESS else None
    await post.set(kind, value)
    await until(lambda: device.gone, "the device is told")
    assert device.take() == (KICKED if version == MQTT_5_0 else b"")
    await until(lambda: ("c1", "kicked") in post.replica.comings_and_goings(), "its end is announced")
    post.connect(version=version, username="u1")
    assert post.connack == REFUSED[version]
    assert post.replica.count("mqk_connects_total", result="banned") == 1
    assert other is None or not other.gone


async def test_who_is_lifted_may_come_back(post: Post) -> None:
    ban = await post.set(CLIENT_ID, "c1")
    assert post.bans.in_force() == [ban]
    assert await post.bans.lift(CLIENT_ID, "c1") == ban
    assert post.bans.in_force() == []
    post.connect()
    assert post.replica.uplink.clients.keys() == {"c1"}
    assert await post.bans.lift(CLIENT_ID, "c1") is None, "there is nothing to lift any more"


async def test_all_replicas_obey(post: Post, make: Callable[..., Any]) -> None:
    there = await make(beside=post)
    device = there.connect()
    await post.set(CLIENT_ID, "c1")
    await until(lambda: device.gone, "the device of the other replica is told")
    late = await make(beside=post)
    assert [each.value for each in late.bans.in_force()] == ["c1"], "one that starts later reads it first"
    late.connect()
    assert late.connack == REFUSED[MQTT_5_0]


async def test_a_ban_that_comes_while_a_device_connects(post: Post) -> None:
    post.replica.log.hold()
    device = post.connect()
    assert post.connack == b"", "its CLAIM has not been read back"
    await post.set(CLIENT_ID, "c1")
    post.replica.log.release()
    assert device.take() == REFUSED[MQTT_5_0]
    assert not post.replica.uplink.clients


async def test_an_expired_ban_counts_no_more_and_leaves_kafka(post: Post, make: Callable[..., Any]) -> None:
    there = await make(beside=post)
    await post.set(CLIENT_ID, "c1", 60)
    await until(lambda: len(there.bans.table) == 1, "the other replica has it")
    for each in (post, there):
        each.now_ms += 60_000
    assert post.bans.in_force() == []
    post.connect()
    assert post.connack[:1] == b"\x20"
    assert post.connack != REFUSED[MQTT_5_0]
    # Both replicas take it out; the second tombstone ends nothing.
    for each in (post, there):
        each.bans.sweep()
    await until(lambda: len(post.bans.table) == len(there.bans.table) == 0, "it is out")
    assert [record.value for record in post.replica.gateway.stored(TOPIC)[1:]] == [None, None]


async def test_it_sweeps_by_itself(make: Callable[..., Any], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(limits, "BAN_SWEEP_SECONDS", 0.001)
    post: Post = await make()
    await post.set(CLIENT_ID, "c1", 60)
    await post.set(CLIENT_ID, "c2")
    post.now_ms += 60_000
    await until(lambda: len(post.bans.table) == 1, "the first is out")


async def test_the_end_of_a_ban_does_not_end_the_next(post: Post) -> None:
    await post.set(CLIENT_ID, "c1", 60)
    post.now_ms += 60_000
    post.replica.gateway.hold()
    post.bans.sweep()
    again = asyncio.create_task(post.set(CLIENT_ID, "c1"))
    await asyncio.sleep(0)
    # The tombstone of the first is read behind the second, as from a replica that was slow.
    waiting = post.replica.gateway._queue.entries
    waiting.rotate(1)
    post.replica.gateway.release()
    ban = await again
    await until(lambda: len(post.replica.gateway.stored(TOPIC)) == 4, "the second is written again")
    assert post.replica.gateway.stored(TOPIC)[-1].value == ban.encode(), "as compaction keeps the last record"
    assert post.bans.in_force() == [ban]


async def test_kafka_refuses(post: Post) -> None:
    post.replica.gateway.error = GatewayError("not enough replicas")
    with pytest.raises(BansUnwritable, match="not enough replicas"):
        await post.set(CLIENT_ID, "c1")
    assert post.bans.in_force() == []


async def test_kafka_is_away(post: Post) -> None:
    post.replica.gateway.ready = False
    with pytest.raises(BansUnwritable, match="nothing was changed"):
        await post.set(CLIENT_ID, "c1")
    assert post.replica.gateway.stored(TOPIC) == []


async def test_kafka_is_silent(post: Post, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(limits, "BAN_WRITE_SECONDS_MAX", 0.01)
    post.replica.gateway.hold()
    with pytest.raises(BansUnwritable, match="may come into force yet"):
        await post.set(CLIENT_ID, "c1")
    post.replica.gateway.release()
    await asyncio.sleep(0)
    assert post.replica.gateway.stored(TOPIC) == [], "it was withdrawn"


async def test_there_is_a_most(post: Post, monkeypatch: pytest.MonkeyPatch) -> None:
    post.bans.table._most = 2
    for name in ("a", "b"):
        await post.set(CLIENT_ID, name)
    with pytest.raises(BanListFull):
        await post.set(CLIENT_ID, "c")
    assert (await post.set(CLIENT_ID, "a", 5)).expires_ms, "one that is there may be changed"
    # Another replica may have been as quick: what is one too many is counted, and nobody is told that it counts.
    monkeypatch.setattr(type(post.bans.table), "full", property(lambda table: False))
    monkeypatch.setattr(post.bans.table, "put", lambda ban: False)
    with pytest.raises(BanListFull):
        await post.set(CLIENT_ID, "d")
    assert post.bans.ignored == 1


async def test_what_is_not_ours_is_counted_and_the_rest_is_read(post: Post) -> None:
    gateway = post.replica.gateway
    for key, value in ((b"nonsense", b"{}"), (b"clientid:x", b"{"), (b"clientid:y", None)):
        gateway.enqueue(gateway.destination(TOPIC, key), value, [], post.bans, 0)  # type: ignore[arg-type]
    ban = await post.set(CLIENT_ID, "c1")
    await until(lambda: post.bans.unreadable == 2, "both are counted")
    assert post.bans.in_force() == [ban]
    assert json.loads(ban.encode())["by"] == "ops"
