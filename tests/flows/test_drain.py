"""Shutdown: every device gets the acknowledgements that it waits for, then hears why, in the time that there is."""

import asyncio
import socket

import pytest

from proxy import limits
from proxy.flows.drain import DRAINED, DRAINING, SERVING, Drainer, drain
from proxy.mqtt.encode import PINGRESP, encode_packet
from proxy.mqtt.packets import MQTT_3_1_1, MQTT_5_0, Pingreq, ReasonCode
from tests.flows.harness import UP, Device, Replica, connected, disconnect, puback, refused
from tests.support.fakes import VirtualTime, turn, until

BOTH = pytest.mark.parametrize("version", [MQTT_3_1_1, MQTT_5_0], ids=["3.1.1", "5.0"])
SHUTTING_DOWN = ReasonCode.SERVER_SHUTTING_DOWN


@pytest.fixture(autouse=True)
def virtual_time(replica: Replica, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("proxy.flows.drain.asyncio", VirtualTime(replica.clock))


def begin(replica: Replica, seconds: float = 1000.0) -> "asyncio.Task[None]":
    return asyncio.create_task(drain(replica.listener, replica.uplink, seconds))


def drainer(replica: Replica, *, asked: bool = False, seconds: float = 30.0) -> Drainer:
    return Drainer(replica.listener, replica.uplink, lambda: asked, seconds)


@BOTH
async def test_who_waits_for_nothing_goes_at_once(replica: Replica, version: int) -> None:
    device = connected(replica, "c1", version)
    await begin(replica)
    assert device.take() == disconnect(SHUTTING_DOWN, version)
    assert device.gone
    await until(lambda: len(replica.told()) == 2, "the status record")
    assert replica.comings_and_goings() == [("c1", "connected"), ("c1", "server_shutting_down")]
    assert replica.count("mqk_disconnects_total", reason="server_shutting_down") == 1


@BOTH
async def test_each_goes_as_soon_as_it_has_its_acknowledgements(replica: Replica, version: int) -> None:
    first, second = connected(replica, "c1", version), connected(replica, "c2", version)
    await until(lambda: len(replica.told()) == 2, "the status records")
    replica.gateway.hold()
    first.publish(packet_id=1)
    second.publish(packet_id=2)
    second.publish(packet_id=3)
    draining = begin(replica)
    for _ in range(10):
        await turn()
    assert (first.take(), second.take()) == (b"", b"")
    replica.gateway.release(2)
    await until(lambda: first.gone, "the first has gone")
    assert first.take() == puback(1) + disconnect(SHUTTING_DOWN, version)
    assert (second.take(), second.gone) == (puback(2), False)
    replica.gateway.release()
    await draining
    assert second.take() == puback(3) + disconnect(SHUTTING_DOWN, version)
    assert len(replica.gateway.stored(UP)) == 3


async def test_nothing_more_is_taken_but_pings_are_answered(replica: Replica) -> None:
    device = connected(replica)
    await until(replica.told, "the status record")
    replica.gateway.hold()
    device.publish(packet_id=1)
    draining = begin(replica)
    await turn()
    device.publish(packet_id=2)
    device.send(encode_packet(Pingreq(), MQTT_3_1_1))
    assert device.take() == PINGRESP
    replica.gateway.release()
    await draining
    assert device.take() == puback(1)
    assert len(replica.gateway.stored(UP)) == 1


async def test_a_held_device_is_drained_like_the_others(replica: Replica) -> None:
    device = connected(replica, "c1", MQTT_5_0)
    replica.gateway.congested = True
    device.publish()
    assert replica.listener.held == 1
    await begin(replica)
    assert device.take() == disconnect(SHUTTING_DOWN, MQTT_5_0)
    assert replica.listener.held == 0
    replica.listener.relieve()
    await turn()
    assert replica.gateway.stored(UP) == []


async def test_relief_does_not_wake_a_device_that_is_on_its_way_out(replica: Replica) -> None:
    device = connected(replica)
    await until(replica.told, "the status record")
    replica.gateway.hold()
    device.publish(packet_id=1)
    replica.gateway.congested = True
    device.publish(packet_id=2)
    draining = begin(replica)
    await turn()
    replica.gateway.congested = False
    replica.listener.relieve()
    replica.gateway.release()
    await draining
    assert device.take() == puback(1)
    assert len(replica.gateway.stored(UP)) == 1


@BOTH
async def test_the_deadline_cuts_what_still_waits(replica: Replica, version: int) -> None:
    device = connected(replica, "c1", version)
    await until(replica.told, "the status record")
    replica.gateway.hold()
    device.publish()
    began = replica.clock.now
    await begin(replica, 30.0)
    assert replica.clock.now - began == pytest.approx(30.0, abs=2 * limits.GOODBYE_TICK_SECONDS)
    assert device.gone
    assert device.take() == disconnect(SHUTTING_DOWN, version)
    replica.gateway.release()
    assert replica.gateway.stored(UP) == []
    assert replica.comings_and_goings() == [("c1", "connected"), ("c1", "server_shutting_down")]


async def test_no_time_at_all(replica: Replica) -> None:
    device = connected(replica, "c1", MQTT_5_0)
    await begin(replica, 0.0)
    assert device.take() == disconnect(SHUTTING_DOWN, MQTT_5_0)


@BOTH
async def test_nobody_new_comes_in(replica: Replica, version: int) -> None:
    port = await replica.listener.listen("127.0.0.1", 0)
    waiting = Device(replica, version)
    await drainer(replica).leave(1000.0)
    assert waiting.connect() == refused(ReasonCode.SERVER_UNAVAILABLE, 3, version)
    with pytest.raises(ConnectionRefusedError):
        socket.create_connection(("127.0.0.1", port))
    replica.listener.stop()


async def test_devices_go_at_the_pace_that_others_can_take(replica: Replica, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(limits, "DRAIN_GOODBYES_PER_SECOND", 40.0)
    devices = [connected(replica, f"c{number}") for number in range(60)]
    began, gone = replica.clock.now, {}
    draining = begin(replica)
    while not draining.done():
        await turn()
        for number, device in enumerate(devices):
            if device.gone:
                gone.setdefault(number, replica.clock.now - began)
    assert list(gone) == list(range(60))
    # One more in each tick than the pace says, so that a slow pace still gets somewhere.
    most = 40.0 * limits.GOODBYE_TICK_SECONDS + 1
    for time in set(gone.values()):
        assert sum(other == time for other in gone.values()) <= most
    assert replica.clock.now - began == pytest.approx(60 / most * limits.GOODBYE_TICK_SECONDS, rel=0.2)


async def test_many_devices_and_little_time_make_it_faster(replica: Replica, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(limits, "DRAIN_GOODBYES_PER_SECOND", 1.0)
    devices = [connected(replica, f"c{number}") for number in range(400)]
    began = replica.clock.now
    await begin(replica, 4.0)
    assert all(device.gone for device in devices)
    assert replica.clock.now - began <= 2.0 + 2 * limits.GOODBYE_TICK_SECONDS


async def test_who_leaves_by_itself_is_not_waited_for(replica: Replica) -> None:
    device = connected(replica)
    replica.gateway.hold()
    device.publish()
    draining = begin(replica)
    await turn()
    device.vanish()
    await asyncio.wait_for(draining, 5)
    assert replica.clock.now < 1100.0
    replica.gateway.release()
    assert replica.gateway.stored(UP) == []


# ---- the whole of it ----


async def test_a_replica_that_nobody_asks_does_not_wait(replica: Replica) -> None:
    device = connected(replica, "c1", MQTT_5_0)
    began = replica.clock.now
    await drainer(replica).leave(30.0)
    assert device.take() == disconnect(SHUTTING_DOWN, MQTT_5_0)
    assert replica.clock.now - began <= 2 * limits.GOODBYE_TICK_SECONDS


@pytest.mark.parametrize(("seconds", "notice"), [(30.0, limits.AGENT_NOTICE_SECONDS), (2.0, 0.5)])
async def test_the_balancer_hears_it_before_the_first_device(replica: Replica, seconds: float, notice: float) -> None:
    """It may still send devices here, and they are let go with the others."""
    port = await replica.listener.listen("127.0.0.1", 0)
    draining = drainer(replica, asked=True)
    began, late = replica.clock.now, Device(replica, MQTT_5_0)
    leaving = asyncio.create_task(draining.leave(seconds))
    await asyncio.sleep(0)
    assert draining.state == DRAINING
    assert not replica.uplink.draining
    late.connect("late")
    socket.create_connection(("127.0.0.1", port)).close()
    await until(lambda: late.gone, "the late one is let go too")
    assert replica.clock.now - began == pytest.approx(notice, abs=2 * limits.GOODBYE_TICK_SECONDS)
    await leaving
    assert draining.state == DRAINED


@BOTH
async def test_a_drain_without_an_end_keeps_the_door_open_and_refuses(replica: Replica, version: int) -> None:
    port = await replica.listener.listen("127.0.0.1", 0)
    draining = drainer(replica)
    device = connected(replica, "c1", version)
    draining.start()
    draining.start()
    assert draining.state == DRAINING
    await until(lambda: draining.state == DRAINED, "everybody has gone")
    assert device.take() == disconnect(SHUTTING_DOWN, version)
    socket.create_connection(("127.0.0.1", port)).close()
    assert Device(replica, version).connect() == refused(ReasonCode.SERVER_UNAVAILABLE, 3, version)
    draining.cancel()
    assert draining.state == SERVING
    connected(replica, "c1", version)
    replica.listener.stop()


async def test_cancelled_in_the_middle(replica: Replica) -> None:
    """Nothing was taken any more from those that had been told to wait for their acknowledgements, so they go; the
    others stay as they are.
    """
    first = connected(replica, "c1", MQTT_5_0)
    await until(replica.told, "the status record")
    replica.gateway.hold()
    first.publish(packet_id=1)
    draining = drainer(replica)
    draining.start()
    for _ in range(5):
        await turn()
    assert not first.gone
    draining.cancel()
    await until(lambda: first.gone, "it has gone")
    assert first.take() == disconnect(SHUTTING_DOWN, MQTT_5_0)
    replica.gateway.release()
    connected(replica, "c2")


async def test_cancelled_before_anybody_was_told(replica: Replica) -> None:
    device = connected(replica)
    draining = drainer(replica, asked=True)
    draining.start()
    draining.cancel()
    draining.cancel()
    for _ in range(5):
        await turn()
    assert draining.state == SERVING
    assert not device.gone


async def test_shutdown_goes_on_where_a_drain_is(replica: Replica) -> None:
    device = connected(replica, "c1", MQTT_5_0)
    await until(replica.told, "the status record")
    replica.gateway.hold()
    device.publish(packet_id=1)
    draining = drainer(replica, seconds=1000.0)
    draining.start()
    for _ in range(3):
        await turn()
    leaving = asyncio.create_task(draining.leave(1000.0))
    for _ in range(3):
        await turn()
    assert not device.gone
    replica.gateway.release()
    await leaving
    assert device.take() == puback(1) + disconnect(SHUTTING_DOWN, MQTT_5_0)
    assert draining.state == DRAINED
