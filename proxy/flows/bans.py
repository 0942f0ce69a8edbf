"""The ban list at work: written into a compacted topic of Kafka, followed by every replica, obeyed at once.

A ban counts when it has been read back. It is read by all replicas alike, and each of them lets go whom it hits.
"""

import asyncio
import logging
import secrets
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Final

from proxy import limits
from proxy.errors import GatewayError, ProxyError
from proxy.flows.uplink import Uplink
from proxy.kafka.batches import md5_partition
from proxy.kafka.gateway import Headers, KafkaGateway
from proxy.kafka.readers import CompactionPassedError, ConsumerRecord, LogReader
from proxy.kafka.topics import UNREACHABLE
from proxy.mqtt.packets import ReasonCode
from proxy.policy.bans import Ban, BanKind, BanRecordError, BanTable, ban_key, decode_ban, decode_key

log = logging.getLogger(__name__)

#: A tombstone says here which ban is over; without it, whichever there is.
NONCE_HEADER: Final = "mqk-nonce"
#: What identifies one of our writes when it is read back.
WRITE_HEADER: Final = "mqk-write"


class BanListFull(ProxyError):
    """There are as many bans as there may be."""


class BansUnwritable(ProxyError):
    """Kafka did not take a change of the list, or not in time: then it may come into force yet."""


@dataclass(slots=True, frozen=True)
class BanSettings:
    """`options` is what a Kafka client of this replica is made with."""

    topic: str
    options: dict[str, Any]


