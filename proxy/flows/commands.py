"""Commands from Kafka: one replica reads each, has it executed, writes what came of it, and then commits.

A record counts as done when its result is in Kafka; what is committed never passes one that is not. So a crash, or a
partition that goes to another replica, repeats commands and never loses one; the repetition has the same id.
"""

import asyncio
import json
import logging
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from typing import Any, Literal, Protocol

from proxy import limits
from proxy.cluster.command_records import (
    MalformedCommand,
    Owner,
    command_id,
    device_username,
    parse_deliver,
    parse_selection,
)
from proxy.cluster.commands import ACL_CLEAN, DELIVER, KICK, Command, Result
from proxy.cluster.watermarks import Watermark
from proxy.errors import GatewayError
from proxy.flows.control import Control
from proxy.kafka.batches import md5_partition
from proxy.kafka.gateway import KafkaGateway
from proxy.kafka.groups import GroupReader
from proxy.kafka.readers import ConsumerRecord
from proxy.kafka.topics import UNREACHABLE
from proxy.policy.filters import parse_filter

log = logging.getLogger(__name__)


class Place(Protocol):
    """A partition, as aiokafka names it."""

    @property
    def topic(self) -> str: ...
    @property
    def partition(self) -> int: ...


@dataclass(slots=True, frozen=True)
class CommandSettings:
    """`options` is what a Kafka client of this replica is made with; the topics are `<prefix>msg_down` and so on."""

    options: dict[str, Any]
    prefix: str
    group: str
    start: Literal["latest", "earliest"]
    max_age_seconds: int
    owner: Owner

    @property
    def kinds(self) -> dict[str, str]:
        """The topics that are read, and what a record of each asks for."""
        names = {"msg_down": DELIVER, "kick_out": KICK, "acl_clean": ACL_CLEAN}
        return {f"{self.prefix}{name}": kind for name, kind in names.items()}

    @property
    def results(self) -> str:
        """The topic that is written."""
        return f"{self.prefix}command_results"


