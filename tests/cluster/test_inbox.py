"""What replicas write to each other is read as it was meant, and other bytes are not read as anything."""

import msgpack
import pytest
from hypothesis import given
from hypothesis import strategies as st

from proxy.cluster.commands import Command, Message, Selector
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
from proxy.kafka.records import RecordError

MESSAGES: list[InboxMessage] = [
    Request(1, Command("id", "kick", Selector("c", None), 5, None, 7)),
    Request(2, Command("id", "deliver", Selector(), 0, Message("t", b"\xff", 1, True, [("a", "b")]))),
    Accepted(3, ["one", "two"], True),
    Accepted(4, []),
    Outcomes(5, [("one", "delivered")]),
]


@pytest.mark.parametrize("message", MESSAGES)
def test_messages(message: InboxMessage) -> None:
    assert unpack_message(pack_message(message)) == message


def test_letters() -> None:
    letter = Letter(Address("a", 1), Address("b", 2), [pack_message(message) for message in MESSAGES])
    assert decode_letter(encode_letter(letter)) == letter


@pytest.mark.parametrize(
    "value",
    [None, b"", b"\xc1", msgpack.packb([2, "a", 1, "b", 2, []]), msgpack.packb([1, "a", 1, "b", 2]),
     msgpack.packb([1, "a", "1", "b", 2, []]), msgpack.packb([1, "a", 1, "b", 2, ["text"]]), msgpack.packb(7)],
)  # fmt: skip
def test_what_is_no_letter(value: bytes | None) -> None:
    with pytest.raises(RecordError):
        decode_letter(value)


@pytest.mark.parametrize("fields", [[9, 1], [0, 1, []], [0, "x", []], [1, 1, ["a"]], [2, 1, [["a"]]], [2, 1, [[1, 2]]]])
def test_what_is_no_message(fields: list[object]) -> None:
    with pytest.raises(RecordError):
        unpack_message(msgpack.packb(fields))


@given(st.binary())
def test_any_bytes_are_read_or_refused(data: bytes) -> None:
    for read in (decode_letter, unpack_message):
        try:
            read(data)
        except RecordError as error:
            assert str(error)


@given(st.sampled_from(MESSAGES), st.data())
def test_damaged_messages_are_read_or_refused(message: InboxMessage, data: st.DataObject) -> None:
    packed = bytearray(pack_message(message))
    packed[data.draw(st.integers(0, len(packed) - 1))] = data.draw(st.integers(0, 255))
    try:
        unpack_message(bytes(packed))
    except RecordError as error:
        assert str(error)
