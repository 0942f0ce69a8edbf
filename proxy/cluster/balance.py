"""Whether this replica has more than its share of the devices, from the counts in the heartbeats. Pure.

A load balancer that places devices by a hash sends them elsewhere while their home is away, and nothing brings them
back: after a rolling restart the replica that was restarted last is empty. So whoever is far above the mean lets some
go. Only devices that came before the last change among the replicas can be away from home; a device that came later was
placed by the balancer as it stands now and would come straight back. So each is told once for each change at the most,
and where the hash itself is uneven there is an end to it.
"""

from collections.abc import Sequence
from math import sqrt
from typing import NamedTuple

from proxy import limits
from proxy.cluster.nodes import Node


class Share(NamedTuple):
    """`devices` too many, to be taken from those that have been connected for longer than `seconds`."""

    devices: int
    seconds: float


class Balance:
    """Looks at the replicas again and again, and remembers how they stood."""

    def __init__(self, name: str) -> None:
        self._name = name
        #: Who was there with how many connections when they were last seen to change, and when that was.
        self._standing: dict[tuple[str, int], int] = {}
        self._steady_since = 0.0

    def decide(self, nodes: Sequence[Node], now: float) -> Share | None:
        """What this replica should let go now. None: nothing, or not yet; then ask again."""
        mean = sum(node.connections for node in nodes) / len(nodes) if nodes else 0.0
        if not is_calm(nodes) or not self._is_steady(nodes, mean, now):
            return None
        own = next((node.connections for node in nodes if node.name == self._name), 0)
        if own - mean <= max((limits.REBALANCE_ABOVE - 1) * mean, _noise(mean)):
            return None
        self._steady_since = now
        changed_at = max(node.since for node in nodes) + limits.REBALANCE_NOTICE_SECONDS
        return Share(int(own - mean), max(0.0, now - changed_at))

    def _is_steady(self, nodes: Sequence[Node], mean: float, now: float) -> bool:
        """Whether nobody has come or gone for a while and the devices stay where they are."""
        counts = {(node.name, node.incarnation): node.connections for node in nodes}
        most = max(mean * limits.REBALANCE_STIR, 1.0)
        same = counts.keys() == self._standing.keys()
        if not same or any(abs(count - self._standing[each]) > most for each, count in counts.items()):
            self._standing = counts
            self._steady_since = now
        return now - self._steady_since >= limits.REBALANCE_STEADY_SECONDS


def _noise(mean: float) -> float:
    """How far chance alone takes a replica from the mean, where devices are placed by a hash."""
    return limits.REBALANCE_DEVIATIONS * sqrt(mean)


def is_calm(nodes: Sequence[Node]) -> bool:
    """Whether there are several replicas and all of them take devices."""
    return len(nodes) > 1 and all(node.state == "serving" for node in nodes)
