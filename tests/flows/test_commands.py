"""Commands from Kafka: each has a result, and nothing is committed before its time."""

import asyncio
import json
from collections.abc import AsyncIterator, Callable
from typing import Any

import pytest
from prometheus_client import CollectorRegistry, Counter

from proxy import limits
from proxy.cluster.commands import ClientOutcome, Result
from proxy.errors import GatewayError, Refusal
from proxy.flows.commands import Commands, CommandSettings, encode_result, topic_owner
from proxy.flows.control import Control
from tests.support.fakes import until
from tests.support.kafka_broker import Record
from tests.support.memory_commands import MemoryCommands, Place
from tests.support.memory_gateway import MemoryGateway
from tests.support.memory_log import MemoryKafka
from tests.support.town import ACK_SECONDS, Town

DOWN, KICK, RESULTS = "t_msg_down", "t_kick_out", "t_command_results"
NOW_MS = 1_000_000


class Desk:
    """One replica that reads commands."""

    def __init__(self, kafka: MemoryKafka, memory: MemoryCommands, **settings: Any) -> None:
        self.town = Town("a")
        self.executor = self.town["a"].executor
        self.gateway = MemoryGateway({RESULTS: 1})
        kafka.gateways.append(self.gateway)
        self.memory = memory
        self.registry = CollectorRegistry()
        counter = Counter("mqk_commands", "-", ["kind", "outcome"], registry=self.registry)
        town = self.town
        self.control = Control(
            town["a"], self.executor, town["a"].inbox, counter, ACK_SECONDS, town.clock, lambda: NOW_MS
        )
        known = {"group": "g", "start": "earliest", "max_age_seconds": 0, "owner": topic_owner("")}
        self.settings = CommandSettings({}, "t_", **{**known, **settings})
        self.commands = Commands(self.settings, self.gateway, self.control, lambda: NOW_MS)

    def write(
        self, topic: str, key: bytes | None, value: bytes | None, timestamp_ms: int = NOW_MS, **headers: str
    ) -> None:
        records = self.gateway.log.setdefault((topic, 0), [])
        given = [(name, content.encode()) for name, content in headers.items()]
        records.append(Record(topic, 0, len(records), key, value, given, timestamp_ms))  # type: ignore[arg-type]

    def down(self, client_id: str, name: str = "") -> None:
        self.write(DOWN, b"a", b"x", clientid=client_id, id=name)

    def results(self) -> list[dict[str, Any]]:
        return [json.loads(record.value or b"") for record in self.gateway.stored(RESULTS)]

    def outcomes(self) -> dict[str, str]:
        return {each["id"]: each["outcome"] for each in self.results()}

    def committed(self, topic: str = DOWN) -> int:
        return self.memory.committed.get((topic, 0), 0)


@pytest.fixture
async def memory(monkeypatch: pytest.MonkeyPatch) -> MemoryCommands:
    monkeypatch.setattr(limits, "COMMAND_COMMIT_SECONDS", 0.01)
    monkeypatch.setattr(limits, "RETRY_SECONDS", 0.01)
    monkeypatch.setattr(limits, "COMMAND_PAUSE_SECONDS", 0.001)
    memory = MemoryCommands(MemoryKafka())
    memory.install(monkeypatch)
    return memory


@pytest.fixture
async def start(memory: MemoryCommands) -> AsyncIterator[Callable[..., Desk]]:
    tasks = []

    def start(**settings: Any) -> Desk:
        desk = Desk(memory.kafka, memory, **settings)
        tasks.append(asyncio.create_task(desk.commands.run()))
        return desk

    yield start
    for task in tasks:
        task.cancel()
    await asyncio.wait(tasks)
    assert not memory.kafka.open


async def test_each_record_has_a_result(start: Callable[..., Desk]) -> None:
    desk = start()
    desk.town.connect("one", "a", "u")
    desk.down("one")
    desk.write(DOWN, None, b"x")
    desk.write(KICK, None, b'{"username": "u"}', id="mine")
    await until(lambda: len(desk.results()) == 3, "all have a result")
    assert sorted(desk.results(), key=lambda each: each["id"]) == [
        {
            "id": "mine",
            "kind": "kick",
            "outcome": "done",
            "clients": [{"clientid": "one", "outcome": "done", "node": "a"}],
            "timestamp": NOW_MS,
        },
        {
            "id": "t_msg_down-0-0",
            "kind": "deliver",
            "outcome": "delivered",
            "clients": [{"clientid": "one", "outcome": "delivered", "node": "a"}],
            "timestamp": NOW_MS,
        },
        {
            "id": "t_msg_down-0-1",
            "kind": "deliver",
            "outcome": "malformed",
            "clients": [],
            "timestamp": NOW_MS,
            "error": "the record has no key: it is the MQTT topic",
        },
    ]
    await until(lambda: (desk.committed(), desk.committed(KICK)) == (2, 1), "all are committed")
    assert desk.registry.get_sample_value("mqk_commands_total", {"kind": "deliver", "outcome": "malformed"}) == 1


