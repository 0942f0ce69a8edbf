"""What several replicas make of one fleet: they die, freeze, lose Kafka, or get the same client at the same time.

The sizes are the caller's: small in the test suite, those of a fleet where it is proven. Every function checks what
must hold at rest and returns its figures.
"""

import asyncio
import contextlib
import random
import statistics
import time
from collections import Counter
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from typing import Any

from tests.support.cluster import Cluster, Status
from tests.support.kafka_broker import KafkaBroker
from tests.support.roamers import Roamer

#: Connections that are opened at a time.
OPENING = 100
#: A dead replica is noticed after 10 s; then its connections are released and announced.
REST_SECONDS = 40.0
SESSION_TAKEN_OVER = 0x8E


@contextlib.asynccontextmanager
async def roaming(roamers: Sequence[Roamer]) -> AsyncIterator[None]:
    """All of them are connected, each first where its turn is; afterwards they are cut."""
    tasks = [asyncio.create_task(roamer.stay_connected()) for roamer in roamers]
    try:
        await until(lambda: all(roamer.connected for roamer in roamers), "the fleet is connected", 120)
        yield
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.wait(tasks)
        for roamer in roamers:
            roamer.close()


async def until(holds: Callable[[], bool], what: str, seconds: float) -> float:
    """Waits; returns how long. TimeoutError, naming what."""
    began = time.monotonic()
    while not await asyncio.to_thread(holds):
        if time.monotonic() - began > seconds:
            raise TimeoutError(f"not after {seconds:g} s: {what}")
        await asyncio.sleep(0.2)
    return time.monotonic() - began


def fleet(cluster: Cluster, size: int, **options: Any) -> list[Roamer]:
    """Devices whose first replicas take turns."""
    ports = cluster.ports
    return [
        Roamer(f"device-{number}", ports[number % len(ports) :] + ports[: number % len(ports)], **options)
        for number in range(size)
    ]


async def node_loss(cluster: Cluster, roamers: Sequence[Roamer], victim: int) -> dict[str, Any]:
    """kill -9 of one replica: its clients are back on others, and `status` says the truth at rest."""
    for roamer in roamers:
        roamer.will_topic = f"tlink/{roamer.client_id}/will"
    async with roaming(roamers):
        lost = [roamer for roamer in roamers if roamer.port == cluster.ports[victim]]
        cluster.replicas[victim].kill()
        await until(lambda: all(r.connected and r.broken for r in lost), "the lost clients are back", 60)
        seconds = await at_rest(cluster, roamers)
        back = [roamer.back_after_seconds[-1] for roamer in lost]
        expected = Counter({roamer.client_id: roamer.broken for roamer in roamers if roamer.broken})
        await until(lambda: wills_by_client(cluster) == expected, "a will for each broken connection", REST_SECONDS)
    reasons = Counter(each["reason"] for each in cluster.status() if not each["online"])
    return {
        "clients lost": len(lost),
        "back after seconds, slowest": round(max(back), 2),
        "at rest after seconds": round(seconds, 1),
        "reasons": dict(reasons),
    }


async def takeovers(cluster: Cluster, times: int, seed: int = 1) -> dict[str, Any]:
    """One client identifier through all replicas at random: each time the older connection hears 0x8E."""
    rng = random.Random(seed)
    older: Roamer | None = None
    reading: asyncio.Task[None] | None = None
    seconds: list[float] = []
    for _ in range(times):
        roamer = Roamer("the-same", cluster.ports)
        assert await roamer.connect(rng.choice(cluster.ports)), "CONNACK"
        seconds += roamer.connack_seconds
        if older is not None and reading is not None:
            async with asyncio.timeout(10):
                await reading
            assert older.told == [SESSION_TAKEN_OVER], older.told
        older, reading = roamer, asyncio.create_task(roamer.read())
    assert older is not None and reading is not None
    older.close()
    await reading
    await until(lambda: len(cluster.status()) >= 2 * times and not online(cluster), "all is told", REST_SECONDS)
    actions = Counter(each["action"] for each in cluster.status())
    assert actions == {"connected": times, "disconnected": times}, actions
    return {"takeovers": times - 1, **_milliseconds(seconds)}


async def frozen(cluster: Cluster, roamers: Sequence[Roamer], victim: int, seconds: float) -> dict[str, Any]:
    """SIGSTOP of one replica: its clients go elsewhere; when it resumes, nobody lives twice."""
    async with roaming(roamers):
        lost = [roamer for roamer in roamers if roamer.port == cluster.ports[victim]]
        process = cluster.replicas[victim].process
        process.pause()
        try:
            for roamer in lost:  # A device notices by its keep alive; these do at once.
                roamer.close()
            await until(lambda: all(r.connected and r.broken for r in lost), "its clients are elsewhere", 60)
            await asyncio.sleep(seconds)
        finally:
            process.resume()
        waited = await at_rest(cluster, roamers)
    return {"clients lost": len(lost), "at rest after seconds": round(waited, 1)}


