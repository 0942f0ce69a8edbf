"""Tells `<prefix>status` who came and who went: a projection of the session log, in the fields that its readers know.

Every replica notes the changes that it reads. The one whose turn a partition is announces them, in order, and then
commits how far it is, so that its successor goes on from there. A crash between the two repeats an announcement and
never loses one: `offset` and `epoch` tell repeats apart. Wills are announced here too, before their `disconnected`.
"""

import heapq
import json
import logging
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, Protocol

from proxy import limits
from proxy.cluster.table import TAKEN_OVER
from proxy.errors import GatewayError, Refusal
from proxy.kafka.gateway import KafkaGateway, Recipient
from proxy.kafka.records import CLAIM, SessionRecord
from proxy.metrics import Metrics
from proxy.mqtt.packets import MQTT_3_1

log = logging.getLogger(__name__)


class WillPublisher(Protocol):
    """Who can publish a will as the message of a device that is gone; `flows/wills.py`."""

    def publish_will(self, record: SessionRecord, offset: int, recipient: Recipient, token: int) -> None:
        """`record` is of the connection whose will it is, `offset` that of the record which ended it."""


@dataclass(slots=True)
class Announcement:
    """One status record, or a will that goes before it. `offset` is that of the record which brought it about."""

    offset: int
    client_id: str
    fields: dict[str, Any] | None = None
    will_of: SessionRecord | None = None
    #: When a will that was delayed is due, in ms; 0: at once.
    due_ms: int = 0
    done: bool = False
    #: Its place among those of its partition.
    number: int = 0


@dataclass(slots=True)
class _Partition:
    """What one partition of the log has to tell."""

    #: Everything below this offset was announced, and every delayed will that was due by then.
    mark: int = 0
    wills_until_ms: int = 0
    committed: tuple[int, int] = (0, 0)
    #: What is not known to have been announced, in order; those of them that were not sent yet.
    waiting: deque[Announcement] = field(default_factory=deque)
    unsent: deque[Announcement] = field(default_factory=deque)
    #: Delayed wills by client, and by the time when they are due; one that is in the heap alone is void.
    delayed: dict[str, Announcement] = field(default_factory=dict)
    due: list[tuple[int, int, Announcement]] = field(default_factory=list)
    mine: bool = False
    in_flight: int = 0
    wills_in_flight: int = 0
    noted: int = 0


