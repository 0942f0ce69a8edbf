"""Letters between replicas: what one asks of another and hears from it, as bytes, and whose they are. Pure.

One record of the inbox topic is one letter with many messages; its key is the node that it is for. A request is
answered twice: `Accepted` with the clients that it hit, and an outcome for each of them, in one message or several.
"""

from dataclasses import dataclass
from typing import Any, Final, TypeVar

import msgpack

from proxy.cluster.commands import Command, Message, Selector
from proxy.kafka.records import RecordError

_VERSION: Final = 1
_REQUEST: Final = 0
_ACCEPTED: Final = 1
_OUTCOMES: Final = 2

T = TypeVar("T")


@dataclass(slots=True, frozen=True)
class Request:
    """`number` is the asker's; its answers carry it."""

    number: int
    command: Command


@dataclass(slots=True, frozen=True)
class Accepted:
    """The clients that a request hit; it is over when each of them has its outcome. A long list comes in parts, all but
    the last of which say that there are `more`.
    """

    number: int
    client_ids: list[str]
    more: bool = False


@dataclass(slots=True, frozen=True)
class Outcomes:
    """What became of some of these clients: client id and outcome."""

    number: int
    outcomes: list[tuple[str, str]]


InboxMessage = Request | Accepted | Outcomes


@dataclass(slots=True, frozen=True)
class Address:
    """One life of a replica: what is for an earlier one is nobody's any more."""

    node: str
    incarnation: int


@dataclass(slots=True, frozen=True)
class Letter:
    """What is in one record; messages are still packed, so that only its addressee reads them."""

    recipient: Address
    sender: Address
    packed: list[bytes]


def pack_message(message: InboxMessage) -> bytes:
    """One message of a letter."""
    match message:
        case Request(number, command):
            fields: list[Any] = [_REQUEST, number, _command_fields(command)]
        case Accepted(number, client_ids, more):
            fields = [_ACCEPTED, number, client_ids, more]
        case Outcomes(number, outcomes):
            fields = [_OUTCOMES, number, outcomes]
    packed: bytes = msgpack.packb(fields)
    return packed


def unpack_message(packed: bytes) -> InboxMessage:
    """Raises RecordError."""
    try:
        kind, number, *rest = msgpack.unpackb(packed)
        message = _message(kind, _of(int, number), rest)
    except (ValueError, TypeError, msgpack.UnpackException) as error:
        raise RecordError(f"not a message between replicas: {error!r}") from None
    return message


def encode_letter(letter: Letter) -> bytes:
    """The value of a record; its key is the node that the letter is for."""
    recipient, sender = letter.recipient, letter.sender
    packed: bytes = msgpack.packb(
        [_VERSION, recipient.node, recipient.incarnation, sender.node, sender.incarnation, letter.packed]
    )
    return packed


def decode_letter(value: bytes | None) -> Letter:
    """Raises RecordError."""
    try:
        version, *fields = msgpack.unpackb(value or b"")
        if version != _VERSION:
            raise RecordError(f"version {version}, this proxy knows {_VERSION}")
        to_node, to_incarnation, from_node, from_incarnation, packed = fields
        return Letter(
            Address(_of(str, to_node), _of(int, to_incarnation)),
            Address(_of(str, from_node), _of(int, from_incarnation)),
            [_of(bytes, each) for each in _of(list, packed)],
        )
    except (ValueError, TypeError, msgpack.UnpackException) as error:
        raise RecordError(f"not a letter: {error!r}") from None


def _message(kind: int, number: int, rest: list[Any]) -> InboxMessage:
    if kind == _REQUEST:
        [fields] = rest
        return Request(number, _command(_of(list, fields)))
    if kind == _ACCEPTED:
        client_ids, more = rest
        return Accepted(number, [_of(str, each) for each in _of(list, client_ids)], _of(bool, more))
    if kind == _OUTCOMES:
        [outcomes] = rest
        return Outcomes(number, [(_of(str, one), _of(str, other)) for one, other in _of(list, outcomes)])
    raise ValueError(f"kind {kind}")


def _command_fields(command: Command) -> list[Any]:
    selector, message = command.selector, command.message
    about = None
    if message is not None:
        about = [message.topic, message.payload, message.qos, message.retain, message.user_properties]
    return [
        command.id, command.kind, selector.client_id, selector.username, command.expires_at_ms, about, command.epoch
    ]  # fmt: skip


def _command(fields: list[Any]) -> Command:
    name, kind, client_id, username, expires_at_ms, about, epoch = fields
    message = None
    if about is not None:
        topic, payload, qos, retain, properties = _of(list, about)
        pairs = [(_of(str, one), _of(str, other)) for one, other in _of(list, properties)]
        message = Message(_of(str, topic), _of(bytes, payload), _of(int, qos), _of(bool, retain), pairs)
    return Command(
        _of(str, name),
        _of(str, kind),
        Selector(_text_or_none(client_id), _text_or_none(username)),
        _of(int, expires_at_ms),
        message,
        epoch if epoch is None else _of(int, epoch),
    )


def _text_or_none(value: Any) -> str | None:
    return None if value is None else _of(str, value)


def _of(kind: type[T], value: Any) -> T:
    if not isinstance(value, kind):
        raise TypeError(f"{value!r:.40} is not {kind.__name__}")
    return value
