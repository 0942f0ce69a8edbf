"""This replica among the others: it joins, says that it is alive, follows the logs, and sweeps when it is its turn.

One incarnation is one pass through `Membership.run`: join, replay the session log, follow it. When the log was
compacted before it was read, what is known can no longer be trusted, and the replica begins anew as another incarnation
(rule 6).
"""

import asyncio
import logging
import secrets
from collections.abc import Callable, Coroutine
from dataclasses import dataclass
from typing import Any

from proxy import limits
from proxy.clock import monotonic, wall_ms
from proxy.cluster.nodes import NodeRegistry
from proxy.errors import GatewayError, ProxyError
from proxy.flows.presence import Presence
from proxy.flows.sessions import Sessions
from proxy.kafka.batches import md5_partition
from proxy.kafka.gateway import KafkaGateway
from proxy.kafka.internal import COMPACTION_LAG_MS_MIN
from proxy.kafka.readers import CompactionPassedError, ConsumerRecord, LogReader, Turns
from proxy.kafka.records import NodeRecord, RecordError, decode_node
from proxy.kafka.topics import UNREACHABLE

log = logging.getLogger(__name__)


@dataclass(slots=True, frozen=True)
class MembershipSettings:
    """`options` is what a Kafka client of this replica is made with; topics and group are internal ones."""

    node: str
    admin_address: str
    options: dict[str, Any]
    sessions_topic: str
    nodes_topic: str
    group: str


class Superseded(ProxyError):
    """Rule 8: another process runs under this replica's name, and joined later."""