class Presence:
    """The status topic, and wills; the key is the client id, or the action as the plugin had it."""

    def __init__(
        self,
        gateway: KafkaGateway,
        metrics: Metrics,
        topic: str,
        *,
        key_is_action: bool,
        wall_ms: Callable[[], int],
    ) -> None:
        self.wills: WillPublisher | None = None
        self._gateway = gateway
        self._topic = topic
        self._key_is_action = key_is_action
        self._wall_ms = wall_ms
        self._partitions: list[_Partition] = []
        self._in_flight: dict[int, tuple[_Partition, Announcement]] = {}
        self._token = 0
        self._stored = metrics.presence.labels("stored")
        self._lost = metrics.presence.labels("lost")

    def begin(self, marks: dict[int, tuple[int, str]], partitions: int) -> None:
        """Starts with the marks of those who announced before: partition → (offset behind the last one, metadata)."""
        self._partitions = [_Partition() for _ in range(partitions)]
        self._in_flight = {}
        self.learn_marks(marks)

    @property
    def waiting(self) -> int:
        """Announcements that nobody is known to have made yet."""
        return sum(len(partition.waiting) for partition in self._partitions)

    @property
    def to_announce(self) -> int:
        """Those of them that are ours to make."""
        return sum(len(partition.waiting) for partition in self._partitions if partition.mine)

    # ---- what is read ----

    def view_changed(self, number: int, before: SessionRecord | None, record: SessionRecord) -> None:
        """A client of this partition came or went, or is another connection now."""
        partition = self._partitions[number]
        self._settle_delayed_will(partition, record)
        if record.offset < partition.mark and (record.will is None or not record.rel):
            return
        was = before
        if before is None or before.rel:
            # What preceded a RELEASE that stands alone is compacted away: it says enough itself.
            was = record if before is None and record.rel else None
        if was is not None:
            self._note_end(partition, was, record)
        if not record.rel:
            self._note(partition, Announcement(record.offset, record.client_id, _connected(record)))
        if partition.mine:
            self._announce(partition)

    def _settle_delayed_will(self, partition: _Partition, record: SessionRecord) -> None:
        """A new connection in time makes the delayed will void, unless the session did not live on [MQTT-3.1.3-9]."""
        delayed = partition.delayed.pop(record.client_id, None)
        if delayed is not None and (_ends_session(record) or delayed.due_ms <= record.timestamp_ms):
            self._note(partition, Announcement(record.offset, record.client_id, will_of=delayed.will_of))

    def _note_end(self, partition: _Partition, was: SessionRecord, record: SessionRecord) -> None:
        taken_over = record.kind == CLAIM
        # Whoever wrote a RELEASE knew whether the will goes with it.
        will = was.will if taken_over else record.will
        if will is not None:
            announcement = Announcement(record.offset, record.client_id, will_of=was)
            if not will.delay_seconds or _ends_session(record):
                self._note(partition, announcement)
            elif not taken_over:
                self._delay_will(partition, announcement, record, will.delay_seconds)
        reason = TAKEN_OVER if taken_over else record.reason
        self._note(partition, Announcement(record.offset, record.client_id, _disconnected(was, record, reason)))

    def _delay_will(
        self, partition: _Partition, announcement: Announcement, record: SessionRecord, delay_seconds: int
    ) -> None:
        """Until the delay is over or the session ends, whichever comes first (3.1.3.2.2)."""
        due_ms = record.timestamp_ms + 1000 * min(delay_seconds, record.expiry_seconds)
        if record.offset >= partition.mark:
            # Read late, it must not count as one of those that were published long ago.
            due_ms = max(due_ms, partition.wills_until_ms + 1)
        announcement.due_ms = due_ms
        partition.delayed[record.client_id] = announcement
        heapq.heappush(partition.due, (due_ms, record.offset, announcement))

    def _note(self, partition: _Partition, announcement: Announcement) -> None:
        if announcement.offset >= partition.mark:
            partition.noted += 1
            announcement.number = partition.noted
            partition.waiting.append(announcement)
            partition.unsent.append(announcement)

    # ---- whose turn it is ----

    def learn_marks(self, marks: dict[int, tuple[int, str]]) -> None:
        """What others have announced need not be remembered."""
        for number, (offset, metadata) in marks.items():
            partition = self._partitions[number]
            partition.mark = max(partition.mark, offset)
            partition.wills_until_ms = max(partition.wills_until_ms, int(metadata) if metadata.isdecimal() else 0)
            if not partition.mine:
                for each in (partition.waiting, partition.unsent):
                    while each and each[0].offset < offset:
                        each.popleft()

    def take_turns(self, mine: frozenset[int]) -> None:
        """Announces for these partitions from now on; and for others that have waited too long."""
        for number, partition in enumerate(self._partitions):
            partition.mine = number in mine or len(partition.waiting) > limits.ANNOUNCEMENTS_KEPT_MAX
            self._take_due_wills(partition)
            if partition.mine:
                self._announce(partition)

    def marks(self, mine: frozenset[int]) -> dict[int, tuple[int, str]]:
        """What to commit now."""
        moved = {}
        for number in mine:
            partition = self._partitions[number]
            now = (partition.mark, partition.wills_until_ms)
            if now != partition.committed:
                partition.committed = now
                moved[number] = (now[0], str(now[1]))
        return moved

    # ---- what is told ----

    def _announce(self, partition: _Partition) -> None:
        """Sends what waits, in order, as much as may be on its way at a time."""
        while partition.unsent and partition.in_flight < limits.ANNOUNCEMENTS_IN_FLIGHT_MAX:
            if self._gateway.congested:
                return
            self._send(partition, partition.unsent.popleft())

    def _take_due_wills(self, partition: _Partition) -> None:
        """Publishes the delayed wills that are due, as whoever's turn it is; anybody else forgets them."""
        until = self._wall_ms() if partition.mine else partition.wills_until_ms
        while partition.due and partition.due[0][0] <= until:
            _, _, announcement = heapq.heappop(partition.due)
            if partition.delayed.get(announcement.client_id) is announcement:
                del partition.delayed[announcement.client_id]
                if announcement.due_ms > partition.wills_until_ms:
                    partition.wills_in_flight += 1
                    self._send(partition, announcement)
        if partition.mine and not partition.wills_in_flight:
            partition.wills_until_ms = max(partition.wills_until_ms, until)

    def _send(self, partition: _Partition, announcement: Announcement) -> None:
        partition.in_flight += 1
        self._token += 1
        token = self._token
        self._in_flight[token] = (partition, announcement)
        try:
            if announcement.fields is None:
                self._publish_will(announcement, token)
            else:
                self._write_status(announcement.fields, token)
        except GatewayError as error:
            self.settle([token], error, 0.0)

    def _publish_will(self, announcement: Announcement, token: int) -> None:
        record = announcement.will_of
        if record is None or self.wills is None:
            raise GatewayError("nobody publishes wills", Refusal.INVALID)
        self.wills.publish_will(record, announcement.offset, self, token)

    def _write_status(self, fields: dict[str, Any], token: int) -> None:
        key = str(fields["action" if self._key_is_action else "clientid"]).encode()
        value = json.dumps(fields, ensure_ascii=False, separators=(",", ":")).encode()
        self._gateway.enqueue(self._gateway.destination(self._topic, key), value, [], self, token)

    def settle(self, tokens: list[int], error: GatewayError | None, seconds: float) -> None:
        """As a `Recipient` of the gateway."""
        (self._stored if error is None else self._lost).inc(len(tokens))
        for token in tokens:
            known = self._in_flight.pop(token, None)
            if known is not None:
                self._settled(*known, error)

    def _settled(self, partition: _Partition, announcement: Announcement, error: GatewayError | None) -> None:
        """What Kafka will never take is given up; anything else is sent again."""
        partition.in_flight -= 1
        announcement.done = error is None or error.refusal is not None
        if error is not None:
            log.warning("announcement failed", extra={"clientid": announcement.client_id, "error": str(error)})
        if announcement.due_ms:
            partition.wills_in_flight -= 1
            if not announcement.done:
                partition.delayed.setdefault(announcement.client_id, announcement)
                heapq.heappush(partition.due, (announcement.due_ms, announcement.offset, announcement))
        elif not announcement.done:
            _put_back(partition.unsent, announcement)
        self._move_mark(partition)

    def _move_mark(self, partition: _Partition) -> None:
        """Behind everything that is done; one record of the log may have brought about several announcements."""
        while partition.waiting and partition.waiting[0].done:
            done = partition.waiting.popleft()
            follows = partition.waiting[0].offset if partition.waiting else done.offset + 1
            partition.mark = max(partition.mark, min(follows, done.offset + 1))


