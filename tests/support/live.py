"""A device on a plain socket, in the event loop of the test: bytes in the notation of `wire.py`, nothing else."""

import asyncio
from typing import Self

from proxy.mqtt.packets import MQTT_3_1_1
from tests.support.wire import octets, pattern

#: Longer than anything takes on a busy machine; only a test that fails waits for it.
ANSWER_TIMEOUT_SECONDS = 10.0


class LiveDevice:
    """It knows where a packet ends, and not what it means. As a context manager it closes its socket at the end."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, version: int = MQTT_3_1_1) -> None:
        self.version = version
        self.reader = reader
        self.writer = writer

    @classmethod
    async def on(cls, port: int, version: int = MQTT_3_1_1) -> Self:
        return cls(*await asyncio.open_connection("127.0.0.1", port), version)

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *error: object) -> None:
        self.writer.close()
        await self.writer.wait_closed()

    def sends(self, notation: str) -> None:
        self.writer.write(octets(notation, self.version))

    async def hears(self, *notations: str) -> None:
        """The next packets have to be these."""
        for notation in notations:
            packet = await self.packet()
            assert pattern(notation, self.version).fullmatch(packet), f"{packet.hex(' ')}, not {notation}"

    async def ends(self, notation: str = "") -> None:
        """The server has to say this and nothing more, and close."""
        rest = await self.rest()
        assert pattern(notation, self.version).fullmatch(rest), f"{rest.hex(' ')}, not {notation!r}"

    async def packet(self) -> bytes:
        """The next packet, whole."""
        async with asyncio.timeout(ANSWER_TIMEOUT_SECONDS):
            header = await self.reader.readexactly(2)
            while header[-1] >= 0x80:
                header += await self.reader.readexactly(1)
            length = sum((byte & 0x7F) << (7 * place) for place, byte in enumerate(header[1:]))
            return header + await self.reader.readexactly(length)

    async def rest(self) -> bytes:
        """Everything until the server closes the connection, which it has to do."""
        async with asyncio.timeout(ANSWER_TIMEOUT_SECONDS):
            return await self.reader.read()
