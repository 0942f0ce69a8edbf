"""The framer: packets are found wherever the reads cut them, at linear cost and with bounded memory."""

from typing import Any

import pytest

from proxy.errors import MqttError
from proxy.mqtt import framing
from proxy.mqtt.framing import Framer
from tests.support.wire import octets

#: Three packets of different lengths of length, then one that is not whole.
STREAM = octets("c0 00 30 { (x)*5 } 30 { (y)*200 } 32 { (z)*20000 }")
PACKETS = [(0xC0, b""), (0x30, b"x" * 5), (0x30, b"y" * 200), (0x32, b"z" * 20_000)]


def read(framer: Framer, data: bytes) -> list[tuple[int, bytes]]:
    """The packets that are whole once `data` has come."""
    framer.feed(data)
    found = []
    while framer.next_packet():
        found.append((framer.first_byte, framer.buffer[framer.start : framer.stop]))
    return found


def read_in_pieces(framer: Framer, data: bytes, size: int) -> list[tuple[int, bytes]]:
    return [packet for start in range(0, len(data), size) for packet in read(framer, data[start : start + size])]


def test_many_packets_in_one_read() -> None:
    framer = Framer(100_000)
    assert read(framer, STREAM) == PACKETS
    assert framer.unread_bytes == 0


@pytest.mark.parametrize("size", [1, 2, 3, 4, 5, 7, 64, 1_000, 20_000])
def test_one_packet_over_many_reads(size: int) -> None:
    assert read_in_pieces(Framer(100_000), STREAM * 2, size) == PACKETS * 2


def test_every_cut_of_a_stream() -> None:
    stream = octets("30 { (ab) } 32 { (y)*130 } c0 00 30 { (c) }")
    whole = read(Framer(1_000), stream)
    for cut in range(len(stream) + 1):
        framer = Framer(1_000)
        assert read(framer, stream[:cut]) + read(framer, stream[cut:]) == whole, cut


def test_a_packet_is_found_when_its_last_byte_comes() -> None:
    framer = Framer(1_000)
    packet = octets("30 { (x)*300 }")
    assert read_in_pieces(framer, packet[:-1], 1) == []
    assert framer.unread_bytes == len(packet) - 1
    assert read(framer, packet[-1:]) == [(0x30, b"x" * 300)]
    assert framer.unread_bytes == 0


def test_reads_that_nobody_looked_at_are_kept() -> None:
    """As while a login is checked."""
    framer = Framer(1_000)
    stream = octets("c0 00 30 { (ab) } e0 00")
    for position in range(len(stream)):
        framer.feed(stream[position : position + 1])
    assert framer.unread_bytes == len(stream)
    assert read(framer, b"") == [(0xC0, b""), (0x30, b"ab"), (0xE0, b"")]


def test_reads_that_nobody_looked_at_behind_a_packet_that_was_cut() -> None:
    """What was needed for that one is not needed for the next."""
    framer = Framer(1_000)
    assert read_in_pieces(framer, octets("30 { (x)*300 }"), 100) == [(0x30, b"x" * 300)]
    framer.feed(octets("c0 00 e0 00"))
    assert framer.next_packet()
    framer.feed(octets("30 { (ab) }"))
    assert read(framer, b"") == [(0xE0, b""), (0x30, b"ab")]


@pytest.mark.parametrize(
    ("length", "encoded"),
    [
        (0, "00"), (127, "7f"), (128, "8001"), (16_383, "ff7f"), (16_384, "808001"), (2_097_151, "ffff7f"),
        (2_097_152, "80808001"),
    ],
)  # fmt: skip
def test_remaining_length(length: int, encoded: str) -> None:
    framer = Framer(3_000_000)
    assert read(framer, octets("30 " + encoded) + bytes(length)) == [(0x30, bytes(length))]


def test_the_longest_remaining_length() -> None:
    framer = Framer(268_435_460)
    assert read(framer, octets("30 ffffff7f")) == []
    assert framer.unread_bytes == 5


@pytest.mark.parametrize("encoded", ["8000", "808000", "80808000", "ff8000", "8080808000", "8080808001", "ffffffff"])
@pytest.mark.parametrize("size", [1, 2, 9])
def test_remaining_length_that_is_malformed(encoded: str, size: int) -> None:
    """Not in the fewest bytes, or longer than four of them, however it comes."""
    with pytest.raises(MqttError) as refused:
        read_in_pieces(Framer(268_435_460), octets("c0" + encoded), size)
    assert refused.value.reason == 0x81


@pytest.mark.parametrize(("body", "header_bytes"), [(120, 2), (128, 3), (20_000, 4)])
def test_the_limit_counts_the_whole_packet(body: int, header_bytes: int) -> None:
    packet = octets(f"30 {{ (x)*{body} }}")
    assert len(packet) == body + header_bytes
    assert read(Framer(len(packet)), packet) == [(0x30, b"x" * body)]
    with pytest.raises(MqttError) as refused:
        read(Framer(len(packet) - 1), packet[:header_bytes])
    assert refused.value.reason == 0x95


def test_too_large_is_known_from_the_header_alone() -> None:
    framer = Framer(1_000)
    for byte in octets("30 80 80"):
        assert read(framer, bytes((byte,))) == []
    with pytest.raises(MqttError) as refused:
        read(framer, b"\x01")
    assert refused.value.reason == 0x95
    assert "16388 bytes, at most 1000" in str(refused.value)


class Copies:
    """Counts the bytes that the framer copies, in place of the types it copies with."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.bytes = 0
        copies = self

        class Collected(bytearray):
            def __init__(self, source: Any) -> None:
                copies.bytes += len(source)
                super().__init__(source)

            def __iadd__(self, other: bytes) -> "Collected":
                copies.bytes += len(other)
                self.extend(other)
                return self

        def frozen(source: bytearray) -> bytes:
            copies.bytes += len(source)
            return bytes(source)

        monkeypatch.setattr(framing, "bytearray", Collected, raising=False)
        monkeypatch.setattr(framing, "bytes", frozen, raising=False)


@pytest.mark.parametrize("size", [1, 100, 4_096])
@pytest.mark.parametrize("body", [10, 1_000, 100_000])
def test_work_is_linear_in_the_bytes(monkeypatch: pytest.MonkeyPatch, size: int, body: int) -> None:
    """Each byte is copied at most three times, whatever the packets and the reads are: into what is collected, out of
    it, and once more if the next packet is cut too.
    """
    stream = octets(f"30 {{ (x)*{body} }}") * max(2, 20_000 // body)
    copies = Copies(monkeypatch)
    framer = Framer(200_000)
    found = read_in_pieces(framer, stream, size)
    assert len(found) == max(2, 20_000 // body)
    assert 0 < copies.bytes <= 3 * len(stream)


def test_whole_packets_are_not_copied(monkeypatch: pytest.MonkeyPatch) -> None:
    """The hot path: what the framer hands out is the read itself."""
    copies = Copies(monkeypatch)
    framer = Framer(1_000)
    data = octets("30 { (ab) } 30 { (cd) }")
    assert len(read(framer, data)) == 2
    assert framer.buffer is data
    assert copies.bytes == 0