def _put_back(unsent: deque[Announcement], announcement: Announcement) -> None:
    """In its place: others that were sent with it may have failed before it."""
    place = 0
    while place < len(unsent) and unsent[place].number < announcement.number:
        place += 1
    unsent.insert(place, announcement)


def _ends_session(record: SessionRecord) -> bool:
    """Whether what was before is gone with this record: released for good, or replaced by Clean Start."""
    if record.kind == CLAIM:
        return record.clean_start
    return bool(record.rel) and record.state is None


def _connected(record: SessionRecord) -> dict[str, Any]:
    about = record.about
    return {
        "action": "connected",
        "clientid": record.client_id,
        "username": about.username,
        "keepalive": about.keep_alive,
        "ipaddress": about.address,
        "proto_name": "MQIsdp" if about.protocol_version == MQTT_3_1 else "MQTT",
        "proto_ver": about.protocol_version,
        "timestamp": record.timestamp_ms,
        "online": 1,
    } | _ours(record, record)


def _disconnected(was: SessionRecord, record: SessionRecord, reason: str) -> dict[str, Any]:
    return {
        "action": "disconnected",
        "clientid": record.client_id,
        "username": was.about.username,
        "reason": reason,
        "timestamp": record.timestamp_ms,
        "online": 0,
    } | _ours(was, record)


def _ours(connection: SessionRecord, record: SessionRecord) -> dict[str, Any]:
    """The fields that the system before us did not have come last."""
    session_id = connection.state.session_id if connection.state is not None else connection.connection
    return {
        "node": connection.node,
        "peer_cert_cn": connection.about.peer_cert_cn,
        "session_id": f"{session_id:016x}",
        "epoch": connection.epoch,
        "offset": record.offset,
    }
