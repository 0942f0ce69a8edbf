"""Letting devices go that lose nothing by it: one by one, each with the acknowledgements that it waits for.

A `Drainer` empties this replica, for a while or for good. The load balancer is told first, and given the time to hear
it, so that nobody who has just been let go is sent here again.
"""

import asyncio
import logging
from collections.abc import Callable, Iterable
from typing import Final, Literal

from proxy import limits
from proxy.flows.client import Client
from proxy.flows.uplink import Uplink
from proxy.mqtt.packets import ReasonCode
from proxy.net.listener import Listener

log = logging.getLogger(__name__)

State = Literal["serving", "draining", "drained"]
SERVING: Final = "serving"
DRAINING: Final = "draining"
DRAINED: Final = "drained"


class Drainer:
    """`asked` says whether a load balancer asks this replica's agent port; `seconds` is `node.drain_seconds`."""

    def __init__(self, listener: Listener, uplink: Uplink, asked: Callable[[], bool], seconds: float) -> None:
        #: `draining` until the last device has gone, then `drained`, until `cancel`.
        self.state: State = SERVING
        self._listener = listener
        self._uplink = uplink
        self._asked = asked
        self._seconds = seconds
        self._task: asyncio.Task[None] | None = None

    def start(self) -> None:
        """Lets all devices go and takes no new ones, until `cancel`. The replica goes on otherwise."""
        if self.state == SERVING:
            self.state = DRAINING
            self._task = asyncio.create_task(self._run())

    def cancel(self) -> None:
        """Takes devices again. Who has gone has gone."""
        if self.state != SERVING:
            log.info("drain cancelled")
        self._end_task()
        self._uplink.draining = False
        self.state = SERVING

    async def leave(self, seconds: float) -> None:
        """The first part of shutdown, within `seconds`: the balancer knows, nobody can connect, the devices leave."""
        deadline = self._listener.now() + seconds
        if self._task is not None:
            await asyncio.wait((self._task,), timeout=seconds)
            self._end_task()
        else:
            self.state = DRAINING
            await self._wait_for_balancer(seconds)
        self._listener.stop_accepting()
        await drain(self._listener, self._uplink, deadline - self._listener.now())
        self.state = DRAINED

    async def _run(self) -> None:
        deadline = self._listener.now() + self._seconds
        await self._wait_for_balancer(self._seconds)
        await drain(self._listener, self._uplink, deadline - self._listener.now())
        self.state = DRAINED
        log.info("drained")

    async def _wait_for_balancer(self, seconds: float) -> None:
        """Two of its questions long, when there is one that asks. A quarter of the time at the most."""
        if self._asked():
            await asyncio.sleep(min(limits.AGENT_NOTICE_SECONDS, seconds / 4))

    def _end_task(self) -> None:
        if self._task is not None:
            self._task.cancel()
            self._task = None


async def drain(listener: Listener, uplink: Uplink, seconds: float) -> None:
    """Lets every device go within `seconds`: no new ones, no more PUBLISH, its acknowledgements, DISCONNECT 0x8B.

    What is not acknowledged when the time is over is not acknowledged at all; the device sends it again elsewhere.
    """
    uplink.draining = True
    waiting = list(uplink.clients.values())
    log.info("draining", extra={"clients": len(waiting), "seconds": round(seconds, 1)})
    # Half of the time at the most for sending them off, so that the last ones have the other half for their answers.
    per_second = max(limits.DRAIN_GOODBYES_PER_SECOND, len(waiting) / max(seconds / 2, limits.GOODBYE_TICK_SECONDS))
    await let_go(listener, waiting, ReasonCode.SERVER_SHUTTING_DOWN, "shutting down", seconds, per_second)


async def let_go(
    listener: Listener,
    clients: Iterable[Client],
    reason_code: ReasonCode,
    detail: str,
    seconds: float,
    per_second: float,
) -> None:
    """Lets these devices go at that pace, each as soon as it has its acknowledgements; all within `seconds`."""
    waiting = list(clients)
    deadline = listener.now() + seconds
    per_tick = int(per_second * limits.GOODBYE_TICK_SECONDS) + 1
    leaving: list[Client] = []
    try:
        while (waiting or leaving) and listener.now() < deadline:
            leaving += waiting[:per_tick]
            del waiting[:per_tick]
            leaving = [client for client in leaving if not _gone(listener, client, reason_code, detail)]
            await asyncio.sleep(limits.GOODBYE_TICK_SECONDS)
    except asyncio.CancelledError:
        # Who has been told nothing yet stays; from the others nothing is taken any more, so they go.
        waiting.clear()
        raise
    finally:
        for client in leaving + waiting:
            client.disconnect(reason_code, detail)


def _gone(listener: Listener, client: Client, reason_code: ReasonCode, detail: str) -> bool:
    """Takes no more from this device, and sends it off as soon as it has its acknowledgements."""
    protocol = client.connection.protocol
    listener.release(client.connection)
    protocol.hold()
    if not protocol.unsettled:
        client.disconnect(reason_code, detail)
    return protocol.close_expected
