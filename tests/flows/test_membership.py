"""This replica among the others: it joins, says that it lives, sweeps, begins anew, and gives way to its successor."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import pytest

from proxy import limits
from proxy.cluster.table import LocalSession
from proxy.errors import GatewayError
from proxy.flows.membership import Membership, MembershipSettings, Superseded
from proxy.flows.presence import Presence
from proxy.flows.sessions import Sessions
from proxy.kafka.batches import md5_partition
from proxy.kafka.records import CLAIM, RELEASED, About, NodeRecord, SessionRecord, SessionState, decode_node
from proxy.metrics import Metrics
from tests.support.fakes import Clock, turn, until
from tests.support.memory_gateway import PARTITIONS, MemoryGateway
from tests.support.memory_log import MemoryKafka

NODES, SESSIONS, STATUS = "_t_nodes", "_t_sessions", "t_status"
ABOUT = About("u", "10.0.0.9", 60, 4, None, 0)


class Member:
    """A replica's membership, with all that it needs; its connections are a number."""

    def __init__(self, memory_kafka: MemoryKafka, node: str = "a") -> None:
        self.gateway = memory_kafka.gateways[0]
        self.connections = 0
        self.dismissed: list[str] = []
        presence = Presence(self.gateway, Metrics(), STATUS, key_is_action=False, wall_ms=lambda: 0)
        self.sessions = Sessions(self.gateway, SESSIONS, presence, Clock())
        self.presence = presence
        settings = MembershipSettings(node, "10.0.0.1:8080", {}, SESSIONS, NODES, "group")
        self.membership = Membership(
            settings, self.gateway, self.sessions, presence, lambda: self.connections, self.dismissed.append
        )

    @asynccontextmanager
    async def running(self) -> "AsyncIterator[asyncio.Task[None]]":
        task = asyncio.create_task(self.membership.run())
        joined = asyncio.create_task(self.membership.joined.wait())
        await asyncio.wait((task, joined), return_when=asyncio.FIRST_COMPLETED, timeout=5)
        joined.cancel()
        try:
            yield task
        finally:
            task.cancel()
            await asyncio.wait((task,))

    def said(self) -> list[NodeRecord | None]:
        """What the registry has of all replicas."""
        return [
            decode_node(record.key, record.value, record.offset) if record.value is not None else None
            for record in self.gateway.stored(NODES)
        ]


