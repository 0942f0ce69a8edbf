"""The devices of one process on their sockets: connecting, reconnecting, pacing, keeping alive.

One `asyncio.Protocol` per connection, no Task per message. A connection that ends is opened again until the run is
over, after a back-off that doubles up to a bound and is spread at random.
"""

import asyncio
import random
import time
from collections.abc import Sequence
from typing import cast

from loadtest.codec import encode_disconnect
from loadtest.device import Device
from loadtest.errors import ConnectRefused, MqttViolation
from loadtest.payload import Payloads
from loadtest.settings import LoadSettings
from loadtest.tally import Tally

CONNECT_TIMEOUT_SECONDS = 15.0
"""For TCP and for CONNACK, each: a server under a reconnect storm may be slow, a frozen one must not hold us."""
RECONNECT_FIRST_SECONDS = 0.2
RECONNECT_MAX_SECONDS = 5.0
"""A server that is back is found within this time."""
PACE_TICK_SECONDS = 0.002
"""At a fixed rate messages are released at most this often; below 500 per second each on its own."""
LAG_TICK_SECONDS = 0.05
"""How often the loop's own delay is measured, so that a figure it may have spoilt can be recognised."""
CLOSE_TIMEOUT_SECONDS = 5.0

now = time.monotonic


class Link(asyncio.Protocol):
    """One connection of one device. It lives as long as its socket; the device outlives it."""

    __slots__ = (
        "_deadline", "_device", "_fleet", "_paused", "_pinger", "_pumping", "_transport", "_unacknowledged", "opened",
        "ready",
    )  # fmt: skip

    def __init__(self, fleet: "Fleet", device: Device) -> None:
        self._fleet = fleet
        self._device = device
        self._unacknowledged = fleet.settings.qos == 0
        self._paused = False
        self._pumping = False
        self._pinger: asyncio.TimerHandle | None = None
        self._transport: asyncio.Transport | None = None
        self.opened = False
        """TCP was connected, so `connection_lost` will come or has come."""
        self.ready = False
        """The server accepted the CONNECT."""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(asyncio.Transport, transport)
        self.opened = True
        self._fleet.link_opened(self._device, self)
        self._transport.write(self._device.connect())
        self._deadline = asyncio.get_running_loop().call_later(CONNECT_TIMEOUT_SECONDS, self.abort)

    def data_received(self, data: bytes) -> None:
        moment = now()
        try:
            self._device.receive(data, moment)
        except ConnectRefused as refusal:
            self._fleet.tally.refused_connects[str(refusal)] += 1
            self.abort()
            return
        except MqttViolation as violation:
            self._fleet.tally.violations[str(violation)] += 1
            self.abort()
            return
        if self._device.connected and not self.ready:
            self._become_ready()
        self.pump(moment)

    def _become_ready(self) -> None:
        self.ready = True
        self._deadline.cancel()
        self._fleet.link_ready(self._device)
        interval = self._fleet.settings.ping_every_seconds or self._device.keep_alive * 0.75
        # Spread, or all connections that came up together would ping together.
        delay = interval * random.uniform(0.1, 1.0)
        self._pinger = asyncio.get_running_loop().call_later(delay, self._ping, interval)

    def _ping(self, interval: float) -> None:
        if self._device.ping_age(now()) > self._device.keep_alive:
            self._fleet.tally.ping_timeouts += 1
            self.abort()
            return
        self.ping()
        self._pinger = asyncio.get_running_loop().call_later(interval, self._ping, interval)

    def ping(self) -> None:
        if self._transport and self.ready:
            self._transport.write(self._device.ping(now()))

    def pump(self, moment: float) -> None:
        """Publish what may be published now. At QoS 0 no acknowledgement will call for more, so it calls itself."""
        if self._paused or not self._transport:
            return
        packets = self._device.publish(moment)
        if not packets:
            return
        self._transport.write(packets)
        if self._unacknowledged and not self._pumping:
            self._pumping = True
            asyncio.get_running_loop().call_soon(self._pump_on)

    def _pump_on(self) -> None:
        self._pumping = False
        self.pump(now())

    def pause_writing(self) -> None:
        self._paused = True

    def resume_writing(self) -> None:
        self._paused = False
        self.pump(now())

    def connection_lost(self, exc: Exception | None) -> None:
        self._deadline.cancel()
        if self._pinger:
            self._pinger.cancel()
        self._transport = None
        self._device.lose_connection()
        self._fleet.link_lost(self._device, was_ready=self.ready)

    def abort(self) -> None:
        if self._transport:
            self._transport.abort()

    def finish(self, disconnect: bytes) -> None:
        """DISCONNECT and close, after everything already written; a server that does not read is cut off."""
        transport, self._transport = self._transport, None
        if transport:
            transport.write(disconnect)
            transport.close()
            asyncio.get_running_loop().call_later(CLOSE_TIMEOUT_SECONDS, transport.abort)