class Bans:
    """All bans, as this replica knows them."""

    def __init__(
        self, settings: BanSettings, gateway: KafkaGateway, uplink: Uplink, wall_ms: Callable[[], int]
    ) -> None:
        self.table = BanTable()
        #: Set once all that was in Kafka has been read.
        self.known = asyncio.Event()
        #: Bans that were read and are not obeyed, because there are too many, and records that are not ours.
        self.ignored = 0
        self.unreadable = 0
        self._settings = settings
        self._gateway = gateway
        self._uplink = uplink
        self._wall_ms = wall_ms
        #: Our writes that have not been read back, by what identifies them.
        self._writes: dict[bytes, _Write] = {}

    def find(self, client_id: str, username: str | None, address: str) -> Ban | None:
        """The ban that keeps a client out."""
        return self.table.find(client_id, username, address, self._wall_ms())

    def in_force(self) -> list[Ban]:
        return self.table.in_force(self._wall_ms())

    # ---- what operators do ----

    async def set(self, kind: BanKind, value: str, seconds: int | None, reason: str, by: str) -> Ban:
        """Returns when the ban is in force here; `seconds` None is for ever. Raises BanListFull, BansUnwritable."""
        if self.table.full and self.table.get(ban_key(kind, value)) is None:
            raise BanListFull(f"there are {len(self.table)} bans, and no more may be")
        now_ms = self._wall_ms()
        expires_ms = now_ms + seconds * 1000 if seconds is not None else 0
        ban = Ban(kind, value, secrets.randbits(63), now_ms, expires_ms, reason, by)
        if not await self._write(ban.key, ban.encode(), []):
            raise BanListFull(f"there are {len(self.table)} bans, and no more may be")
        return ban

    async def lift(self, kind: BanKind, value: str) -> Ban | None:
        """Returns the ban that was, when it is no more. Raises BansUnwritable."""
        ban = self.table.get(ban_key(kind, value))
        if ban is None or ban.is_over(self._wall_ms()):
            return None
        await self._write(ban.key, None, [])
        return ban

    async def _write(self, key: bytes, value: bytes | None, headers: Headers) -> bool:
        """Whether it is in force, once it has been read back. Raises BansUnwritable."""
        if not self.known.is_set() or not self._gateway.ready:
            raise BansUnwritable("kafka does not answer, so nothing was changed")
        write = _Write()
        mark = secrets.token_bytes(8)
        self._writes[mark] = write
        try:
            async with asyncio.timeout(limits.BAN_WRITE_SECONDS_MAX):
                self._enqueue(key, value, [*headers, (WRITE_HEADER, mark)], write)
                return await write.done
        except TimeoutError:
            raise BansUnwritable("kafka has not answered in time: the change may come into force yet") from None
        except GatewayError as error:
            raise BansUnwritable(f"kafka did not take it: {error}") from None
        finally:
            self._gateway.withdraw(write)
            del self._writes[mark]

    def _enqueue(self, key: bytes, value: bytes | None, headers: Headers, write: "_Write") -> None:
        destination = self._gateway.destination(self._settings.topic, key, md5_partition)
        self._gateway.enqueue(destination, value, headers, write, 0)

    # ---- what is read ----

    async def run(self) -> None:
        """Follows the list and takes out what is over, until it is cancelled."""
        while True:
            reader = LogReader(self._settings.options, self._settings.topic, self.receive, gapless=False)
            try:
                await reader.start()
                await reader.replay()
                log.info("bans read", extra={"bans": len(self.table)})
                self.known.set()
                await self._follow(reader)
            except (*UNREACHABLE, CompactionPassedError) as error:
                log.warning("bans cannot be read", extra={"error": repr(error)})
            finally:
                await reader.stop()
            # What was missed meanwhile is read as at start; until then the bans that are known count.
            self.known.clear()
            await asyncio.sleep(limits.RETRY_SECONDS)

    async def _follow(self, reader: LogReader) -> None:
        sweeping = asyncio.create_task(self._sweep())
        try:
            await reader.follow()
        finally:
            sweeping.cancel()

    def receive(self, records: list[ConsumerRecord]) -> None:
        """The next records of the list."""
        for record in records:
            try:
                in_force = self._read(record)
            except BanRecordError as error:
                self.unreadable += 1
                log.warning("ban cannot be read", extra={"offset": record.offset, "error": str(error)})
                continue
            mark = dict(record.headers).get(WRITE_HEADER)
            if mark is not None and mark in self._writes:
                self._writes[mark].read_back(in_force)

    def _read(self, record: ConsumerRecord) -> bool:
        """False for a ban that cannot be obeyed. Raises BanRecordError."""
        if record.value is None:
            self._end(ban_key(*decode_key(record.key)), dict(record.headers).get(NONCE_HEADER))
            return True
        ban = decode_ban(record.key, record.value)
        if not self.table.put(ban):
            self.ignored += 1
            log.error("too many bans: this one is not obeyed", extra={"kind": ban.kind, "value": ban.value})
            return False
        if not ban.is_over(self._wall_ms()):
            self._let_go(ban)
        return True

    def _end(self, key: bytes, nonce: bytes | None) -> None:
        """The end of an expired ban must not end a newer one of the same value. As compaction keeps the last record,
        the newer one is written again.
        """
        ban = self.table.get(key)
        if ban is None or nonce is None or nonce == str(ban.nonce).encode():
            self.table.remove(key)
        elif self.known.is_set():
            self._write_unasked(ban.key, ban.encode(), [])

    def _let_go(self, ban: Ban) -> None:
        uplink = self._uplink
        for client in list(uplink.clients.values()):
            username = client.attachment.local.about.username if client.attachment is not None else None
            if ban.applies_to(client.client_id, username, client.address):
                uplink.goodbyes.say(client, ReasonCode.ADMINISTRATIVE_ACTION, "banned")

    # ---- what is over ----

    async def _sweep(self) -> None:
        """Every replica does: the second tombstone finds nothing to end."""
        while True:
            await asyncio.sleep(limits.BAN_SWEEP_SECONDS)
            self.sweep()

    def sweep(self) -> None:
        """Takes expired bans out of Kafka."""
        if self._gateway.ready and not self._gateway.congested:
            for ban in self.table.over(self._wall_ms()):
                self._write_unasked(ban.key, None, [(NONCE_HEADER, str(ban.nonce).encode())])

    def _write_unasked(self, key: bytes, value: bytes | None, headers: Headers) -> None:
        try:
            destination = self._gateway.destination(self._settings.topic, key, md5_partition)
            self._gateway.enqueue(destination, value, headers, self, 0)
        except GatewayError as error:
            self.settle([0], error, 0.0)

    def settle(self, tokens: list[int], error: GatewayError | None, seconds: float) -> None:
        """As a `Recipient`, of what nobody waits for: the next sweep tries again."""
        if error is not None:
            log.warning("end of a ban not written", extra={"error": str(error)})


class _Write:
    """A change on its way, as a `Recipient` of its own, so that it can be withdrawn."""

    def __init__(self) -> None:
        self.done: asyncio.Future[bool] = asyncio.get_running_loop().create_future()

    def settle(self, tokens: list[int], error: GatewayError | None, seconds: float) -> None:
        """Success says nothing: what counts is what is read back."""
        if error is not None and not self.done.done():
            self.done.set_exception(error)

    def read_back(self, in_force: bool) -> None:
        if not self.done.done():
            self.done.set_result(in_force)
