"""Shutdown that loses nothing: devices leave one by one, each with the acknowledgements that it waits for."""

import asyncio
import logging

from proxy import limits
from proxy.flows.uplink import Client, Uplink
from proxy.mqtt.packets import ReasonCode
from proxy.net.listener import Listener

log = logging.getLogger(__name__)


async def drain(listener: Listener, uplink: Uplink, seconds: float) -> None:
    """Lets every device go within `seconds`: no new ones, no more PUBLISH, its acknowledgements, DISCONNECT 0x8B.

    What is not acknowledged when the time is over is not acknowledged at all; the device sends it again elsewhere.
    """
    uplink.draining = True
    listener.stop_accepting()
    waiting = list(uplink.clients.values())
    log.info("draining", extra={"clients": len(waiting), "seconds": seconds})
    deadline = listener.now() + seconds
    # Half of the time at the most for sending them off, so that the last ones have the other half for their answers.
    per_second = max(limits.GOODBYES_PER_SECOND, len(waiting) / max(seconds / 2, limits.GOODBYE_TICK_SECONDS))
    per_tick = int(per_second * limits.GOODBYE_TICK_SECONDS) + 1
    leaving: list[Client] = []
    while (waiting or leaving) and listener.now() < deadline:
        leaving += waiting[:per_tick]
        del waiting[:per_tick]
        leaving = [client for client in leaving if not _gone(listener, client)]
        await asyncio.sleep(limits.GOODBYE_TICK_SECONDS)
    for client in leaving + waiting:
        client.disconnect(ReasonCode.SERVER_SHUTTING_DOWN, "shutting down, time is over")


def _gone(listener: Listener, client: Client) -> bool:
    """Takes no more from this device, and sends it off as soon as it has its acknowledgements."""
    protocol = client.connection.protocol
    listener.release(client.connection)
    protocol.hold()
    if not protocol.unsettled:
        client.disconnect(ReasonCode.SERVER_SHUTTING_DOWN, "shutting down")
    return protocol.close_expected
