"""Who is where, as commands ask it: the replicas that are alive, and which of them has a client."""

from collections.abc import Callable

from proxy.cluster.inbox import Address
from proxy.cluster.lanes import Owner
from proxy.flows.membership import Membership
from proxy.flows.sessions import Sessions


class Whereabouts:
    """What this replica knows of all others, from the session log and the node registry. `now` is monotonic."""

    def __init__(self, membership: Membership, sessions: Sessions, now: Callable[[], float]) -> None:
        self._membership = membership
        self._sessions = sessions
        self._now = now

    def here(self) -> Address:
        """This replica. Its incarnation is below 0 until it has joined."""
        return Address(self._membership.settings.node, self._membership.incarnation)

    def alive(self) -> list[Address]:
        """All replicas, this one included."""
        here = self.here()
        nodes = self._membership.registry.alive(self._now())
        return [here, *(Address(node.name, node.incarnation) for node in nodes if node.name != here.node)]

    def is_dead(self, address: Address) -> bool:
        """Whether nothing is to be heard of that replica any more."""
        if address.node == self.here().node:
            return address.incarnation != self._membership.incarnation
        return self._membership.is_dead(address.node, address.incarnation)

    def owner(self, client_id: str) -> Owner | None:
        """The connection of a client that is live."""
        owner = self._sessions.owner(client_id)
        if owner is None:
            return None
        node, incarnation, epoch = owner
        address = Address(node, incarnation)
        return None if self.is_dead(address) else Owner(address, epoch)

    def clients(self, username: str) -> list[str]:
        """Which clients of a user are connected."""
        return self._sessions.users.clients(username)