class Fleet:
    """All devices of this process. Used in this order: connect_all, go, stop, close."""

    def __init__(self, settings: LoadSettings, indices: Sequence[int]) -> None:
        self.settings = settings
        self.tally = Tally()
        payloads = Payloads(settings.run_id, settings.size)
        self.devices = [Device(index, settings, payloads, self.tally) for index in indices]
        self._publishing = [device for device in self.devices if device.index < settings.connections]
        self._links: dict[int, Link] = {}
        self._attempts = dict.fromkeys(indices, 0)
        self._lost_at: dict[int, float] = {}
        self._connecting: set[asyncio.Task[None]] = set()
        self._closing = False
        self._all_closed = asyncio.Event()
        self._timers: dict[str, asyncio.TimerHandle] = {}

    # Connections.

    async def connect_all(self) -> None:
        """Begin all connections at the rate asked for. Returns when each has been tried, not when each is up."""
        loop = asyncio.get_running_loop()
        self._watch_lag(loop.time())
        interval = self.settings.devices / len(self.devices) / self.settings.connect_rate
        start = loop.time()
        for position, device in enumerate(self.devices):
            delay = start + position * interval - loop.time()
            if delay > 0:
                await asyncio.sleep(delay)
            self._open(device)

    def _open(self, device: Device) -> None:
        if not self._closing:
            task = asyncio.get_running_loop().create_task(self._open_socket(device))
            self._connecting.add(task)
            task.add_done_callback(self._connecting.discard)

    async def _open_socket(self, device: Device) -> None:
        link = Link(self, device)
        try:
            async with asyncio.timeout(CONNECT_TIMEOUT_SECONDS):
                loop = asyncio.get_running_loop()
                await loop.create_connection(lambda: link, self.settings.host, self.settings.port)
        except (OSError, TimeoutError):
            if not link.opened:
                self.tally.connect_failures += 1
                self._open_later(device)

    def _open_later(self, device: Device) -> None:
        self._attempts[device.index] += 1
        bound = min(RECONNECT_FIRST_SECONDS * 2 ** min(self._attempts[device.index] - 1, 10), RECONNECT_MAX_SECONDS)
        asyncio.get_running_loop().call_later(bound * random.uniform(0.5, 1.0), self._open, device)

    def link_opened(self, device: Device, link: Link) -> None:
        self._links[device.index] = link

    def link_ready(self, device: Device) -> None:
        self._attempts[device.index] = 0
        self.tally.connected += 1
        if device.index in self._lost_at:
            self.tally.away.add(now() - self._lost_at.pop(device.index))

    def link_lost(self, device: Device, was_ready: bool) -> None:
        del self._links[device.index]
        self.tally.connected -= was_ready
        if self._closing:
            if not self._links:
                self._all_closed.set()
            return
        if was_ready:
            self.tally.connections_lost += 1
            self._lost_at[device.index] = now()
        else:
            self.tally.connect_failures += 1
        self._open_later(device)

    # Publishing.

    def go(self) -> None:
        """Let the devices publish: at once as much as fits their windows, or at the fixed rate."""
        if self.settings.rate and self._publishing:
            share = self.settings.rate * len(self._publishing) / self.settings.connections
            self._pace(asyncio.get_running_loop().time(), 0.0, share, 0)
            return
        for device in self._publishing:
            device.allowed = self.settings.publishes_per_device(device.index)
            self._pump(device)

    def _pace(self, due: float, owed: float, rate: float, position: int) -> None:
        """Release `owed` messages to the devices in turn, then come back when the next is due."""
        loop = asyncio.get_running_loop()
        tick = max(1.0 / rate, PACE_TICK_SECONDS)
        owed += tick * rate
        while owed >= 0.999:
            self._offer(self._publishing[position])
            position = (position + 1) % len(self._publishing)
            owed -= 1.0
        due = max(due + tick, loop.time() - 1.0)  # after a long stall the rate is not made up for
        self._timers["pace"] = loop.call_at(due, self._pace, due, owed, rate, position)

    def _offer(self, device: Device) -> None:
        if device.allowed >= self.settings.publishes_per_device(device.index):
            return
        if device.allowed - device.fresh >= self.settings.inflight:
            self.tally.not_offered += 1
            return
        device.allowed += 1
        self._pump(device)

    def _pump(self, device: Device) -> None:
        link = self._links.get(device.index)
        if link:
            link.pump(now())

    def stop(self) -> None:
        """No new messages from now on; what is unacknowledged stays due. At QoS 0 a PINGREQ follows the last one."""
        if "pace" in self._timers:
            self._timers.pop("pace").cancel()
        for device in self.devices:
            device.allowed = device.fresh
        if self.settings.qos == 0:
            for link in self._links.values():
                link.ping()

    @property
    def settled(self) -> bool:
        """The server has answered everything that it has to answer."""
        if self.settings.qos == 0:
            return not any(device.ping_age(now()) for device in self._publishing)
        return not self.outstanding

    @property
    def outstanding(self) -> int:
        return sum(device.outstanding for device in self._publishing)

    @property
    def exhausted(self) -> bool:
        """Every device has published its share of `stop_after` and heard about all of it."""
        share = self.settings.publishes_per_device
        return all(device.fresh >= share(device.index) and not device.outstanding for device in self._publishing)

    async def close(self) -> None:
        """DISCONNECT everywhere; returns when all sockets are closed."""
        self._closing = True
        for task in self._connecting:
            task.cancel()
        for timer in self._timers.values():
            timer.cancel()
        for device in self.devices:
            device.end_ping(now())  # so that a server which stopped answering cannot look fast
        for link in self._links.values():
            link.finish(encode_disconnect(self.settings.version))
        if self._links:
            await self._all_closed.wait()

    def _watch_lag(self, due: float) -> None:
        loop = asyncio.get_running_loop()
        self.tally.loop_lag_max = max(self.tally.loop_lag_max, loop.time() - due)
        due = loop.time() + LAG_TICK_SECONDS
        self._timers["lag"] = loop.call_at(due, self._watch_lag, due)
