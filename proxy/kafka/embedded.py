"""A Kafka that lives in memory, for trying things out: librdkafka's mock cluster in a process of its own.

It speaks the real protocol to real clients, stores nothing on disk and ends with its parent. It cannot create topics on
request, so it is told their names at start.
"""

import asyncio
import importlib.util
import sys
from collections.abc import Sequence
from typing import Final

from proxy.errors import ProxyError

_METADATA_SECONDS: Final = 10.0


class EmbeddedKafka:
    """The child process. Use `start`, then `bootstrap_server`, then `stop`."""

    def __init__(self) -> None:
        self.bootstrap_server = ""
        self._process: asyncio.subprocess.Process | None = None

    async def start(self, topics: Sequence[str]) -> None:
        """Raises ProxyError: the extra is not installed, or the process did not come up."""
        if importlib.util.find_spec("confluent_kafka") is None:
            raise ProxyError("the embedded Kafka needs an extra: pip install 'mqtt-kafka-proxy[embedded]'")
        # In a session of its own, so that Ctrl-C reaches the proxy alone, which still has records to write.
        self._process = process = await asyncio.create_subprocess_exec(
            sys.executable, "-m", __name__, *topics,
            stdin=asyncio.subprocess.PIPE, stdout=asyncio.subprocess.PIPE, start_new_session=True,
        )  # fmt: skip
        assert process.stdout is not None  # noqa: S101 - asked for a pipe above
        self.bootstrap_server = (await process.stdout.readline()).decode().strip()
        if not self.bootstrap_server:
            raise ProxyError("the embedded Kafka did not start")

    async def stop(self) -> None:
        """Ends the process."""
        if self._process is not None and self._process.stdin is not None:
            self._process.stdin.close()
            await self._process.wait()


def main(topics: list[str]) -> None:
    """The child: prints its address and lives until its standard input closes, whatever becomes of its parent."""
    from confluent_kafka import Producer  # noqa: PLC0415 - an extra, needed by this process alone

    producer = Producer({"bootstrap.servers": "", "test.mock.num.brokers": 1, "log_level": 3})
    metadata = producer.list_topics(timeout=_METADATA_SECONDS)
    for topic in topics:
        producer.list_topics(topic, timeout=_METADATA_SECONDS)
    broker = next(iter(metadata.brokers.values()))
    sys.stdout.write(f"{broker.host}:{broker.port}\n")
    sys.stdout.flush()
    sys.stdin.read()


if __name__ == "__main__":
    main(sys.argv[1:])
