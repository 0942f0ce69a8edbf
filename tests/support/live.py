"""A device on a plain socket, in the event loop of the test: bytes in the notation of `wire.py`, nothing else."""

import asyncio
from typing import Self

from tests.support.wire import octets, pattern

#: Longer than anything takes on a busy machine; only a test that fails waits for it.
ANSWER_TIMEOUT_SECONDS = 10.0


class LiveDevice:
    """It knows where a packet ends, and not what it means. As a context manager it closes its socket at the end."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, version: int) -> None:
        self.version = version
        self._reader = reader
        self._writer = writer

    @classmethod
    async def on(cls, port: int, version: int) -> Self:
        return cls(*await asyncio.open_connection("127.0.0.1", port), version)

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *error: object) -> None:
        self._writer.close()
        await self._writer.wait_closed()

    def sends(self, notation: str) -> None:
        self._writer.write(octets(notation, self.version))

    async def hears(self, *notations: str) -> None:
        """The next packets have to be these."""
        for notation in notations:
            packet = await self._packet()
            assert pattern(notation, self.version).fullmatch(packet), f"{packet.hex(' ')}, not {notation}"

    async def ends(self, notation: str = "") -> None:
        """The server has to say this and nothing more, and close."""
        async with asyncio.timeout(ANSWER_TIMEOUT_SECONDS):
            rest = await self._reader.read()
        assert pattern(notation, self.version).fullmatch(rest), f"{rest.hex(' ')}, not {notation!r}"

    async def _packet(self) -> bytes:
        async with asyncio.timeout(ANSWER_TIMEOUT_SECONDS):
            header = await self._reader.readexactly(2)
            while header[-1] >= 0x80:
                header += await self._reader.readexactly(1)
            length = sum((byte & 0x7F) << (7 * place) for place, byte in enumerate(header[1:]))
            return header + await self._reader.readexactly(length)
