"""A load balancer before replicas, in small: one port, and each new connection goes to the next replica that answers.

It knows no MQTT. Told to, it cuts connections after some bytes, be that within a packet or before an acknowledgement,
and the replica may hear of it later than the device, as when a device has lost its radio.
"""

import asyncio
import contextlib
import itertools
import random
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Self

Stream = tuple[asyncio.StreamReader, asyncio.StreamWriter]
#: How long a replica may go on without knowing that its device is gone.
LATE_SECONDS_MAX = 1.0


@dataclass(frozen=True)
class Cuts:
    """Every connection is cut after some bytes of both directions, CONNECT and CONNACK among them, at random between
    these two; half of them late on the replica's side. After `most` cuts there are no more.
    """

    bytes_min: int
    bytes_max: int
    seed: int
    most: int


class _CutError(Exception):
    """This connection has carried its bytes."""


class Relay:
    """As an async context manager it listens on `port`; whoever is connected at the end is cut."""

    def __init__(self, ports: Sequence[int], cuts: Cuts | None = None) -> None:
        self.port = 0
        self.connections = 0
        #: Connections that were cut, not counting those that ended by themselves.
        self.cut = 0
        self._cuts = cuts
        self._random = random.Random(cuts.seed if cuts else 0)
        self._replicas = len(ports)
        self._turns: Iterator[int] = itertools.cycle(ports)
        self._links: set[asyncio.Task[None]] = set()

    async def __aenter__(self) -> Self:
        self._server = await asyncio.start_server(self._accept, "127.0.0.1", 0)
        self.port = self._server.sockets[0].getsockname()[1]
        return self

    async def __aexit__(self, *error: object) -> None:
        self._server.close()
        for link in self._links:
            link.cancel()
        if self._links:
            await asyncio.wait(self._links)

    def _accept(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        link = asyncio.create_task(self._serve((reader, writer)))
        self._links.add(link)
        link.add_done_callback(self._links.discard)

    async def _serve(self, device: Stream) -> None:
        try:
            replica = await self._next_replica()
            if replica is None:
                return
            self.connections += 1
            try:
                await self._carry(device, replica)
            except* _CutError:
                self.cut += 1
                device[1].transport.abort()
                if self._random.random() < 0.5:
                    await asyncio.sleep(self._random.uniform(0, LATE_SECONDS_MAX))
            except* OSError:
                pass  # One side has vanished; the other is about to.
            finally:
                replica[1].transport.abort()
        finally:
            device[1].transport.abort()

    async def _next_replica(self) -> Stream | None:
        for port in itertools.islice(self._turns, self._replicas):
            with contextlib.suppress(OSError):
                return await asyncio.open_connection("127.0.0.1", port)
        return None

    async def _carry(self, device: Stream, replica: Stream) -> None:
        """Until both sides have said all they had to say, one has vanished, or the connection is to be cut."""
        budget = _Budget(self._bytes_to_carry())
        async with asyncio.TaskGroup() as both:
            both.create_task(_pump(device[0], replica[1], budget))
            both.create_task(_pump(replica[0], device[1], budget))

    def _bytes_to_carry(self) -> int | None:
        cuts = self._cuts
        if cuts is None or self.cut >= cuts.most:
            return None
        return self._random.randint(cuts.bytes_min, cuts.bytes_max)


class _Budget:
    """How many bytes are left to carry; None: as many as there are."""

    def __init__(self, left: int | None) -> None:
        self._left = left

    def take(self, wanted: int) -> int:
        if self._left is None:
            return wanted
        taken = min(wanted, self._left)
        self._left -= taken
        return taken


async def _pump(reader: asyncio.StreamReader, writer: asyncio.StreamWriter, budget: _Budget) -> None:
    while data := await reader.read(65_536):
        allowed = budget.take(len(data))
        writer.write(data[:allowed])
        await writer.drain()
        if allowed < len(data):
            raise _CutError
    writer.write_eof()
