"""After a rolling restart: sends devices home, a few at a time, until no replica has far more than the others.

Which and how many is `cluster/balance.py`. They are told 0x9C, use another server, because this one goes on; 3.x has no
word for it. The balancer sends each to its home.
"""

import asyncio
import logging
from collections.abc import Callable
from itertools import islice

from proxy import limits
from proxy.clock import monotonic, wall_ms
from proxy.cluster.balance import Balance, Share, is_calm
from proxy.cluster.nodes import Node
from proxy.flows.client import Client
from proxy.flows.drain import let_go
from proxy.flows.uplink import Uplink
from proxy.mqtt.packets import ReasonCode
from proxy.net.listener import Listener

log = logging.getLogger(__name__)


class Rebalancer:
    """`nodes` are the replicas that are alive, `asked` says whether a load balancer asks this one."""

    def __init__(
        self,
        name: str,
        listener: Listener,
        uplink: Uplink,
        nodes: Callable[[], list[Node]],
        asked: Callable[[], bool],
    ) -> None:
        #: Devices that were sent home.
        self.sent_home = 0
        self._balance = Balance(name)
        self._listener = listener
        self._uplink = uplink
        self._nodes = nodes
        self._asked = asked

    async def run(self) -> None:
        """Until it is cancelled."""
        while True:
            await asyncio.sleep(limits.REBALANCE_LOOK_SECONDS)
            try:
                await self._look()
            except Exception:
                log.exception("rebalancing failed")

    async def _look(self) -> None:
        share = self._balance.decide(self._nodes(), monotonic()) if self._can_move else None
        if share is not None:
            await self._send_home(share)

    @property
    def _can_move(self) -> bool:
        """In an outage of Kafka heartbeats stop, and nobody who is sent away could come in elsewhere. Where no load
        balancer places devices nobody has another home.
        """
        uplink = self._uplink
        return self._asked() and not uplink.draining and uplink.gateway.ready and uplink.joined()

    async def _send_home(self, share: Share) -> None:
        devices = self._longest_connected(share)
        if devices:
            log.info("rebalancing", extra={"devices": len(devices), "above_the_mean": share.devices})
        while devices and self._can_move and is_calm(self._nodes()):
            some = devices[: limits.REBALANCE_PER_SECOND]
            del devices[: limits.REBALANCE_PER_SECOND]
            self.sent_home += len(some)
            await let_go(
                self._listener,
                some,
                ReasonCode.USE_ANOTHER_SERVER,
                "this replica has more than its share of the devices",
                limits.REBALANCE_GOODBYE_SECONDS,
                limits.REBALANCE_PER_SECOND,
            )

    def _longest_connected(self, share: Share) -> list[Client]:
        """Of those that may be away from home. The clients are in the order in which they came."""
        before_ms = wall_ms() - share.seconds * 1000
        away = (client for client in self._uplink.clients.values() if _connected_at_ms(client) < before_ms)
        return list(islice(away, share.devices))


def _connected_at_ms(client: Client) -> float:
    return client.attachment.local.about.connected_at_ms if client.attachment is not None else float("inf")
