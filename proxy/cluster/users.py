"""Which clients a user name has, among those that are connected: an index over the views of the session log. Pure."""

from proxy.kafka.records import SessionRecord


class ConnectedUsers:
    """Follows the changes of view. Who is offline is not in it, so it is as large as the cluster has connections."""

    def __init__(self) -> None:
        # Most users have one client: its identifier stands alone, several stand in a set.
        self._clients: dict[str, str | set[str]] = {}

    def __len__(self) -> int:
        return len(self._clients)

    def clients(self, username: str) -> list[str]:
        """The identifiers, in no order."""
        known = self._clients.get(username)
        if known is None:
            return []
        return [known] if isinstance(known, str) else list(known)

    def view_changed(self, before: SessionRecord | None, record: SessionRecord) -> None:
        """A client came or went, or is another connection now."""
        if before is not None and not before.rel:
            self._remove(before.about.username, before.client_id)
        if not record.rel:
            self._add(record.about.username, record.client_id)

    def clear(self) -> None:
        """Nothing is known any more."""
        self._clients.clear()

    def _add(self, username: str | None, client_id: str) -> None:
        if username is None:
            return
        known = self._clients.setdefault(username, client_id)
        if isinstance(known, set):
            known.add(client_id)
        elif known != client_id:
            self._clients[username] = {known, client_id}

    def _remove(self, username: str | None, client_id: str) -> None:
        known = self._clients.get(username) if username is not None else None
        if username is None or known is None:
            return
        if isinstance(known, set):
            known.discard(client_id)
        if not known or known == client_id:
            del self._clients[username]
