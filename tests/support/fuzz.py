"""Connections that no client would make: `python -m tests.support.fuzz PORT SEED COUNT`, a process of its own.

Each sends random bytes, or packets that are cut short, changed or in the wrong place; some then say nothing more, and
hold on to their connection until all others are done. What the server answers is read and ignored.
"""

import asyncio
import sys
from random import Random

from tests.support.wire import VERSIONS, octets, vectors

#: Connections that are open at a time, beside those that stall.
AT_A_TIME = 100
#: Connections that begin in a second. Without a pace it would be the machine's last cycles that are measured.
CONNECTIONS_PER_SECOND = 250
#: Of a hundred connections, how many stall.
STALLED_PERCENT = 5
STALLED_MAX = 200
#: What a server that has heard enough takes to close, at the most; a connection it keeps is closed from here.
ANSWER_SECONDS = 0.3
#: A CONNECT that is accepted, with a name that is nobody's for long.
CONNECT = '10 { "MQTT" V 02 003c [00] "fuzz" }'


class Fuzzer:
    def __init__(self, port: int, seed: int) -> None:
        self._port = port
        self._chance = Random(seed)
        self._corpus = [(vector.version, vector.data) for vector in vectors() if len(vector.data) < 10_000]
        self._stalled: list[asyncio.StreamWriter] = []

    async def run(self, count: int) -> None:
        numbers = iter(range(count))
        loop = asyncio.get_running_loop()
        start = loop.time()

        async def work() -> None:
            for number in numbers:
                await asyncio.sleep(start + number / CONNECTIONS_PER_SECOND - loop.time())
                await self._connection()

        async with asyncio.TaskGroup() as group:
            for _ in range(AT_A_TIME):
                group.create_task(work())
        for writer in self._stalled:
            writer.close()

    async def _connection(self) -> None:
        data = self._bytes()
        stalls = self._chance.random() * 100 < STALLED_PERCENT and len(self._stalled) < STALLED_MAX
        reader, writer = await asyncio.open_connection("127.0.0.1", self._port)
        try:
            writer.write(data)
            if stalls:
                self._stalled.append(writer)
                return
            if self._chance.random() < 0.3:
                writer.write_eof()
            async with asyncio.timeout(ANSWER_SECONDS):
                while await reader.read(65_536):
                    pass
        except (TimeoutError, ConnectionError):
            pass  # The server waits for the rest of a packet, or has cut the connection: both are its right.
        finally:
            if not stalls:
                writer.close()

    def _bytes(self) -> bytes:
        """One stream from its beginning to its end."""
        chance = self._chance
        if chance.random() < 0.2:
            return chance.randbytes(chance.randrange(1, 500))
        version = chance.choice(VERSIONS)
        parts = [octets(CONNECT, version)] if chance.random() < 0.7 else []
        for _ in range(chance.randint(1, 6)):
            _, data = chance.choice(self._corpus)
            parts.append(self._changed(data) if chance.random() < 0.7 else data)
        return b"".join(parts)

    def _changed(self, data: bytes) -> bytes:
        """One packet that is not as it was."""
        chance = self._chance
        if not data:
            return b""
        where = chance.randrange(len(data))
        match chance.randrange(5):
            case 0:
                return data[:where]
            case 1:
                return data[:where] + chance.randbytes(1) + data[where + 1 :]
            case 2:
                return data[:where] + chance.randbytes(chance.randint(1, 4)) + data[where:]
            case 3:
                return data[:where] + data[where + chance.randint(1, 4) :]
            case _:
                return data * chance.randint(2, 5)


if __name__ == "__main__":
    asyncio.run(Fuzzer(int(sys.argv[1]), int(sys.argv[2])).run(int(sys.argv[3])))