class Commands:
    """`run` reads until it is cancelled; `stop` lets what was begun come to its end."""

    def __init__(
        self, settings: CommandSettings, gateway: KafkaGateway, control: Control, wall_ms: Callable[[], int]
    ) -> None:
        self._settings = settings
        self._kinds = settings.kinds
        self._gateway = gateway
        self._control = control
        self._wall_ms = wall_ms
        self._reader: GroupReader | None = None
        self._marks: dict[Place, Watermark] = {}
        #: Results that Kafka does not have yet: value and key, the mark and the offset that wait for them.
        self._results: dict[int, tuple[bytes, bytes, Watermark, int]] = {}
        self._token = 0
        self._stopping = False
        #: While the partitions are on their way to other members.
        self._leaving = False
        self.results_lost = 0

    @property
    def unsettled(self) -> int:
        """Records that were read and have no result yet."""
        return sum(mark.unsettled for mark in self._marks.values())

    @property
    def uncommitted(self) -> int:
        """Records from the first one on that has no result, in all partitions."""
        return sum(map(len, self._marks.values()))

    # ---- reading ----

    async def run(self) -> None:
        """As a member of the group, again and again when Kafka is away."""
        while not self._stopping:
            reader = GroupReader(
                self._settings.options, self._settings.group, list(self._kinds), self._settings.start, self
            )
            try:
                await reader.start()
                self._reader = reader
                await self._follow(reader)
            except UNREACHABLE as error:
                log.warning("commands cannot be read", extra={"error": repr(error)})
                await asyncio.sleep(limits.RETRY_SECONDS)
            finally:
                await self._leave(reader)

    async def stop(self, timeout_seconds: float) -> None:
        """Takes no further command; returns when those that were begun are settled and committed, or the time is over.
        The others are read again by whoever has their partitions next.
        """
        self._stopping = True
        await self._settle_all(timeout_seconds)

    async def _leave(self, reader: GroupReader) -> None:
        self._reader = None
        self._marks = {}
        self._leaving = False
        await reader.stop()

    async def _follow(self, reader: GroupReader) -> None:
        loop = asyncio.get_running_loop()
        committed_at = loop.time()
        while not self._stopping or self.unsettled:
            if self._stopping or self._has_no_room():
                await asyncio.sleep(limits.COMMAND_PAUSE_SECONDS)
            else:
                batches = await reader.read()
                for partition, records in batches.items():
                    self._take(partition, records)
                if batches:
                    await asyncio.sleep(limits.COMMAND_GATHER_SECONDS)
            if loop.time() - committed_at >= limits.COMMAND_COMMIT_SECONDS:
                committed_at = loop.time()
                await self._commit()
        await self._commit()

    def _has_no_room(self) -> bool:
        return self._control.full or any(len(mark) >= limits.COMMANDS_UNCOMMITTED_MAX for mark in self._marks.values())

    def assigned(self, positions: Mapping[Any, int]) -> None:
        """As a member of the group."""
        self._marks = {partition: Watermark(offset) for partition, offset in positions.items()}
        self._leaving = False

    async def revoked(self) -> None:
        """As a member of the group: what is under way may settle, the rest is the next member's."""
        self._leaving = True
        await self._settle_all(limits.COMMAND_REVOKE_SECONDS_MAX)
        await self._commit()
        self._marks = {}

    async def _settle_all(self, timeout_seconds: float) -> None:
        loop = asyncio.get_running_loop()
        deadline = loop.time() + timeout_seconds
        while self.unsettled and loop.time() < deadline:  # noqa: ASYNC110 - as a flush
            await asyncio.sleep(limits.FLUSH_POLL_SECONDS)

    async def _commit(self) -> None:
        moved = {place: mark.offset for place, mark in self._marks.items() if mark.offset != mark.committed}
        if moved and self._reader is not None and await self._reader.commit(moved):
            for place, offset in moved.items():
                if place in self._marks:
                    self._marks[place].committed = offset

    # ---- one record ----

    def _take(self, place: Place, records: list[ConsumerRecord]) -> None:
        mark = self._marks.get(place)
        if mark is None or self._stopping or self._leaving:
            # It was not begun, so whoever has the partition next reads it again.
            return
        for record in records:
            mark.begin(record.offset)
            self._begin(record, partial(self._write, mark, record.offset))

    def _begin(self, record: ConsumerRecord, settled: Callable[[Result], None]) -> None:
        kind = self._kinds[record.topic]
        place = f"{record.topic}-{record.partition}-{record.offset}"
        headers = [(name, content or b"") for name, content in record.headers]
        try:
            command = self._parse(place, kind, record, headers)
        except MalformedCommand as error:
            self._control.refuse(command_id(place, headers), kind, "malformed", settled, str(error))
            return
        if kind != DELIVER and self._is_too_old(record):
            self._control.refuse(command.id, kind, "expired", settled)
        else:
            self._control.start(command, settled)

    def _parse(self, place: str, kind: str, record: ConsumerRecord, headers: list[tuple[str, bytes]]) -> Command:
        if kind == DELIVER:
            return parse_deliver(place, record.key, record.value, headers, record.timestamp, self._settings.owner)
        return parse_selection(place, kind, record.value, headers)

    def _is_too_old(self, record: ConsumerRecord) -> bool:
        age_ms: int = self._wall_ms() - record.timestamp
        return 0 < self._settings.max_age_seconds * 1000 < age_ms

    # ---- its result ----

    def _write(self, mark: Watermark, offset: int, result: Result) -> None:
        if mark not in self._marks.values():
            # The partition is another replica's now, which executes it again and says what came of that.
            return
        self._token += 1
        self._results[self._token] = (encode_result(result, self._wall_ms()), result.id.encode(), mark, offset)
        self._send(self._token)

    def _send(self, token: int) -> None:
        value, key, _, _ = self._results[token]
        try:
            destination = self._gateway.destination(self._settings.results, key, md5_partition)
        except GatewayError as error:
            self.settle([token], error, 0.0)
        else:
            self._gateway.enqueue(destination, value, [], self, token)

    def settle(self, tokens: list[int], error: GatewayError | None, seconds: float) -> None:
        """As a `Recipient`. What Kafka will never take is given up, anything else is sent again."""
        for token in tokens:
            if error is not None and error.retriable and not self._stopping:
                asyncio.get_running_loop().call_later(limits.RETRY_SECONDS, self._send, token)
                continue
            _, _, mark, offset = self._results.pop(token)
            if error is not None:
                self.results_lost += 1
                log.warning("result of a command lost", extra={"error": str(error)})
                if error.retriable:
                    continue
            mark.settle(offset)


def topic_owner(pattern: str) -> Owner:
    """Reads `commands.owner`: the user name that a topic names."""
    if not pattern:
        return lambda topic: None
    topics = parse_filter(pattern)

    def owner(topic: str) -> str | None:
        if not topics.matches(topic):
            return None
        names = topics.captures(topic)
        if "username" in names:
            return names["username"] or None
        product_key, device_name = names["product_key"], names["device_name"]
        return device_username(product_key, device_name) if product_key and device_name else None

    return owner


def encode_result(result: Result, timestamp_ms: int) -> bytes:
    """As the topic of results has it. Of very many clients the first are named, and how many more there are."""
    named = result.clients[: limits.RESULT_CLIENTS_MAX]
    fields: dict[str, Any] = {
        "id": result.id,
        "kind": result.kind,
        "outcome": result.outcome,
        "clients": [{"clientid": one.clientid, "outcome": one.outcome, "node": one.node} for one in named],
        "timestamp": timestamp_ms,
    }
    if len(result.clients) > len(named):
        fields["clients_more"] = len(result.clients) - len(named)
    if result.error:
        fields["error"] = result.error
    return json.dumps(fields, ensure_ascii=False, separators=(",", ":")).encode()
