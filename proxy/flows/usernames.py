"""Connected clients by user name. Most names have one client, and that costs no more than its entry."""

from collections.abc import Iterable
from typing import Generic, TypeVar

Client = TypeVar("Client")


class Usernames(Generic[Client]):
    """As many names at most as there are connections."""

    def __init__(self) -> None:
        self._clients: dict[str, Client | set[Client]] = {}

    def __len__(self) -> int:
        return len(self._clients)

    def add(self, username: str, client: Client) -> None:
        there = self._clients.get(username)
        if there is None:
            self._clients[username] = client
        elif isinstance(there, set):
            there.add(client)
        else:
            self._clients[username] = {there, client}

    def remove(self, username: str, client: Client) -> None:
        """The client is there."""
        there = self._clients[username]
        if isinstance(there, set):
            there.remove(client)
            if there:
                return
        del self._clients[username]

    def clients(self, username: str) -> Iterable[Client]:
        """All that have connected under this name."""
        there = self._clients.get(username)
        if there is None:
            return ()
        return tuple(there) if isinstance(there, set) else (there,)
