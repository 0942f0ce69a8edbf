"""Devices on real sockets against a server made for the test: pacing, reconnecting, resending."""

import asyncio
import contextlib
import random
from collections import Counter
from collections.abc import AsyncIterator, Callable
from typing import Any

import pytest

from loadtest import fleet as fleet_module
from loadtest.fleet import Fleet
from loadtest.payload import Payloads
from loadtest.ranges import SequenceRanges
from loadtest.settings import LoadSettings
from tests.loadtest.fake_server import FakeServer, Publish, puback, pubrec


@pytest.fixture(autouse=True)
def quick_reconnects(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(fleet_module, "RECONNECT_FIRST_SECONDS", 0.01)
    monkeypatch.setattr(fleet_module, "RECONNECT_MAX_SECONDS", 0.05)


async def until(condition: Callable[[], bool], what: str) -> None:
    async with asyncio.timeout(5):
        while not condition():  # noqa: ASYNC110 - of things on both sides of a socket
            await asyncio.sleep(0.005)
    assert condition(), what


@contextlib.asynccontextmanager
async def connected(server: FakeServer, **settings: Any) -> AsyncIterator[Fleet]:
    """A fleet with all its connections up; closed in the end."""
    wanted = LoadSettings(host="127.0.0.1", port=server.port, connect_rate=10_000, size=40, **settings)
    fleet = Fleet(wanted, range(wanted.devices))
    await fleet.connect_all()
    try:
        await until(lambda: fleet.tally.connected == wanted.devices, "all connected")
        yield fleet
    finally:
        await fleet.close()


async def exhaust(fleet: Fleet) -> None:
    fleet.go()
    await until(lambda: fleet.exhausted, "everything published and settled")


@pytest.mark.parametrize("version", [4, 5])
@pytest.mark.parametrize(("qos", "answer"), [(1, puback), (2, pubrec)])
async def test_publishes_what_is_asked_for(version: int, qos: int, answer: Callable[[Publish], bytes]) -> None:
    server = FakeServer()
    server.answer = answer
    async with server.running():
        settings = {"connections": 3, "inflight": 4, "qos": qos, "version": version, "stop_after": 100}
        async with connected(server, **settings) as fleet:
            await exhaust(fleet)
            run_id = fleet.settings.run_id
        await until(lambda: server.disconnects == 3, "every device said goodbye")
    payloads = Payloads(run_id, 40)
    sent = Counter(publish.payload for publish in server.publishes)
    shares = [34, 33, 33]
    assert sent == Counter(payloads.payload(index, each) for index in range(3) for each in range(shares[index]))
    assert {publish.topic for publish in server.publishes} == {f"tlink/lt/dev00000{index}/up" for index in range(3)}
    assert [device.acked for device in fleet.devices] == [SequenceRanges([(0, share)]) for share in shares]
    assert (fleet.tally.acked, fleet.tally.ack_errors, fleet.tally.connections_lost) == (100, 0, 0)


@pytest.mark.parametrize("version", [4, 5])
async def test_resends_after_every_cut_with_dup_in_order_and_loses_nothing(version: int) -> None:
    rng, server = random.Random(version), FakeServer()
    server.answer = lambda publish: None if rng.random() < 0.03 else puback(publish)
    async with server.running():
        settings = {"connections": 2, "inflight": 8, "version": version, "stop_after": 400}
        async with connected(server, **settings) as fleet:
            await exhaust(fleet)
    tally = fleet.tally
    assert tally.connections_lost >= 3
    assert tally.resent >= tally.connections_lost
    assert tally.away.total >= tally.connections_lost - fleet.settings.devices
    assert (tally.acked, tally.sent, tally.ack_errors) == (400, 400, 0)
    payloads = Payloads(fleet.settings.run_id, 40)
    for device in fleet.devices:
        assert device.acked == SequenceRanges([(0, 200)])
        received = [publish for publish in server.publishes if publish.client_id == device.client_id]
        first_seen: dict[bytes, Publish] = {}
        for publish in received:
            first = first_seen.setdefault(publish.payload, publish)
            assert publish is first or (publish.dup and publish.packet_id == first.packet_id)
        assert list(first_seen) == [payloads.payload(device.index, sequence) for sequence in range(200)]


async def test_a_server_that_is_away_does_not_end_the_run() -> None:
    server = FakeServer()
    server.answer = lambda publish: b""
    async with server.running():
        stack = contextlib.AsyncExitStack()
        fleet = await stack.enter_async_context(connected(server, inflight=2, stop_after=6))
        fleet.go()
        await until(lambda: len(server.publishes) == 2, "the window is full")
    async with stack:
        await until(lambda: fleet.tally.connect_failures >= 3, "it keeps trying")
        assert fleet.tally.connected == 0
        server.answer = puback
        async with server.running():
            await until(lambda: fleet.exhausted, "everything is settled after all")
    assert [publish.dup for publish in server.publishes] == [False, False, True, True, False, False, False, False]
    assert fleet.tally.acked == 6


async def test_wrong_acks_are_counted_and_survived() -> None:
    """Every answer acknowledges an id that was never used, and every right one is given twice."""
    server = FakeServer()
    server.answer = lambda publish: b"\x40\x02\xaa\xaa" + puback(publish) * 2
    async with server.running(), connected(server, stop_after=5) as fleet:
        await exhaust(fleet)
        await until(lambda: fleet.tally.ack_errors == 10, "all wrong acks are seen")
    assert (fleet.tally.unknown_acks, fleet.tally.duplicate_acks, fleet.tally.out_of_order_acks) == (5, 5, 0)
    assert fleet.tally.acked == 5


async def test_a_server_that_breaks_mqtt_is_left_and_tried_again() -> None:
    server = FakeServer()
    answers = iter([b"\xf0\0"])
    server.answer = lambda publish: next(answers, puback(publish))
    async with server.running(), connected(server, stop_after=3) as fleet:
        await exhaust(fleet)
    assert fleet.tally.violations == {"unexpected packet 0xf0": 1}
    assert fleet.tally.connections_lost == 1


async def test_a_fixed_rate_is_kept_and_what_it_cannot_place_is_counted() -> None:
    server = FakeServer()
    async with server.running(), connected(server, connections=4, rate=1_000) as fleet:
        began = asyncio.get_running_loop().time()
        fleet.go()
        await until(lambda: fleet.tally.acked >= 200, "200 messages")
        fleet.stop()
        elapsed = asyncio.get_running_loop().time() - began
        server.answer = lambda publish: b""
    assert elapsed >= 0.19
    assert {device.fresh // 10 for device in fleet.devices} <= set(range(fleet.tally.sent // 40 - 1, 30))
    server.answer = lambda publish: b""
    async with server.running(), connected(server, connections=1, rate=1_000) as fleet:
        fleet.go()
        await until(lambda: fleet.tally.not_offered > 10, "nobody answers, so nothing more can be placed")
    assert fleet.tally.sent == 1


async def test_qos_0_writes_all_and_a_ping_at_the_end_finds_the_server_done() -> None:
    server = FakeServer()
    async with server.running(), connected(server, connections=2, inflight=7, qos=0, stop_after=101) as fleet:
        await exhaust(fleet)
        fleet.stop()
        await until(lambda: fleet.settled, "both pings are answered")
        assert len(server.publishes) == 101
    assert fleet.tally.ping_publishing.total == 2


async def test_pings_are_measured_apart_on_idle_and_publishing_connections() -> None:
    server = FakeServer()
    settings = {"connections": 1, "idle_connections": 2, "ping_every_seconds": 0.02}
    async with server.running(), connected(server, **settings) as fleet:
        tally = fleet.tally
        await until(lambda: tally.ping_publishing.total >= 2 and tally.ping_idle.total >= 4, "pings are answered")
        fleet.go()
        await until(lambda: tally.acked > 20, "only one device publishes")
    assert {publish.client_id for publish in server.publishes} == {"dev000000"}


async def test_a_refused_connect_is_tried_again_and_counted() -> None:
    server = FakeServer()
    server.connack = b"\x20\x02\0\x03"
    async with server.running():
        fleet = Fleet(LoadSettings(host="127.0.0.1", port=server.port), [0])
        await fleet.connect_all()
        await until(lambda: server.connects >= 2, "it tries again")
        await fleet.close()
    assert fleet.tally.refused_connects["0x03"] >= 1
