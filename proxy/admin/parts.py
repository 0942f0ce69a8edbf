"""What the admin API works with: the running parts of the replica, as far as an operator has to do with them."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

from proxy.admin.directory import Directory
from proxy.cluster.commands import Command, Result
from proxy.cluster.nodes import NodeRegistry
from proxy.cluster.table import LocalSession
from proxy.flows.bans import Bans
from proxy.kafka.records import SessionRecord
from proxy.policy.routes import RouteTable


class Controller(Protocol):
    """Carries out a command, whichever replicas it concerns."""

    async def execute(self, command: Command) -> Result:
        """Returns within the time that commands have, whatever happens."""


class Drainer(Protocol):
    """Lets the devices of this replica go."""

    @property
    def state(self) -> str: ...
    def start(self) -> None: ...
    def cancel(self) -> None: ...


@dataclass(slots=True)
class Parts:
    """`joined` says whether this replica knows all sessions, `view` what is known of a client, `local` more of one that
    is connected here. `explain` is `flows/explain.py` with this replica's rules; `effective` are the settings in force,
    secrets masked.
    """

    node: str
    joined: Callable[[], bool]
    directory: Directory
    view: Callable[[str], SessionRecord | None]
    local: Callable[[str], LocalSession | None]
    registry: Callable[[], NodeRegistry]
    controller: Controller
    bans: Bans
    routes: Callable[[], RouteTable]
    explain: Callable[[str, str, str | None], dict[str, Any]]
    effective: Callable[[], Sequence[tuple[str, object]]]
    drainer: Drainer