@pytest.fixture
async def memory_kafka(monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[MemoryKafka]:
    memory_kafka = MemoryKafka()
    memory_kafka.gateways.append(MemoryGateway({NODES: 1, SESSIONS: PARTITIONS, STATUS: 1}))
    memory_kafka.install(monkeypatch)
    monkeypatch.setattr(limits, "LOG_FETCH_WAIT_MS", 5)
    for name in ("SWEEP_SECONDS", "TICK_SECONDS", "MARKS_SECONDS", "RETRY_SECONDS"):
        monkeypatch.setattr(limits, name, 0.005)
    yield memory_kafka
    assert memory_kafka.open == set(), "every reader was stopped"
    assert memory_kafka.gateways[0].bugs == []


def test_what_a_replica_waits_for_is_bounded_by_the_time_in_which_records_stay() -> None:
    """Heals have to be faster than compaction, and a lost turn is noticed before that."""
    assert limits.NODE_HEARTBEAT_SECONDS < limits.NODE_READER_SILENCE_SECONDS < limits.NODE_SILENCE_SECONDS_MAX
    assert limits.LOG_FETCH_WAIT_MS / 1000 < limits.NODE_READER_SILENCE_SECONDS


def write(memory_kafka: MemoryKafka, topic: str, key: str, value: bytes | None, headers: Any = ()) -> None:
    """What another replica writes."""

    class Nobody:
        def settle(self, tokens: list[int], error: GatewayError | None, seconds: float) -> None: ...

    gateway = memory_kafka.gateways[0]
    gateway.enqueue(gateway.destination(topic, key.encode(), md5_partition), value, list(headers), Nobody(), 0)


async def test_it_joins_and_says_that_it_lives(memory_kafka: MemoryKafka, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(limits, "NODE_HEARTBEAT_SECONDS", 0.01)
    member = Member(memory_kafka)
    member.connections = 3
    async with member.running():
        assert member.membership.joined.is_set()
        await until(lambda: len(member.said()) > 3, "heartbeats")
        await until(lambda: len(member.membership.registry.alive(0)) == 1, "it hears itself")
    join, *heartbeats = member.said()
    assert join is not None
    assert (join.joins, join.state) == (True, "joining")
    for each in heartbeats:
        assert each is not None
        assert (each.joins, each.incarnation, each.state, each.connections) == (False, 0, "serving", 3)
        assert each.admin_address == "10.0.0.1:8080"
    assert not member.membership.joined.is_set()


async def test_one_heartbeat_is_on_its_way_at_a_time(
    memory_kafka: MemoryKafka, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Else they would fill the queue while Kafka does not answer."""
    monkeypatch.setattr(limits, "NODE_HEARTBEAT_SECONDS", 0.0)
    member = Member(memory_kafka)
    async with member.running():
        member.gateway.hold()
        for _ in range(1_000):
            await turn()
        assert len(member.gateway._queue) <= 1
        member.gateway.error = GatewayError("not delivered in time")
        member.gateway.release()
        member.gateway.error = None
        before = len(member.said())
        await until(lambda: len(member.said()) > before, "the next heartbeat")


async def test_it_leaves_the_registry(memory_kafka: MemoryKafka) -> None:
    member = Member(memory_kafka)
    member.membership.leave()
    async with member.running():
        member.membership.leave()
        await until(lambda: None in member.said(), "the tombstone")


async def test_a_later_process_of_the_same_name_takes_its_place(memory_kafka: MemoryKafka) -> None:
    """Rule 8."""
    older, newer = Member(memory_kafka), Member(memory_kafka)
    async with older.running() as first, newer.running() as second:
        await until(first.done, "the older one stops")
        with pytest.raises(Superseded, match="another process runs as node a since"):
            first.result()
        assert not second.done()
        assert newer.membership.incarnation > older.membership.incarnation


async def test_what_was_compacted_too_early_makes_it_begin_anew(memory_kafka: MemoryKafka) -> None:
    """Rule 6."""
    member = Member(memory_kafka)
    async with member.running() as task:
        first = member.membership.incarnation
        memory_kafka.compacted = True
        await until(lambda: member.membership.incarnation > first and member.membership.joined.is_set(), "the next one")
        assert not task.done()
    assert member.dismissed == ["this replica begins anew"]
    assert member.membership.restarts == 1
    assert member.sessions.tables[0].incarnation > first


async def test_a_kafka_that_does_not_answer_is_asked_again(
    memory_kafka: MemoryKafka, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked = []

    async def start(_reader: object) -> None:
        asked.append(1)
        if len(asked) < 3:
            raise ConnectionError("nobody there")

    monkeypatch.setattr("tests.support.memory_log.MemoryReader.start", start)
    member = Member(memory_kafka)
    async with member.running():
        await until(member.membership.joined.is_set, "Kafka answers")
    assert member.membership.restarts >= 2


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    """Who is alive is a matter of this clock; heartbeats come as often as they can."""
    clock = Clock()
    monkeypatch.setattr("proxy.flows.membership.monotonic", clock)
    monkeypatch.setattr(limits, "NODE_HEARTBEAT_SECONDS", 0.0)
    return clock


@pytest.fixture
async def lost(memory_kafka: MemoryKafka, clock: Clock) -> MemoryKafka:
    """The log names a connection of a replica that is not heard any more."""
    write(memory_kafka, NODES, "z", NodeRecord("z", False, 1, 7, "serving", "", 1).encode())
    claim = SessionRecord("c9", CLAIM, "z", 7, 1, -1, 0, 0, True, None, 0, "", None, ABOUT, None)
    write(memory_kafka, SESSIONS, "c9", *claim.encode())
    return memory_kafka


async def some_rounds(member: Member) -> None:
    """Heartbeats come and go, and the sweeper has had its chances."""
    heard = len(member.said())
    await until(lambda: len(member.said()) >= heard + 3, "three heartbeats")


async def passes(member: Member, clock: Clock, seconds: float) -> None:
    """Time goes by in which this replica works."""
    while seconds > 0:
        clock.now += min(seconds, 2.0)
        seconds -= 2.0
        await some_rounds(member)


async def test_connections_of_a_dead_replica_are_swept(lost: MemoryKafka, clock: Clock) -> None:
    """Rule 7, with what presence makes of it, and the marks of who announces."""
    member = Member(lost)
    async with member.running():
        await passes(member, clock, limits.NODE_SILENCE_SECONDS_MAX)
        assert member.membership.swept == 0
        await passes(member, clock, 0.1)
        await until(lambda: member.membership.swept == 1, "the sweep")
        await until(lambda: (view := member.sessions.view("c9")) is not None and view.rel == RELEASED, "the release")
        await until(lambda: len(member.gateway.stored(STATUS)) == 2, "what is announced")
        number = next(number for number, table in enumerate(member.sessions.tables) if len(table))
        await until(lambda: lost.marks.get(number, (0, ""))[0] == 2, "the mark")


async def test_whichever_task_is_the_first_to_run_after_a_standstill(
    lost: MemoryKafka, clock: Clock, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Here it is the sweeper: the other one, which notices the silence too, sleeps on."""
    monkeypatch.setattr(limits, "TICK_SECONDS", 60.0)
    member = Member(lost)
    async with member.running():
        lost.silence_seconds = 99.0
        clock.now += 99.0
        rounds = lost.rounds
        await until(lambda: lost.rounds >= rounds + 3, "the sweeper has looked")
        assert member.membership.swept == 0


async def test_who_was_deaf_takes_nobody_for_dead(lost: MemoryKafka, clock: Clock) -> None:
    member = Member(lost)
    async with member.running():
        for _ in range(4):
            lost.silence_seconds = 99.0
            clock.now += 99.0
            await some_rounds(member)
            lost.silence_seconds = 0.0
            await passes(member, clock, limits.NODE_SILENCE_SECONDS_MAX - 0.1)
        assert member.membership.swept == 0
        await passes(member, clock, 0.2)
        await until(lambda: member.membership.swept == 1, "the sweep, after it has listened long enough")


async def test_who_is_not_heard_itself_takes_nobody_for_dead(lost: MemoryKafka, clock: Clock) -> None:
    """As when too few replicas of the partition are in sync: what is there is read, but no heartbeat is taken."""
    member = Member(lost)
    async with member.running():
        await some_rounds(member)
        member.gateway.error = GatewayError("not enough replicas in sync")
        for _ in range(10):
            clock.now += 2.0
            rounds = lost.rounds
            await until(lambda rounds=rounds: lost.rounds >= rounds + 3, "the sweeper has looked")
        member.gateway.error = None
        await some_rounds(member)
        await passes(member, clock, limits.NODE_SILENCE_SECONDS_MAX - 0.1)
        assert member.membership.swept == 0
        await passes(member, clock, 0.2)
        await until(lambda: member.membership.swept == 1, "the sweep, after it has listened long enough")


async def test_connections_of_a_name_that_was_never_heard(
    lost: MemoryKafka, clock: Clock, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Nothing in the registry moves when their time is over, so it is the look for expired sessions that finds them."""
    monkeypatch.setattr(limits, "EXPIRY_SWEEP_SECONDS", 12.0)
    write(lost, NODES, "z", None)
    await until(lambda: not len(lost.gateways[0]._queue), "the tombstone")
    member = Member(lost)
    async with member.running():
        await passes(member, clock, 12.0)
        await until(lambda: member.membership.swept == 1, "the sweep")


async def test_it_sweeps_only_when_it_is_its_turn(lost: MemoryKafka, clock: Clock) -> None:
    lost.mine = frozenset()
    member = Member(lost)
    async with member.running():
        await passes(member, clock, 12.0)
        assert member.membership.swept == 0
        lost.mine = frozenset(range(PARTITIONS))
        await until(lambda: member.membership.swept == 1, "the sweep")


async def test_a_sweep_waits_while_the_queue_is_congested(lost: MemoryKafka, clock: Clock) -> None:
    member = Member(lost)
    # With no room at all it stays so.
    enough, member.gateway.queue_bytes_max = member.gateway.queue_bytes_max, 0
    member.gateway.congested = True
    async with member.running():
        await passes(member, clock, 12.0)
        assert member.membership.swept == 0
        member.gateway.queue_bytes_max = enough
        await until(lambda: member.membership.swept == 1, "the sweep")


async def test_a_sweep_goes_on_in_later_turns(lost: MemoryKafka, clock: Clock, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(limits, "SWEEP_ENTRIES_PER_TURN", 1)
    for number in range(8):
        claim = SessionRecord(f"d{number}", CLAIM, "z", 7, number, -1, 0, 0, True, None, 0, "", None, ABOUT, None)
        write(lost, SESSIONS, f"d{number}", *claim.encode())
    member = Member(lost)
    async with member.running():
        await passes(member, clock, 12.0)
        await until(lambda: member.membership.swept == 9, "all of them")


async def test_expired_sessions_are_ended_after_a_margin(
    memory_kafka: MemoryKafka, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(limits, "EXPIRY_SWEEP_SECONDS", 0.01)
    monkeypatch.setattr(limits, "EXPIRY_MARGIN_SECONDS", -50.0)
    state = SessionState(1, True, [], [])
    for client_id, seconds in (("early", 40), ("late", 400)):
        ended = SessionRecord(client_id, 2, "z", 7, 1, 0, 1, 1, False, None, seconds, "", state, ABOUT, None)
        write(memory_kafka, SESSIONS, client_id, *ended.encode())
    member = Member(memory_kafka)
    async with member.running():
        await until(lambda: member.membership.swept >= 1, "the sweep")
        await until(lambda: sum(table.offline for table in member.sessions.tables) == 1, "the end of one session")
        late = member.sessions.view("late")
        assert late is not None
        assert late.state == state


async def test_records_of_the_registry_that_are_not_ours_are_passed_over(
    memory_kafka: MemoryKafka, caplog: pytest.LogCaptureFixture
) -> None:
    write(memory_kafka, NODES, "z", b"not ours")
    member = Member(memory_kafka)
    async with member.running():
        assert member.membership.joined.is_set()
    assert [vars(record)["offset"] for record in caplog.records if "node record" in record.message] == [0]


async def test_a_connection_has_its_place_through_the_log(memory_kafka: MemoryKafka) -> None:
    """What is written through the gateway comes back through the reader."""
    told = []

    class Handle:
        def on_established(self, session_present: bool) -> None:
            told.append(session_present)

    member = Member(memory_kafka)
    async with member.running():
        session = LocalSession("c1", 5, clean_start=True, expiry_seconds=0, about=ABOUT, handle=Handle())
        member.sessions.connect(session)
        await until(lambda: told, "the claim is read back")
        assert (told, session.epoch) == ([False], 0)
        assert member.sessions.local("c1") is session