async def test_nothing_is_committed_past_a_command_that_is_not_settled(start: Callable[..., Desk]) -> None:
    desk = start()
    desk.town.connect("silent", "a")
    desk.executor.outcome = None
    desk.down("nobody", "0")
    desk.down("silent", "1")
    desk.down("nobody", "2")
    await until(lambda: len(desk.results()) == 2, "two have a result")
    await until(lambda: desk.committed() == 1, "the first is committed")
    assert (desk.commands.unsettled, desk.commands.uncommitted) == (1, 2)
    desk.executor.report("timed_out")
    await until(lambda: desk.committed() == 3, "all are committed")
    assert desk.outcomes() == {"0": "offline", "1": "timed_out", "2": "offline"}


async def test_a_command_is_done_when_its_result_is_in_kafka(start: Callable[..., Desk]) -> None:
    desk = start()
    desk.gateway.error = GatewayError("not in time")
    desk.down("nobody", "0")
    await until(lambda: desk.control.in_flight == 0 and desk.commands.unsettled == 1, "it has been executed")
    assert desk.committed() == 0
    desk.gateway.error = None
    await until(lambda: desk.committed() == 1, "the result has been sent again")
    assert desk.outcomes() == {"0": "offline"}


async def test_a_result_that_kafka_never_takes_is_given_up(start: Callable[..., Desk]) -> None:
    desk = start()
    desk.gateway.error = GatewayError("no", Refusal.NOT_AUTHORIZED)
    desk.down("nobody", "0")
    await until(lambda: desk.committed() == 1, "it does not stop the others")
    assert desk.commands.results_lost == 1


async def test_old_kicks_are_not_executed(start: Callable[..., Desk]) -> None:
    desk = start(max_age_seconds=60)
    desk.town.connect("one", "a", "u")
    for name, age_ms in (("old", 60_001), ("new", 59_999)):
        desk.write(KICK, None, b'{"username": "u"}', NOW_MS - age_ms, id=name)
    desk.write(DOWN, b"a", b"x", 0, clientid="one", id="down")
    await until(lambda: len(desk.results()) == 3, "all have a result")
    assert desk.outcomes() == {"old": "expired", "new": "done", "down": "delivered"}
    assert ("old", "one") not in desk.executor.executed


async def test_the_owner_of_a_topic(start: Callable[..., Desk]) -> None:
    desk = start(owner=topic_owner("tlink/{product_key}/{device_name}/#"))
    desk.town.connect("one", "a", "dev&pk")
    desk.town.connect("two", "a", "other")
    desk.write(DOWN, b"tlink/pk/dev/a", b"x", id="1")
    await until(lambda: len(desk.results()) == 1, "it has a result")
    assert desk.executor.executed == [("1", "one")]


def test_owners() -> None:
    owner = topic_owner("tlink/{product_key}/{device_name}/#")
    assert [owner(topic) for topic in ("tlink/pk/dev", "tlink/pk/dev/a/b", "tlink/pk", "tlink//dev", "x/pk/dev")] == [
        "dev&pk",
        "dev&pk",
        None,
        None,
        None,
    ]
    assert topic_owner("{username}/down")("u/down") == "u"
    assert topic_owner("")("u/down") is None


# ---- bounds ----