class Membership:
    """Keeps `Sessions` and `Presence` true. `connections` says how many there are; `dismiss` ends them all."""

    def __init__(
        self,
        settings: MembershipSettings,
        gateway: KafkaGateway,
        sessions: Sessions,
        presence: Presence,
        connections: Callable[[], int],
        dismiss: Callable[[str], None],
    ) -> None:
        self.settings = settings
        self.registry = NodeRegistry(monotonic())
        #: Set while the tables are true and CONNECTs can be taken.
        self.joined = asyncio.Event()
        self.incarnation = -1
        #: Set once this incarnation has its number.
        self._numbered = asyncio.Event()
        #: Says whether this replica lets its devices go.
        self.leaving: Callable[[], bool] = lambda: False
        #: How often this process has begun anew, and how many entries it has swept.
        self.restarts = 0
        self.swept = 0
        self._gateway = gateway
        self._sessions = sessions
        self._presence = presence
        self._connections = connections
        self._dismiss = dismiss
        self._nonce = secrets.randbits(63)
        self._heartbeats = 0
        #: Set when this replica leaves and there is no other.
        self._last_one = False
        self._log: LogReader | None = None
        self._nodes: LogReader | None = None

    async def run(self) -> None:
        """Until it is cancelled. Raises Superseded."""
        while True:
            try:
                await self._live_once()
            except CompactionPassedError as error:
                log.error("records were compacted before they were read: beginning anew", extra={"error": str(error)})
            except UNREACHABLE as error:
                log.warning("kafka does not answer", extra={"error": repr(error)})
                await asyncio.sleep(limits.RETRY_SECONDS)
            finally:
                self.joined.clear()
            self.restarts += 1
            self._dismiss("this replica begins anew")

    @property
    def silence_seconds(self) -> float:
        """How long the session log has not been heard."""
        return self._log.silence_seconds if self._log is not None else 0.0

    async def announce_all(self, timeout_seconds: float) -> None:
        """Returns when what was written until now has been read back, and announced where that is our turn: else the
        ends of our connections would be told by whoever sweeps next. Or when the time is over.
        """
        since_ms, deadline = wall_ms(), monotonic() + timeout_seconds
        if [node.name for node in self.registry.alive(monotonic())] == [self.settings.node]:
            # Nobody else would, and our own turn may not have come yet.
            self._last_one = True
            self._presence.take_turns(frozenset(range(len(self._sessions.tables))))
        while self.joined.is_set() and self._log is not None and monotonic() < deadline:
            if await self._log.has_read_since(since_ms) and not self._presence.to_announce:
                break
            await asyncio.sleep(limits.FLUSH_POLL_SECONDS)

    def leave(self) -> None:
        """Takes this replica out of the registry, once its connections are gone."""
        if self.joined.is_set():
            self._write_node(None)

    # ---- one incarnation ----

    async def _live_once(self) -> None:
        settings = self.settings
        self._nodes = nodes = LogReader(settings.options, settings.nodes_topic, self._read_nodes, gapless=False)
        self._log = sessions = LogReader(settings.options, settings.sessions_topic, self._read_sessions, gapless=True)
        turns = Turns(settings.options, settings.group, settings.sessions_topic)
        try:
            await self._join(nodes)
            await sessions.start()
            await turns.start()
            self._sessions.begin(settings.node, self.incarnation, sessions.partitions)
            self._presence.begin(await turns.marks(sessions.partitions), sessions.partitions)
            began = monotonic()
            await sessions.replay()
            log.info(
                "session log replayed",
                extra={
                    "records": sessions.records,
                    "seconds": round(monotonic() - began, 2),
                    "incarnation": self.incarnation,
                },
            )
            self.joined.set()
            await _first_of(
                nodes.follow(),
                sessions.follow(),
                self._beat(),
                self._sweep(turns),
                self._learn_marks(turns),
            )
        finally:
            await asyncio.gather(nodes.stop(), sessions.stop(), turns.stop())

    async def _join(self, nodes: LogReader) -> None:
        """Returns once our JOIN has been read back: its offset is the number of this incarnation."""
        self.incarnation, self._nonce = -1, secrets.randbits(63)
        self._numbered.clear()
        self.registry = NodeRegistry(monotonic())
        await nodes.start()
        await nodes.replay()
        self._write_node(NodeRecord(self.settings.node, True, self._nonce, 0, "joining", "", 0))
        await _first_of(nodes.follow(), self._numbered.wait())

    def _read_nodes(self, records: list[ConsumerRecord]) -> None:
        now = monotonic()
        for record in records:
            try:
                node = decode_node(record.key, record.value, record.offset) if record.value is not None else None
            except RecordError as error:
                log.warning("node record cannot be read", extra={"offset": record.offset, "error": str(error)})
                continue
            name = record.key.decode(errors="replace")
            if name == self.settings.node and node is not None:
                self._read_own(node)
            self.registry.read(name, node, now)

    def _read_own(self, node: NodeRecord) -> None:
        if node.joins and node.nonce == self._nonce:
            self.incarnation = node.incarnation
            self._numbered.set()
        elif 0 <= self.incarnation < node.incarnation:
            raise Superseded(f"another process runs as node {self.settings.node} since {node.incarnation}")

    def _read_sessions(self, records: list[ConsumerRecord]) -> None:
        for record in records:
            self._sessions.receive(
                record.partition, record.key, record.value, record.headers, record.offset, record.timestamp
            )
        self._sessions.end_batch()

    # ---- what goes on all the time ----

    async def _beat(self) -> None:
        """Says that it lives, unless the last one is still on its way; and notices when it is deaf itself."""
        beaten = float("-inf")
        while True:
            now = self._judging_at()
            if now - beaten >= limits.NODE_HEARTBEAT_SECONDS and not self._heartbeats:
                beaten = now
                self._write_node(
                    NodeRecord(
                        self.settings.node,
                        False,
                        self._nonce,
                        self.incarnation,
                        "draining" if self.leaving() else "serving",
                        self.settings.admin_address,
                        self._connections(),
                    )
                )
            self._sessions.tick()
            self._check_partitions()
            await asyncio.sleep(limits.TICK_SECONDS)

    def _is_cut_off(self, nodes: LogReader, now: float) -> bool:
        """Whether the silence of others may be Kafka's: nothing is fetched, or not even our own heartbeats arrive, as
        when too few replicas are in sync to take them.
        """
        own = self.registry.nodes.get(self.settings.node)
        deaf = nodes.silence_seconds > limits.NODE_READER_SILENCE_SECONDS
        return deaf or own is None or now - own.heard_at > limits.NODE_OWN_SILENCE_SECONDS

    def _check_partitions(self) -> None:
        """Each client has its place in one partition; with another number of them no place is right any more."""
        now = self._gateway.partitions(self.settings.sessions_topic)
        if now and now != len(self._sessions.tables):
            raise CompactionPassedError(f"{self.settings.sessions_topic} has {now} partitions now")

    async def _sweep(self, turns: Turns) -> None:
        """Rule 7, and what presence announces, for the partitions whose turn it is."""
        done: dict[int, int] = {}
        expiry_due = monotonic() + limits.EXPIRY_SWEEP_SECONDS
        while True:
            now = self._judging_at()
            mine = turns.mine
            self.registry.look(now)
            expire = now >= expiry_due
            if expire:
                expiry_due = now + limits.EXPIRY_SWEEP_SECONDS
                self._forget_tombstones()
            if any(not self._sessions.tables[number].sweeping for number in mine):
                await self._read_marks(turns)
            if not self._last_one:
                self._presence.take_turns(mine)
            for number, table in enumerate(self._sessions.tables):
                newly = number in mine and not table.sweeping
                table.sweeping = number in mine
                if newly:
                    table.mend()
                if table.sweeping and (newly or expire or done.get(number) != self.registry.generation):
                    done[number] = self.registry.generation
                    await self._sweep_partition(number)
            moved = self._presence.marks(mine)
            if moved:
                await turns.mark(moved)
            await turns.keep_alive()
            await asyncio.sleep(limits.SWEEP_SECONDS)

    async def _sweep_partition(self, number: int) -> None:
        """The whole partition, a little in each turn of the event loop."""
        table = self._sessions.tables[number]
        client_ids = table.client_ids()
        now_ms = wall_ms() - int(limits.EXPIRY_MARGIN_SECONDS * 1000)
        for start in range(0, len(client_ids), limits.SWEEP_ENTRIES_PER_TURN):
            while self._gateway.congested:  # noqa: ASYNC110 - a sweep has time
                await asyncio.sleep(limits.SWEEP_SECONDS)
            self.swept += table.sweep(client_ids[start : start + limits.SWEEP_ENTRIES_PER_TURN], self.is_dead, now_ms)
            await asyncio.sleep(0)

    def _forget_tombstones(self) -> None:
        for table in self._sessions.tables:
            table.forget(wall_ms() - COMPACTION_LAG_MS_MIN)

    def is_dead(self, node: str, incarnation: int) -> bool:
        """Rule 7, as far as this replica can judge now."""
        return self.registry.is_dead(node, incarnation, self._judging_at())

    def _judging_at(self) -> float:
        """The time. Who stood still must notice before it judges others, whichever task is the first to run."""
        now = monotonic()
        if self._nodes is None or self._is_cut_off(self._nodes, now):
            self.registry.interrupted(now)
        return now

    async def _learn_marks(self, turns: Turns) -> None:
        while True:
            await asyncio.sleep(limits.MARKS_SECONDS)
            await self._read_marks(turns)

    async def _read_marks(self, turns: Turns) -> None:
        try:
            self._presence.learn_marks(await turns.marks(len(self._sessions.tables)))
        except UNREACHABLE as error:
            log.info("marks cannot be read", extra={"error": repr(error)})

    # ---- what is written ----

    def _write_node(self, record: NodeRecord | None) -> None:
        self._heartbeats += 1
        try:
            destination = self._gateway.destination(
                self.settings.nodes_topic, self.settings.node.encode(), md5_partition
            )
        except GatewayError as error:
            self.settle([0], error, 0.0)
        else:
            self._gateway.enqueue(destination, record.encode() if record is not None else None, [], self, 0)

    def settle(self, tokens: list[int], error: GatewayError | None, seconds: float) -> None:
        """As a `Recipient` of the gateway."""
        self._heartbeats -= len(tokens)
        if error is not None:
            log.warning("heartbeat lost", extra={"error": str(error)})


async def _first_of(*steps: Coroutine[Any, Any, object]) -> None:
    """Runs until one of them ends, which ends the others; what it raised is raised."""
    tasks = [asyncio.ensure_future(step) for step in steps]
    try:
        done, _ = await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
        for task in done:
            task.result()
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.wait(tasks)
