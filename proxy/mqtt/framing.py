"""Finds the packets in a stream of bytes; refuses by the fixed header alone what is too large.

Work is linear in the bytes received, however they are split: an incomplete packet is collected in place, never joined
again and again. Memory is bounded by `packet_bytes_max` plus one read.
"""

from proxy.errors import MqttError

_MALFORMED_PACKET = 0x81
_PACKET_TOO_LARGE = 0x95
_LENGTH_BYTES_MAX = 4


class Framer:
    """After `next_packet()` returned True, the packet is `buffer[start:stop]` without its fixed header."""

    __slots__ = ("_needed", "_next", "_tail", "buffer", "first_byte", "packet_bytes_max", "start", "stop")

    def __init__(self, packet_bytes_max: int) -> None:
        self.packet_bytes_max = packet_bytes_max
        self.buffer = b""
        self.first_byte = 0
        self.start = 0
        self.stop = 0
        self._next = 0
        self._tail: bytearray | None = None
        self._needed = 0

    @property
    def unread_bytes(self) -> int:
        """Bytes that were received and are not part of a packet handed out."""
        return len(self._tail) if self._tail is not None else len(self.buffer) - self._next

    def feed(self, data: bytes) -> None:
        """Takes what was read. Call `next_packet` until it returns False before the next feed, or keep feeding."""
        tail = self._tail
        if tail is None:
            if self._next >= len(self.buffer):
                self.buffer = data
                self._next = 0
                return
            tail = self._tail = bytearray(self.buffer[self._next :])
            self.buffer, self._next, self._needed = b"", 0, 0
        tail += data

    def next_packet(self) -> bool:
        """Steps to the next complete packet; False when more bytes are needed.

        Raises MqttError: the remaining length is malformed (1.5.5), or the packet is larger than `packet_bytes_max`.
        """
        if self._tail is not None:
            if len(self._tail) < self._needed:
                return False
            self.buffer, self._tail, self._next = bytes(self._tail), None, 0
        buffer = self.buffer
        position = self._next
        end = len(buffer)
        if position >= end:
            return False
        # The remaining length of most packets has one or two bytes.
        if position + 3 <= end and (length := buffer[position + 1]) < 0x80:
            start = position + 2
            stop = start + length
        elif position + 3 <= end and 0 < (high := buffer[position + 2]) < 0x80:
            start = position + 3
            stop = start + (length & 0x7F | high << 7)
        else:
            start, stop = self._long_length(position, end)
        if stop - position > self.packet_bytes_max:
            raise MqttError(
                _PACKET_TOO_LARGE, f"packet of {stop - position} bytes, at most {self.packet_bytes_max} are allowed"
            )
        if stop > end or start > stop:
            self._keep_tail(position, stop - position if stop >= start else 0)
            return False
        self.first_byte = buffer[position]
        self.start = start
        self.stop = self._next = stop
        return True

    def _long_length(self, position: int, end: int) -> tuple[int, int]:
        """Start and stop of the packet; start behind stop when its length is not there yet."""
        value = 0
        for count in range(_LENGTH_BYTES_MAX):
            at = position + 1 + count
            if at >= end:
                return position + 1, position
            byte = self.buffer[at]
            value |= (byte & 0x7F) << (7 * count)
            if byte < 0x80:
                if count and not byte:
                    # The encoding must use the fewest bytes [MQTT-1.5.5-1].
                    raise MqttError(_MALFORMED_PACKET, "remaining length is not encoded in the fewest bytes")
                return at + 1, at + 1 + value
        raise MqttError(_MALFORMED_PACKET, "remaining length is longer than four bytes")

    def _keep_tail(self, position: int, needed: int) -> None:
        """What is left waits; a large packet is not looked at again before it is whole."""
        self._tail = bytearray(self.buffer[position:])
        self._needed = needed
        self.buffer, self._next = b"", 0
