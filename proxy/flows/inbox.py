"""This replica's letter box: what it asks of others and answers them, many messages in one record.

What is sent in one turn of the event loop to one replica goes into one letter; letters to it are a moment apart when
there are many. Who is asked executes the command at its own connections and answers twice.
"""

import asyncio
import logging
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any, Protocol

from proxy import limits
from proxy.cluster.commands import Command
from proxy.cluster.inbox import (
    Accepted,
    Address,
    InboxMessage,
    Letter,
    Outcomes,
    Request,
    decode_letter,
    encode_letter,
    pack_message,
    unpack_message,
)
from proxy.errors import GatewayError
from proxy.flows.control import Executor
from proxy.kafka.batches import md5_partition
from proxy.kafka.gateway import KafkaGateway
from proxy.kafka.records import RecordError

log = logging.getLogger(__name__)


class InboxRecord(Protocol):
    """A record of Kafka, as far as it matters here."""

    @property
    def value(self) -> Any: ...
    @property
    def offset(self) -> int: ...


class Asker(Protocol):
    """Who hears what becomes of requests; `flows/control.py`."""

    def receive(self, message: Accepted | Outcomes) -> None: ...
    def not_sent(self, numbers: list[int]) -> None: ...


class _Outgoing:
    """What is on its way to one replica."""

    __slots__ = ("bytes", "messages", "requests")

    def __init__(self) -> None:
        self.messages: list[bytes] = []
        self.requests: list[int] = []
        self.bytes = 0


class Inbox:
    """As a `Recipient` it hears what became of its letters. `asker` is set before anything is read."""

    def __init__(self, gateway: KafkaGateway, topic: str, here: Callable[[], Address], executor: Executor) -> None:
        self.asker: Asker | None = None
        #: Records that could not be read, because they are not ours or of a later version.
        self.unreadable = 0
        self.letters_sent = 0
        self.letters_read = 0
        self._gateway = gateway
        self._topic = topic
        self._here = here
        self._executor = executor
        self._outgoing: dict[Address, _Outgoing] = {}
        self._flushing: asyncio.Handle | None = None
        self._flushed_at = self._flush_due = float("-inf")
        self._token = 0
        #: The requests in each letter that Kafka does not have yet.
        self._in_flight: dict[int, list[int]] = {}

    # ---- what is sent ----

    def send(self, recipient: Address, message: InboxMessage) -> bool:
        """Takes a message for another replica, in the order of the calls. False: it is too large."""
        packed = pack_message(message)
        if len(packed) > limits.INBOX_MESSAGE_BYTES_MAX:
            return False
        outgoing = self._outgoing.setdefault(recipient, _Outgoing())
        if outgoing.bytes + len(packed) > limits.INBOX_LETTER_BYTES and outgoing.messages:
            self._post(recipient, outgoing)
            outgoing = self._outgoing[recipient] = _Outgoing()
        outgoing.messages.append(packed)
        outgoing.bytes += len(packed)
        if isinstance(message, Request):
            outgoing.requests.append(message.number)
            self._flush_after(limits.INBOX_GAP_SECONDS)
        else:
            self._flush_after(limits.INBOX_ANSWER_GAP_SECONDS)
        return True

    def flush(self) -> None:
        """Sends what has gathered."""
        if self._flushing is not None:
            self._flushing.cancel()
        self._flushing = None
        self._flushed_at = asyncio.get_running_loop().time()
        outgoing, self._outgoing = self._outgoing, {}
        for recipient, each in outgoing.items():
            self._post(recipient, each)

    def _flush_after(self, gap_seconds: float) -> None:
        """So long after the last time, in the next turn of the event loop at the earliest."""
        loop = asyncio.get_running_loop()
        due = max(self._flushed_at + gap_seconds, loop.time())
        if self._flushing is not None:
            if self._flush_due <= due:
                return
            self._flushing.cancel()
        self._flush_due = due
        self._flushing = loop.call_at(due, self.flush)

    def _post(self, recipient: Address, outgoing: _Outgoing) -> None:
        self._token += 1
        self.letters_sent += 1
        self._in_flight[self._token] = outgoing.requests
        value = encode_letter(Letter(recipient, self._here(), outgoing.messages))
        try:
            destination = self._gateway.destination(self._topic, recipient.node.encode(), md5_partition)
        except GatewayError as error:
            self.settle([self._token], error, 0.0)
        else:
            self._gateway.enqueue(destination, value, [], self, self._token)

    def settle(self, tokens: list[int], error: GatewayError | None, seconds: float) -> None:
        """As a `Recipient` of the gateway."""
        for token in tokens:
            requests = self._in_flight.pop(token)
            if error is not None:
                log.warning("letter lost", extra={"requests": len(requests), "error": str(error)})
                if self.asker is not None:
                    self.asker.not_sent(requests)

    # ---- what is read ----

    def receive(self, records: Sequence[InboxRecord]) -> None:
        """The next records of the partition that this replica's letters are in; others' may be there too."""
        here = self._here()
        for record in records:
            try:
                letter = decode_letter(record.value)
            except RecordError as error:
                self._cannot_read(record, error)
                continue
            if letter.recipient == here:
                self.letters_read += 1
                self._open(record, letter)

    def _open(self, record: InboxRecord, letter: Letter) -> None:
        for packed in letter.packed:
            try:
                message = unpack_message(packed)
            except RecordError as error:
                self._cannot_read(record, error)
                continue
            if isinstance(message, Request):
                self._execute(letter.sender, message.number, message.command)
            elif self.asker is not None:
                self.asker.receive(message)

    def _cannot_read(self, record: InboxRecord, error: RecordError) -> None:
        self.unreadable += 1
        log.warning("letter cannot be read", extra={"offset": record.offset, "error": str(error)})

    def _execute(self, sender: Address, number: int, command: Command) -> None:
        report = partial(self._report, sender, number)
        try:
            client_ids = self._executor.execute(command, report)
        except Exception:
            log.exception("command failed", extra={"command": command.id})
            client_ids = [command.selector.client_id or ""]
            report(client_ids[0], "failed")
        most = limits.INBOX_CLIENTS_PER_MESSAGE
        parts = [client_ids[start : start + most] for start in range(0, len(client_ids), most)] or [[]]
        for part in parts[:-1]:
            self.send(sender, Accepted(number, part, more=True))
        self.send(sender, Accepted(number, parts[-1]))

    def _report(self, sender: Address, number: int, client_id: str, outcome: str) -> None:
        self.send(sender, Outcomes(number, [(client_id, outcome)]))
