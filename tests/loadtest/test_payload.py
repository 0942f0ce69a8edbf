"""A payload names its sender and place, and follows from them."""

import pytest

from loadtest.payload import IDENTITY_BYTES, Payloads

RUN = b"run-0001"


@pytest.mark.parametrize("size", [IDENTITY_BYTES, 128, 100_000])
def test_has_the_size_and_identity(size: int) -> None:
    payload = Payloads(RUN, size).payload(7, 4_000_000_000)
    assert len(payload) == size
    assert payload[:IDENTITY_BYTES] == RUN + b"\0\0\0\x07" + b"\xee\x6b\x28\x00"
    assert Payloads(RUN, size).identify(payload) == (7, 4_000_000_000)


def test_is_the_same_again_and_different_elsewhere() -> None:
    payloads = Payloads(RUN, 64)
    assert payloads.payload(1, 2) == Payloads(RUN, 64).payload(1, 2)
    assert payloads.padding(2) != payloads.padding(3)
    assert payloads.padding(2) != Payloads(b"run-0002", 64).padding(2)


@pytest.mark.parametrize("foreign", [b"", b"hello", b"run-0002" + bytes(56), RUN + bytes(7)])
def test_does_not_know_what_others_wrote(foreign: bytes) -> None:
    assert Payloads(RUN, 64).identify(foreign) is None
