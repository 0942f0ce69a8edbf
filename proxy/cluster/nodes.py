"""Which replicas are alive, from their heartbeats in the node registry. Pure: the time comes in.

Rule 7: a node is dead after `NODE_SILENCE_SECONDS_MAX` without a heartbeat by the reader's own clock, counted only
while this reader's fetches succeed. Rule 8: an incarnation is the offset of its JOIN; the highest of a name counts.
"""

from dataclasses import dataclass

from proxy import limits
from proxy.kafka.records import NodeRecord


@dataclass(slots=True)
class Node:
    """What is known of a replica. `heard_at` and `since` are monotonic seconds of the reader; `since` is when this
    incarnation was first heard to be in this state.
    """

    name: str
    incarnation: int
    heard_at: float
    state: str
    admin_address: str
    connections: int
    since: float


class NodeRegistry:
    """All replicas by their names."""

    def __init__(self, now: float) -> None:
        self.nodes: dict[str, Node] = {}
        #: Changes whenever somebody may have died or come back under his name.
        self.generation = 0
        self._counting_since = now
        self._dead: frozenset[str] = frozenset()

    def read(self, name: str, record: NodeRecord | None, now: float) -> None:
        """The next record of the registry; None is the tombstone of a replica that has left."""
        if record is None:
            self.generation += self.nodes.pop(name, None) is not None
            return
        known = self.nodes.get(name)
        if known is not None and record.incarnation < known.incarnation:
            return
        if known is None or record.incarnation > known.incarnation:
            self.generation += 1
        same = known is not None and (known.incarnation, known.state) == (record.incarnation, record.state)
        since = known.since if known is not None and same else now
        self.nodes[name] = Node(
            name, record.incarnation, now, record.state, record.admin_address, record.connections, since
        )

    def interrupted(self, now: float) -> None:
        """The reader heard nothing for a while, so it cannot say who else was silent: counting starts again."""
        self._counting_since = now

    def look(self, now: float) -> None:
        """Notices who has died since, or has come back."""
        dead = frozenset(node.name for node in self.nodes.values() if self._is_silent(node.heard_at, now))
        if dead != self._dead:
            self._dead = dead
            self.generation += 1

    def is_dead(self, name: str, incarnation: int, now: float) -> bool:
        """Whether connections of that incarnation are over. A name that is not there has left, or was never heard."""
        node = self.nodes.get(name)
        if node is None:
            return self._is_silent(self._counting_since, now)
        return incarnation < node.incarnation or self._is_silent(node.heard_at, now)

    def alive(self, now: float) -> list[Node]:
        return [node for node in self.nodes.values() if not self._is_silent(node.heard_at, now)]

    def _is_silent(self, heard_at: float, now: float) -> bool:
        return now - max(heard_at, self._counting_since) > limits.NODE_SILENCE_SECONDS_MAX
