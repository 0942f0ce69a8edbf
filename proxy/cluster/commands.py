"""What can be asked of connections, from Kafka or over HTTP, whichever replica holds them. Pure data."""

from dataclasses import dataclass, field
from typing import Final

#: The kinds of commands.
DELIVER: Final = "deliver"
KICK: Final = "kick"
ACL_CLEAN: Final = "acl_clean"


@dataclass(slots=True, frozen=True)
class Selector:
    """Which clients are meant: the one with this identifier, those of this user; with neither, all of them."""

    client_id: str | None = None
    username: str | None = None

    def matches(self, client_id: str, username: str | None) -> bool:
        """Whether a connection is meant."""
        return (self.client_id is None or self.client_id == client_id) and (
            self.username is None or self.username == username
        )


@dataclass(slots=True, frozen=True)
class Message:
    """What a command delivers."""

    topic: str
    payload: bytes
    qos: int = 0
    retain: bool = False
    user_properties: list[tuple[str, str]] = field(default_factory=list)


@dataclass(slots=True, frozen=True)
class Command:
    """`id` is the record's place in Kafka (`topic-partition-offset`), or what the sender chose. `expires_at_ms` is wall
    clock, 0: never. `message` is what `deliver` carries; a `kick` with an `epoch` means that one connection.
    """

    id: str
    kind: str
    selector: Selector
    expires_at_ms: int = 0
    message: Message | None = None
    epoch: int | None = None


@dataclass(slots=True, frozen=True)
class ClientOutcome:
    """What became of a command at one client; `node` is the replica that said so."""

    clientid: str
    outcome: str
    node: str


@dataclass(slots=True, frozen=True)
class Result:
    """What became of a command. `error` says in words what is wrong with one that is malformed."""

    id: str
    kind: str
    outcome: str
    clients: list[ClientOutcome] = field(default_factory=list)
    error: str = ""