async def without_kafka(
    cluster: Cluster, roamers: Sequence[Roamer], kafka: KafkaBroker, seconds: float
) -> dict[str, Any]:
    """Kafka stops and comes back: every connection lives on, and no replica takes another for dead."""
    async with roaming(roamers):
        await until(lambda: _is_told(cluster, roamers), "status is true", REST_SECONDS)
        before = {_place(told) for told in cluster.status()}
        await asyncio.to_thread(kafka.stop)
        await asyncio.sleep(seconds)
        assert all(roamer.connected and not roamer.broken for roamer in roamers), "a connection was cut"
        await asyncio.to_thread(kafka.start)
        await asyncio.sleep(15)  # Longer than a silence for which a replica is taken for dead.
        told = [told for told in await asyncio.to_thread(cluster.status) if _place(told) not in before]
        assert told == [], told[:3]
        assert all(roamer.connected and not roamer.broken for roamer in roamers), "a connection was cut"
        async with roaming([Roamer("newcomer", cluster.ports)]):
            pass
    return {"connections": len(roamers), "status records meanwhile": 0}


def _place(told: Mapping[str, Any]) -> tuple[Any, ...]:
    """What a repeated record has in common with the first."""
    return (told["clientid"], told["action"], told["offset"], told["epoch"])


async def connect_rate(cluster: Cluster, roamers: Sequence[Roamer], per_second: float) -> dict[str, Any]:
    """So many CONNECTs a second, to all replicas in turn. Logins are known from a first connection of each user."""
    for port in cluster.ports:
        for username in {roamer.username: roamer for roamer in roamers}.values():
            assert await username.connect(port), "CONNACK"
            username.close()
            username.connack_seconds.clear()
    began = time.monotonic()
    tries: list[asyncio.Task[bool]] = []
    for number, roamer in enumerate(roamers):
        await asyncio.sleep(max(0.0, began + number / per_second - time.monotonic()))
        tries.append(asyncio.create_task(roamer.connect(roamer.ports[0])))
    assert all(await asyncio.gather(*tries)), "CONNACK"
    seconds = time.monotonic() - began
    figures = _milliseconds([each for roamer in roamers for each in roamer.connack_seconds])
    for roamer in roamers:
        roamer.close()
    return {"connects": len(roamers), "per second": round(len(roamers) / seconds), **figures}


async def at_rest(cluster: Cluster, roamers: Sequence[Roamer]) -> float:
    """Waits until `status` says online exactly for those who are, and has told every end; then it must have told each
    once, in its place.
    """
    seconds = await until(lambda: _is_told(cluster, roamers), "status is true", REST_SECONDS)
    actions: dict[str, list[str]] = {}
    for each in cluster.status():
        actions.setdefault(each["clientid"], []).append(each["action"])
    for roamer in roamers:
        told = actions[roamer.client_id]
        assert told == (["connected", "disconnected"] * len(told))[: len(told)], (roamer.client_id, told)
        assert told.count("disconnected") <= roamer.broken + roamer.unanswered, cluster.told(roamer.client_id)
    return seconds


def _is_told(cluster: Cluster, roamers: Sequence[Roamer]) -> bool:
    told = cluster.status()
    ends = Counter(each["clientid"] for each in told if not each["online"])
    connected = {roamer.client_id for roamer in roamers if roamer.connected}
    return _online(told) == connected and all(ends[each.client_id] >= each.broken for each in roamers)


def online(cluster: Cluster) -> set[str]:
    """Who is connected, by what `status` says."""
    return _online(cluster.status())


def _online(told: list[Status]) -> set[str]:
    last: dict[str, Status] = {each["clientid"]: each for each in told}
    return {client_id for client_id, each in last.items() if each["online"]}


def wills_by_client(cluster: Cluster) -> Mapping[str, int]:
    """How many wills each client has in Kafka, without repeats."""
    found: set[tuple[str, bytes | None, bytes | None]] = set()
    for record in cluster.kafka.read(f"{cluster.name}_msg"):
        headers = dict(record.headers)
        if (record.key or b"").endswith(b"/will"):
            client_id = (headers["mqtt.clientid"] or b"").decode()
            found.add((client_id, headers["mqk.offset"], headers["mqk.epoch"]))
    return Counter(client_id for client_id, _, _ in found)


def _milliseconds(seconds: list[float]) -> dict[str, float]:
    ordered = sorted(seconds)
    return {
        "CONNACK p50 ms": round(statistics.median(ordered) * 1000, 1),
        "CONNACK p99 ms": round(ordered[int(len(ordered) * 0.99)] * 1000, 1),
    }
