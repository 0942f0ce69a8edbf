"""An MQTT server that is as good or as bad as a test wants it. It shares no code with the load tool."""

import asyncio
import contextlib
from collections.abc import AsyncIterator, Callable
from typing import NamedTuple


class Publish(NamedTuple):
    """A PUBLISH as it came in. `packet_id` is 0 at QoS 0."""

    client_id: str
    topic: str
    packet_id: int
    dup: bool
    payload: bytes


class FakeServer:
    """Keeps every PUBLISH and answers it with `answer(publish)`; None in its place cuts the connection instead."""

    def __init__(self) -> None:
        self.publishes: list[Publish] = []
        self.connects = 0
        self.disconnects = 0
        self.answer: Callable[[Publish], bytes | None] = puback
        self.connack: bytes | None = None
        self.port = 0
        self._writers: set[asyncio.StreamWriter] = set()
        self._conversations: set[asyncio.Task[None]] = set()

    @property
    def target(self) -> str:
        return f"127.0.0.1:{self.port}"

    @contextlib.asynccontextmanager
    async def running(self) -> AsyncIterator["FakeServer"]:
        server = await asyncio.start_server(self._serve, "127.0.0.1", self.port)
        self.port = server.sockets[0].getsockname()[1]
        try:
            yield self
        finally:
            server.close()
            for writer in self._writers:
                writer.transport.abort()
            await asyncio.gather(*self._conversations)
            await server.wait_closed()

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._writers.add(writer)
        task = asyncio.current_task()
        assert task
        self._conversations.add(task)
        task.add_done_callback(self._conversations.discard)
        with contextlib.suppress(asyncio.IncompleteReadError, ConnectionError):
            await self._converse(reader, writer)
        self._writers.discard(writer)
        writer.transport.abort()

    async def _converse(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        first_byte, body = await _read_packet(reader)
        assert first_byte == 0x10
        version, flags = body[6], body[7]
        assert not flags & 0x02, "the session must be kept"
        properties = 1 + body[10] if version == 5 else 0
        client_id, _ = _string(body, 10 + properties)
        self.connects += 1
        writer.write(self.connack or (b"\x20\x03\0\0\0" if version == 5 else b"\x20\x02\0\0"))
        while True:
            first_byte, body = await _read_packet(reader)
            kind = first_byte & 0xF0
            if kind == 0x30:
                answer = self._receive_publish(client_id, version, first_byte, body)
            elif kind == 0xE0:
                self.disconnects += 1
                return
            else:
                answer = {0x60: b"\x70\x02" + body[:2], 0xC0: b"\xd0\0"}[kind]
            if answer is None:
                return
            writer.write(answer)

    def _receive_publish(self, client_id: str, version: int, first_byte: int, body: bytes) -> bytes | None:
        topic, position = _string(body, 0)
        packet_id = 0
        if first_byte & 0x06:
            packet_id = int.from_bytes(body[position : position + 2], "big")
            position += 2
        if version == 5:
            position += 1 + body[position]
        publish = Publish(client_id, topic, packet_id, bool(first_byte & 0x08), body[position:])
        self.publishes.append(publish)
        return self.answer(publish) if first_byte & 0x06 else b""


def puback(publish: Publish) -> bytes:
    return b"\x40\x02" + publish.packet_id.to_bytes(2, "big")


def pubrec(publish: Publish) -> bytes:
    return b"\x50\x02" + publish.packet_id.to_bytes(2, "big")


def _string(body: bytes, start: int) -> tuple[str, int]:
    stop = start + 2 + int.from_bytes(body[start : start + 2], "big")
    return body[start + 2 : stop].decode(), stop


async def _read_packet(reader: asyncio.StreamReader) -> tuple[int, bytes]:
    first_byte = (await reader.readexactly(1))[0]
    length = shift = 0
    while True:
        digit = (await reader.readexactly(1))[0]
        length |= (digit & 0x7F) << shift
        shift += 7
        if digit < 0x80:
            return first_byte, await reader.readexactly(length)
