"""A backend that writes messages for many devices at a rate, while a test does things to the replicas.

Every function checks what must hold whatever happens: each command has a result, what is `delivered` was acknowledged
by its device, a device hears messages in the order of their offsets, and nothing was committed that had no result.
"""

import asyncio
import json
import statistics
import sys
import time
from collections import Counter
from collections.abc import Sequence
from typing import Any

from loadtest.procfs import read_usage
from tests.support.backend import Backend
from tests.support.cluster import Cluster
from tests.support.kafka_broker import Record
from tests.support.listeners import Listener, audience, listening
from tests.support.sessions import until

PARTITIONS = 4
#: Records are written in steps of this length.
STEP_SECONDS = 0.01
#: Every command has a result within its timeout and the time that a replica takes to be dead.
RESULT_SECONDS = 90.0
#: How often it is looked at what was committed.
LOOK_SECONDS = 1.0


class Load:
    """Messages for these devices, in turns, each once; the payload is the number of the command."""

    def __init__(self, cluster: Cluster, listeners: Sequence[Listener]) -> None:
        self.cluster = cluster
        self.listeners = listeners
        #: Who is written to, in turns.
        self.turns = listeners
        self.backend = Backend(cluster.kafka, f"{cluster.name}_")
        self.written = 0
        #: What was committed, by partition of msg_down, and where the topic of results ended a moment later.
        self.looks: list[tuple[dict[int, int], dict[int, int]]] = []

    async def write(self, per_second: float, seconds: float) -> None:
        """In even steps."""
        began, end = time.monotonic(), self.written + int(per_second * seconds)
        start = self.written
        while self.written < end:
            due = min(end, start + int((time.monotonic() - began) * per_second))
            while self.written < due:
                self._write_one(self.turns[self.written % len(self.turns)])
            await asyncio.sleep(STEP_SECONDS)
        await asyncio.to_thread(self.backend.flush)

    def _write_one(self, listener: Listener) -> None:
        number = str(self.written)
        headers = {"clientid": listener.client_id, "qos": str(listener.qos), "id": number}.items()
        partition = hash(listener.client_id) % PARTITIONS
        self.backend.write("msg_down", listener.topic.encode(), number.encode() + listener.padding, headers, partition)
        self.written += 1

    async def look(self) -> None:
        """Notes, all the time, what was committed."""
        group = self.cluster.replicas[0].command_group
        while True:
            committed = await asyncio.to_thread(self.backend.committed, group, "msg_down")
            ends = await asyncio.to_thread(self.cluster.kafka.ends, f"{self.backend.prefix}command_results")
            self.looks.append((committed, ends))
            await asyncio.sleep(LOOK_SECONDS)

    async def results(self) -> list[Record]:
        """All results, once each command has one."""
        found: list[Record] = []

        def complete() -> bool:
            found[:] = self.cluster.kafka.read(f"{self.backend.prefix}command_results")
            return len({record.key for record in found}) >= self.written

        await until(complete, "every command has a result", RESULT_SECONDS)
        assert {record.key for record in found} == {b"%d" % number for number in range(self.written)}
        return found

    def records(self) -> list[Record]:
        return self.cluster.kafka.read(f"{self.backend.prefix}msg_down")


def create_topic(cluster: Cluster) -> None:
    """Stamped by Kafka, so that latency counts from there."""
    config = {"message.timestamp.type": "LogAppendTime"}
    cluster.kafka.create_topic(f"{cluster.name}_msg_down", PARTITIONS, config)


def check(load: Load, results: list[Record]) -> dict[str, int]:
    """What must hold; how often each outcome, the last one of a command counts."""
    acknowledged = {payload for listener in load.listeners for payload in listener.acknowledged}
    unread = {listener.client_id for listener in load.listeners if not listener.qos}
    outcomes: dict[bytes, str] = {}
    for record in results:
        told = json.loads(record.value or b"")
        outcomes[record.key or b""] = told["outcome"]
        hears_at_qos_0 = any(client["clientid"] in unread for client in told["clients"])
        assert told["outcome"] != "delivered" or hears_at_qos_0 or record.key in acknowledged, told
    for listener in load.listeners:
        _check_order(listener)
    return dict(Counter(outcomes.values()))


def _check_order(listener: Listener) -> None:
    """What is heard for the first time follows what went before; repeats may come at any time."""
    heard: set[int] = set()
    latest = -1
    for payload, _ in listener.heard:
        number = int(payload)
        if number not in heard:
            assert number > latest, f"{listener.client_id}: {number} after {latest}"
            latest = number
        heard.add(number)


