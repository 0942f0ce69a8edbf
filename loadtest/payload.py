"""What a message carries: who sent it, its place in that sender's sequence, and bytes that can be checked later.

A payload is run id (8 bytes), connection index (u32), sequence number (u32), all big endian, then pseudo random bytes
that follow from these. So a message never has to be kept to be sent again, and a reader can tell a damaged one.
"""

import random
import struct

RUN_ID_BYTES = 8
IDENTITY_BYTES = 16
_IDENTITY = struct.Struct(">II")
#: The random bytes of two messages begin at different offsets of one table. Odd, so that all offsets are visited.
_STRIDE = 1_021
_OFFSETS = 4_096


class Payloads:
    """The payloads of one run: a pure function of connection index and sequence number."""

    __slots__ = ("noise", "padding_bytes", "run_id")

    def __init__(self, run_id: bytes, size: int) -> None:
        self.run_id = run_id
        self.padding_bytes = size - IDENTITY_BYTES
        self.noise = random.Random(run_id).randbytes(_OFFSETS + self.padding_bytes)

    def padding(self, sequence: int) -> bytes:
        offset = sequence * _STRIDE % _OFFSETS
        return self.noise[offset : offset + self.padding_bytes]

    def payload(self, connection: int, sequence: int) -> bytes:
        return self.run_id + _IDENTITY.pack(connection, sequence) + self.padding(sequence)

    def identify(self, payload: bytes) -> tuple[int, int] | None:
        """Connection index and sequence number, or None when another run or another tool wrote this."""
        if len(payload) < IDENTITY_BYTES or payload[:RUN_ID_BYTES] != self.run_id:
            return None
        connection, sequence = _IDENTITY.unpack_from(payload, RUN_ID_BYTES)
        return connection, sequence
