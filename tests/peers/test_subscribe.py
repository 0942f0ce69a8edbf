"""Clients that others wrote subscribe and receive what commands deliver: byte for byte, in order, acknowledged."""

import asyncio
import random
import sys
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import NamedTuple

import pytest

from proxy.clock import monotonic
from proxy.cluster.commands import DELIVER, Command, Message, Selector
from proxy.flows.access import AccessSettings
from tests.flows.harness import Replica
from tests.support.fakes import until

#: More than waits for one device at a time, so that it is fed as it acknowledges.
MESSAGES = 300
AT_A_TIME = 50
TIMEOUT_SECONDS = 60.0
HERE = Path(__file__).parent
NAMES = {3: "3.1", 4: "3.1.1", 5: "5.0"}


class Peer(NamedTuple):
    """A client: its script, the versions that it speaks, and what it writes once it has its SUBACK."""

    command: list[str | Path]
    versions: tuple[int, ...] = (4, 5)
    ready: bytes = b"ready"


PEERS = {
    "paho": Peer([sys.executable, HERE / "subscribe_paho.py"], versions=(3, 4, 5)),
    "gmqtt": Peer([sys.executable, HERE / "subscribe_gmqtt.py"]),
    "MQTT.js": Peer(["node", HERE / "node" / "subscribe.js"], versions=(3, 4, 5)),
    "mosquitto_sub": Peer([HERE / "subscribe_mosquitto.sh"], versions=(3, 4, 5), ready=b"Subscribed"),
}
CASES = [(name, version) for name, peer in PEERS.items() for version in peer.versions]


@pytest.fixture
async def replica() -> AsyncIterator[Replica]:
    replica = Replica(access=AccessSettings(subscribe_default="allow"))
    replica.downlink.now = monotonic
    yield replica
    replica.listener.stop()
    assert (replica.listener.bugs, replica.gateway.bugs) == (0, [])


@pytest.mark.peers
@pytest.mark.parametrize("qos", [0, 1, 2], ids=["QoS 0", "QoS 1", "QoS 2"])
@pytest.mark.parametrize(("name", "version"), CASES, ids=[f"{name} {NAMES[version]}" for name, version in CASES])
async def test_subscribe(replica: Replica, name: str, version: int, qos: int) -> None:
    peer, port = PEERS[name], await replica.listener.listen("127.0.0.1", 0)
    chance = random.Random(f"{name} {version} {qos}")
    payloads = [chance.randbytes(chance.choice((1, 20, 128, 3_000))) for _ in range(MESSAGES)]
    arguments = [*peer.command, *map(str, (port, version, qos, "peer", "down/+/#", MESSAGES))]
    process = await asyncio.create_subprocess_exec(*arguments, stdout=asyncio.subprocess.PIPE)
    assert process.stdout is not None
    try:
        async with asyncio.timeout(TIMEOUT_SECONDS):
            while not (line := await process.stdout.readline()).startswith(peer.ready):
                assert line, "it ended before it had subscribed"
            # It is read meanwhile, as it waits when nobody takes what it writes.
            outcomes, written = await asyncio.gather(deliver(replica, payloads, qos), process.stdout.read())
            assert await process.wait() == 0
    finally:
        if process.returncode is None:
            process.kill()
            await process.wait()
    # What mosquitto_sub tells beside is no payload.
    lines = written.decode().splitlines()
    assert [line for line in lines if line and " " not in line] == [payload.hex() for payload in payloads]
    assert outcomes == [("peer", "delivered")] * MESSAGES


async def deliver(replica: Replica, payloads: list[bytes], qos: int) -> list[tuple[str, str]]:
    """So many at a time; what became of them."""
    outcomes: list[tuple[str, str]] = []
    report: Callable[[str, str], None] = lambda client_id, outcome: outcomes.append((client_id, outcome))  # noqa: E731
    for number, payload in enumerate(payloads):
        message = Message(f"down/peer/{number % 3}", payload, qos)
        replica.executor.execute(Command(f"7-{number}", DELIVER, Selector("peer"), message=message), report)
        if number % AT_A_TIME == AT_A_TIME - 1:
            await until(lambda: len(outcomes) > number, "all are delivered", TIMEOUT_SECONDS)  # noqa: B023
    await until(lambda: len(outcomes) == len(payloads), "all are delivered", TIMEOUT_SECONDS)
    return outcomes
