"""The Kafka that lives in memory: real clients write and read it, and it never outlives who started it."""

import asyncio
import os
import signal
import sys
from pathlib import Path

import pytest
from confluent_kafka import Consumer, TopicPartition

from proxy.errors import ProxyError
from proxy.kafka.client import GatewaySettings
from proxy.kafka.embedded import EmbeddedKafka
from tests.kafka.conftest import new_gateway
from tests.kafka.outcomes import Outcomes, send
from tests.support.processes import Process, wait_until

#: Starts an embedded Kafka as `mqk dev` does, says where, and then does nothing more.
PARENT = """
import asyncio
from proxy.kafka.embedded import EmbeddedKafka

async def main():
    kafka = EmbeddedKafka()
    await kafka.start(["up"])
    print(kafka.bootstrap_server, kafka._process.pid, flush=True)
    await asyncio.Event().wait()

asyncio.run(main())
"""


def exists(pid: int) -> bool:
    try:
        state = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
    except FileNotFoundError:
        return False
    return state != "Z"  # A zombie has ended; nobody has asked how.


def read(bootstrap_server: str, topic: str, partition: int, count: int) -> list[tuple[bytes | None, bytes | None]]:
    consumer = Consumer({"bootstrap.servers": bootstrap_server, "group.id": "tests", "enable.auto.commit": False})
    try:
        consumer.assign([TopicPartition(topic, partition, 0)])
        messages = consumer.consume(count, timeout=10)
        return [(message.key(), message.value()) for message in messages]
    finally:
        consumer.close()


async def test_what_is_written_to_it_can_be_read() -> None:
    kafka = EmbeddedKafka()
    await kafka.start(["up", "status"])
    try:
        settings = GatewaySettings([kafka.bootstrap_server], "tests", create_topics=False)
        gateway, outcomes = new_gateway(settings), Outcomes()
        await gateway.start(["up", "status"])
        try:
            assert gateway.partitions("up") == gateway.partitions("status") == 4
            send(gateway, "up", b"a", outcomes, range(100))
            assert await gateway.flush(10) == 0
        finally:
            await gateway.stop()
        assert outcomes.stored == list(range(100))
        stored = await asyncio.to_thread(read, kafka.bootstrap_server, "up", 0x61 % 4, 100)
        assert stored == [(b"a", b"%d" % token) for token in range(100)]
        assert kafka._process is not None
        pid = kafka._process.pid
        assert exists(pid)
    finally:
        await kafka.stop()
    assert not exists(pid)


def test_it_ends_when_its_parent_is_killed(tmp_path: Path) -> None:
    with Process([sys.executable, "-c", PARENT], tmp_path / "log") as parent:
        parent.wait_for_output("\n", timeout_seconds=30)
        server, pid = parent.output.split()
        assert server.startswith("127.0.0.1:")
        assert exists(int(pid))
        assert os.getpgid(int(pid)) != os.getpgid(parent.pid)  # Ctrl-C in a terminal does not reach it.
        os.kill(parent.pid, signal.SIGKILL)
        wait_until(lambda: not exists(int(pid)), "the embedded Kafka is gone")


async def test_without_the_extra_it_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(ProxyError, match=r"pip install 'mqtt-kafka-proxy\[embedded\]'"):
        await EmbeddedKafka().start(["up"])


async def test_a_child_that_does_not_come_up_is_an_error(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "executable", "/bin/true")
    kafka = EmbeddedKafka()
    with pytest.raises(ProxyError, match="did not start"):
        await kafka.start(["up"])
    await kafka.stop()