def check_commits(load: Load, results: list[Record]) -> None:
    """At each look, every record below what was committed had a result."""
    assert load.looks
    commands = load.records()
    for committed, ends in load.looks:
        told = {record.key for record in results if record.offset < ends[record.partition]}
        for command in commands:
            if command.offset < committed.get(command.partition, -1):
                assert dict(command.headers)["id"] in told, command


def latencies(load: Load, start: int = 0, stop: int = sys.maxsize) -> dict[str, float]:
    """Milliseconds from Kafka's append to the first hearing, for devices that do their part, of these messages."""
    appended = {dict(record.headers)["id"]: record.timestamp for record in load.records()}
    first: dict[bytes, float] = {}
    for listener in (listener for listener in load.listeners if listener.acknowledges):
        for payload, at in listener.heard:
            first.setdefault(payload, at)
    values = sorted(at * 1000 - appended[payload] for payload, at in first.items() if start <= int(payload) < stop)
    return {
        "p50 ms": round(statistics.median(values), 1),
        "p99 ms": round(values[int(len(values) * 0.99)], 1),
        "messages": len(values),
    }


async def steady(cluster: Cluster, devices: int, per_second: float, seconds: float) -> dict[str, Any]:
    """Nothing happens to anybody."""
    listeners = audience(cluster.ports, devices)
    load = Load(cluster, listeners)
    async with listening(listeners):
        await load.write(per_second, 2)
        warm = load.written
        before = cpu_seconds(cluster)
        await load.write(per_second, seconds)
        used = cpu_seconds(cluster) - before
        results = await load.results()
    assert check(load, results) == {"delivered": load.written}
    return {**latencies(load, warm), "cores of all replicas": round(used / seconds, 2)}


def cpu_seconds(cluster: Cluster) -> float:
    """Of all replicas until now."""
    usages = [read_usage(replica.pid) for replica in cluster.replicas]
    return sum(usage.cpu_seconds for usage in usages if usage is not None)


async def with_losses(cluster: Cluster, devices: int, per_second: float, losses: int, pause: float) -> dict[str, Any]:
    """Replicas go one after the other under load and are started again: one is killed, the next one told to stop."""
    listeners = audience(cluster.ports, devices)
    load = Load(cluster, listeners)
    async with listening(listeners):
        looking = asyncio.create_task(load.look())
        writing = asyncio.create_task(load.write(per_second, losses * 2 * pause + pause))
        for number in range(losses):
            await asyncio.sleep(pause)
            victim = cluster.replicas[number % len(cluster.replicas)]
            if number % 2:
                assert await asyncio.to_thread(victim.terminate, 60) == 0
            else:
                victim.kill()
            await asyncio.sleep(pause)
            await asyncio.to_thread(victim.start)
        await writing
        results = await load.results()
        looking.cancel()
    outcomes = check(load, results)
    check_commits(load, results)
    return {"commands": load.written, "told again": len(results) - load.written, **outcomes}


async def beside_others(cluster: Cluster, devices: int, per_second: float, seconds: float) -> dict[str, Any]:
    """First all do their part; then one never acknowledges, and one reads nothing."""
    silent = Listener("silent", cluster.ports, acknowledges=False)
    unread = Listener("unread", cluster.ports, acknowledges=False, reads=False)
    others = audience(cluster.ports, devices)
    load = Load(cluster, [*others, silent, unread])
    async with listening(load.listeners):
        load.turns = others
        await load.write(per_second, 2)
        warm = load.written
        await load.write(per_second, seconds)
        alone, before = load.written, memory(cluster)
        # Every tenth message is for one of the two.
        load.turns = [
            each for number, other in enumerate(others) for each in (other, *_every_tenth(number, silent, unread))
        ]
        await load.write(per_second, seconds)
        grown = memory(cluster) - before
        results = await load.results()
    check(load, results)
    told = [json.loads(record.value or b"") for record in results]
    outcomes = {
        name: dict(Counter(each["outcome"] for each in told if [one["clientid"] for one in each["clients"]] == [name]))
        for name in (silent.client_id, unread.client_id)
    }
    return {
        "alone": latencies(load, warm, alone),
        "beside": latencies(load, alone),
        "replicas grew by MB": round(grown / 1e6, 1),
        **outcomes,
    }


def _every_tenth(number: int, silent: Listener, unread: Listener) -> list[Listener]:
    return [] if number % 9 else [silent if number % 2 else unread]


def memory(cluster: Cluster) -> int:
    """Bytes of all replicas together."""
    usages = [read_usage(replica.pid) for replica in cluster.replicas]
    return sum(usage.rss_bytes for usage in usages if usage is not None)