async def test_it_waits_while_too_many_are_under_way(
    start: Callable[..., Desk], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(limits, "COMMANDS_IN_FLIGHT_MAX", 3)
    desk = start()
    desk.town.connect("silent", "a")
    desk.executor.outcome = None
    for _ in range(3):
        desk.down("silent")
    await until(lambda: desk.control.full, "there is no room")
    desk.down("nobody", "late")
    for _ in range(20):
        await asyncio.sleep(0)
    assert "late" not in desk.outcomes()
    desk.executor.report("delivered")
    await until(lambda: desk.outcomes().get("late") == "offline", "there is room again")


async def test_it_waits_while_too_many_stand_behind_one(
    start: Callable[..., Desk], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(limits, "COMMANDS_UNCOMMITTED_MAX", 3)
    desk = start()
    desk.town.connect("silent", "a")
    desk.executor.outcome = None
    desk.down("silent")
    for _ in range(2):
        desk.down("nobody")
    await until(lambda: desk.commands.uncommitted == 3, "they wait")
    desk.down("nobody", "late")
    for _ in range(20):
        await asyncio.sleep(0)
    assert "late" not in desk.outcomes()
    desk.executor.report("delivered")
    await until(lambda: desk.committed() == 4, "all are committed")


def test_a_result_names_so_many_clients() -> None:
    clients = [ClientOutcome(f"c{number}", "delivered", "a") for number in range(limits.RESULT_CLIENTS_MAX + 5)]
    told = json.loads(encode_result(Result("1", "deliver", "delivered", clients), 1))
    assert (len(told["clients"]), told["clients_more"]) == (limits.RESULT_CLIENTS_MAX, 5)
    assert "clients_more" not in json.loads(encode_result(Result("1", "deliver", "delivered", clients[:9]), 1))


# ---- partitions that go elsewhere, and the end ----


async def test_before_partitions_go_what_is_under_way_may_settle(start: Callable[..., Desk]) -> None:
    desk = start()
    desk.town.connect("slow", "a")
    desk.executor.outcome = None
    desk.down("slow", "0")
    await until(lambda: desk.commands.unsettled == 1, "it is under way")
    [reader] = desk.memory.readers
    going = asyncio.create_task(reader.member.revoked())
    await asyncio.sleep(0)
    desk.down("slow", "1")
    desk.executor.report("delivered")
    await asyncio.wait_for(going, 5)
    assert desk.committed() == 1
    assert desk.commands.uncommitted == 0
    desk.executor.outcome = "delivered"
    reader.assign()
    await until(lambda: desk.committed() == 2, "the other was left to the next member")
    assert desk.executor.executed == [("0", "slow"), ("1", "slow")]


async def test_what_does_not_settle_is_left_to_the_next_member(
    start: Callable[..., Desk], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(limits, "COMMAND_REVOKE_SECONDS_MAX", 0.01)
    desk = start()
    desk.town.connect("silent", "a")
    desk.executor.outcome = None
    desk.down("silent", "0")
    await until(lambda: desk.commands.unsettled == 1, "it is under way")
    [reader] = desk.memory.readers
    await asyncio.wait_for(reader.member.revoked(), 5)
    assert desk.committed() == 0
    desk.executor.report("delivered")
    for _ in range(5):
        await asyncio.sleep(0)
    assert desk.results() == [], "the next member says what comes of it"
    desk.executor.outcome = "delivered"
    reader.assign()
    await until(lambda: desk.committed() == 1, "it is executed again, with the same id")
    assert desk.executor.executed == [("0", "silent"), ("0", "silent")]


async def test_at_the_end_it_reads_no_more_and_commits_what_settles(start: Callable[..., Desk]) -> None:
    desk = start()
    desk.town.connect("slow", "a")
    desk.executor.outcome = None
    desk.down("slow", "0")
    await until(lambda: desk.commands.unsettled == 1, "it is under way")
    stopping = asyncio.create_task(desk.commands.stop(5))
    await asyncio.sleep(0)
    desk.down("slow", "1")
    desk.executor.report("delivered")
    await asyncio.wait_for(stopping, 5)
    await until(lambda: desk.committed() == 1 and not desk.memory.kafka.open, "it has left the group")
    assert desk.executor.executed == [("0", "slow")]


async def test_a_kafka_that_goes_away_is_asked_again(
    start: Callable[..., Desk], monkeypatch: pytest.MonkeyPatch
) -> None:
    desk = start()
    await until(lambda: bool(desk.memory.readers), "it reads")
    [reader] = desk.memory.readers

    async def gone() -> dict[Place, list[Any]]:
        raise OSError("gone")

    monkeypatch.setattr(reader, "read", gone)
    await until(lambda: len(desk.memory.readers) == 2, "it reads anew")
    desk.down("nobody", "0")
    await until(lambda: desk.committed() == 1, "and goes on")
