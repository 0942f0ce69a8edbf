"""Sending devices home: who is told, what they are told, and when nobody is."""

import asyncio
from collections.abc import AsyncIterator
from typing import Any

import pytest

from proxy import limits
from proxy.cluster.nodes import Node
from proxy.flows.rebalance import Rebalancer
from proxy.mqtt.packets import MQTT_3_1_1, MQTT_5_0, ReasonCode, Will
from proxy.mqtt.topics import TopicName
from tests.flows.harness import Device, Replica, connected, disconnect, puback
from tests.support.fakes import Clock, turn

STEADY = limits.REBALANCE_STEADY_SECONDS


class Home:
    """A replica beside two more that take who leaves it, on a clock that goes on while a test waits."""

    def __init__(self, replica: Replica, monkeypatch: pytest.MonkeyPatch) -> None:
        self.replica = replica
        self.clock = Clock()
        self.devices = 0
        self.asked = True
        self.others = [Node("b", 1, 0.0, "serving", "", 0, 1000.0), Node("c", 1, 0.0, "serving", "", 0, 1000.0)]
        monkeypatch.setattr("proxy.flows.rebalance.monotonic", self.clock)
        monkeypatch.setattr("proxy.flows.rebalance.wall_ms", lambda: int(self.clock.now * 1000))
        monkeypatch.setattr("proxy.flows.attachment.wall_ms", lambda: int(self.clock.now * 1000))
        monkeypatch.setattr("proxy.flows.rebalance.asyncio", self)
        monkeypatch.setattr("proxy.flows.drain.asyncio", self)
        self.CancelledError = asyncio.CancelledError
        self.rebalancer = Rebalancer("a", replica.listener, replica.uplink, self.nodes, lambda: self.asked)
        self.task = asyncio.create_task(self.rebalancer.run())
        self._until = self.clock.now

    def nodes(self) -> list[Node]:
        here = len(self.replica.uplink.clients)
        for other in self.others:
            other.connections = (self.devices - here) // 2
        return [Node("a", 1, 0.0, "serving", "", here, 1000.0), *self.others]

    async def sleep(self, seconds: float) -> None:
        """As `asyncio.sleep`, for those who rebalance."""
        while self.clock.now >= self._until:
            await turn()
        self.clock.now += seconds
        self.replica.clock.now += seconds
        await turn()

    async def wait(self, seconds: float) -> None:
        self._until = self.clock.now + seconds
        while self.clock.now < self._until:
            await turn()


@pytest.fixture
async def home(replica: Replica, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[Home]:
    home = Home(replica, monkeypatch)
    yield home
    home.task.cancel()
    await asyncio.wait((home.task,))


def fleet(home: Home, size: int, version: int = MQTT_3_1_1, **fields: Any) -> list[Device]:
    home.devices += size
    return [connected(home.replica, f"c{home.clock.now}-{number}", version, **fields) for number in range(size)]


@pytest.mark.parametrize("version", [MQTT_3_1_1, MQTT_5_0], ids=["3.1.1", "5.0"])
async def test_the_longest_connected_are_told(home: Home, version: int) -> None:
    devices = fleet(home, 30, version)
    await home.wait(3 * STEADY)
    gone = [device for device in devices if device.gone]
    assert gone == devices[:20]
    assert {device.take() for device in gone} == {disconnect(ReasonCode.USE_ANOTHER_SERVER, version)}
    assert home.rebalancer.sent_home == 20
    assert home.replica.count("mqk_disconnects_total", reason="use_another_server") == 20
    # Who has come since was placed by the balancer as it is now.
    later = fleet(home, 30, version)
    await home.wait(10 * STEADY)
    assert [device.gone for device in later] == [False] * 30


async def test_each_is_told_once_it_has_its_acknowledgements(home: Home) -> None:
    devices = fleet(home, 30)
    await home.replica.gateway.flush(5)
    home.replica.gateway.hold()
    devices[0].publish(packet_id=1)
    await home.wait(STEADY + limits.REBALANCE_GOODBYE_SECONDS / 2)
    assert [device.gone for device in devices[:2]] == [False, True]
    home.replica.gateway.release()
    await home.wait(1.0)
    assert devices[0].take() == puback(1)
    assert devices[0].gone


async def test_a_will_is_not_for_that(home: Home) -> None:
    will = Will(TopicName("tlink/will", b"tlink/will"), b"gone", 0, False, {})
    fleet(home, 30, MQTT_5_0, will=will)
    await home.wait(3 * STEADY)
    assert home.rebalancer.sent_home == 20
    assert home.replica.gateway.stored("t_msg") == []


@pytest.mark.parametrize(
    "why", ["kafka is away", "draining", "the log is being read", "another drains", "no balancer asks"]
)
async def test_when_nobody_is_told(home: Home, why: str) -> None:
    devices = fleet(home, 30)
    if why == "kafka is away":
        home.replica.gateway.ready = False
    elif why == "draining":
        home.replica.uplink.draining = True
    elif why == "no balancer asks":
        home.asked = False
    elif why == "another drains":
        home.others[0].state = "draining"
    else:
        home.replica.uplink.joined = lambda: False
    await home.wait(10 * STEADY)
    assert not any(device.gone for device in devices)


async def test_it_goes_on_after_a_bug(home: Home, caplog: pytest.LogCaptureFixture) -> None:
    devices = fleet(home, 30)
    others, home.others = home.others, [None]  # type: ignore[list-item]
    await home.wait(2.0)
    assert "rebalancing failed" in caplog.text
    home.others = others
    await home.wait(3 * STEADY)
    assert sum(device.gone for device in devices) == 20


async def test_it_stops_when_a_replica_goes(home: Home, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(limits, "REBALANCE_PER_SECOND", 5)
    devices = fleet(home, 30)
    while not home.rebalancer.sent_home:
        await home.wait(limits.GOODBYE_TICK_SECONDS)
    home.others[0].state = "draining"
    await home.wait(3 * STEADY)
    assert sum(device.gone for device in devices) == home.rebalancer.sent_home == 5
