"""Several replicas as commands see them, without Kafka: who is where is said by the test, letters go as it wants."""

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from prometheus_client import CollectorRegistry, Counter

from proxy.cluster.commands import DELIVER, Command, Message, Result, Selector
from proxy.cluster.inbox import Address
from proxy.cluster.lanes import Owner
from proxy.errors import GatewayError
from proxy.flows.control import Control
from proxy.flows.inbox import Inbox
from proxy.kafka.gateway import Headers, Partitioner, Recipient
from tests.support.fakes import Clock

ACK_SECONDS = 30


@dataclass
class Letters:
    """As a gateway, as far as an `Inbox` asks. Every replica reads every letter."""

    town: "Town"
    error: GatewayError | None = None
    held: bool = False
    waiting: list[Any] = field(default_factory=list)
    offset: int = 0

    def destination(self, topic: str, key: bytes, partitioner: Partitioner | None = None) -> Any:
        return key

    def enqueue(self, key: Any, value: bytes | None, headers: Headers, recipient: Recipient, token: int) -> None:
        recipient.settle([token], self.error, 0.0)
        if self.error is None:
            self.append(value)

    def append(self, value: bytes | None) -> None:
        self.offset += 1
        self.waiting.append(Record(value, self.offset))
        if not self.held:
            self.deliver()

    def deliver(self) -> None:
        while self.waiting:
            record = self.waiting.pop(0)
            for replica in self.town.replicas.values():
                if replica.reads:
                    replica.inbox.receive([record])


@dataclass
class Record:
    value: bytes | None
    offset: int


class FakeExecutor:
    """Connections that a test gives it: client id → user. It reports when the test says so, or at once."""

    def __init__(self) -> None:
        self.users: dict[str, str | None] = {}
        #: What is reported at once; None: the test does it.
        self.outcome: str | None = "delivered"
        self.executed: list[tuple[str, str]] = []
        self.open: list[tuple[Command, str, Callable[[str, str], None]]] = []
        self.bug = False

    def execute(self, command: Command, report: Callable[[str, str], None]) -> list[str]:
        if self.bug:
            raise RuntimeError("a bug")
        hits = [client for client, user in self.users.items() if command.selector.matches(client, user)]
        for client in hits:
            self.executed.append((command.id, client))
            if self.outcome is not None and command.kind == DELIVER:
                report(client, self.outcome)
            elif command.kind != DELIVER:
                report(client, "done")
            else:
                self.open.append((command, client, report))
        return hits

    def report(self, outcome: str, client_id: str | None = None) -> None:
        """Of everything that is open, or what is for one client."""
        told = [each for each in self.open if client_id in {None, each[1]}]
        self.open = [each for each in self.open if each not in told]
        for _, client, report in told:
            report(client, outcome)


class Replica:
    """One of them, as a `Cluster` for its own `Control`."""

    def __init__(self, town: "Town", node: str) -> None:
        self.town = town
        self.address = Address(node, 1)
        self.reads = True
        self.executor = FakeExecutor()
        self.inbox = Inbox(town.letters, "inbox", self.here, self.executor)  # type: ignore[arg-type]
        self.registry = CollectorRegistry()
        counter = Counter("mqk_commands", "-", ["kind", "outcome"], registry=self.registry)
        self.control = Control(
            self, self.executor, self.inbox, counter, ACK_SECONDS, town.clock, lambda: int(town.clock() * 1000)
        )
        self.inbox.asker = self.control
        self.results: list[Result] = []

    def here(self) -> Address:
        return self.address

    def alive(self) -> list[Address]:
        others = [each.address for each in self.town.replicas.values() if each is not self]
        return [self.address, *(address for address in others if address not in self.town.dead)]

    def is_dead(self, address: Address) -> bool:
        return address in self.town.dead

    def owner(self, client_id: str) -> Owner | None:
        return self.town.owners.get(client_id)

    def clients(self, username: str) -> list[str]:
        return [client for client in self.town.owners if self.town.users.get(client) == username]

    def start(self, *commands: Command) -> None:
        for command in commands:
            self.control.start(command, self.results.append)

    def outcomes(self) -> dict[str, str]:
        return {result.id: result.outcome for result in self.results}


class Town:
    """All of them. Clients are connected with `connect`."""

    def __init__(self, *nodes: str) -> None:
        self.clock = Clock()
        self.letters = Letters(self)
        self.owners: dict[str, Owner] = {}
        self.users: dict[str, str | None] = {}
        self.dead: set[Address] = set()
        self.replicas: dict[str, Replica] = {}
        for node in nodes:
            self.replicas[node] = Replica(self, node)
        self._epoch = 0

    def __getitem__(self, node: str) -> Replica:
        return self.replicas[node]

    def connect(self, client_id: str, node: str, username: str | None = None, *, known: bool = True) -> None:
        """The client is connected there now and nowhere else; `known`: the others have read that."""
        for replica in self.replicas.values():
            replica.executor.users.pop(client_id, None)
        self[node].executor.users[client_id] = username
        if known:
            self.tell(client_id, node)
            self.users[client_id] = username

    def tell(self, client_id: str, node: str) -> None:
        """Everybody has read that the client is there."""
        self._epoch += 1
        self.owners[client_id] = Owner(self[node].address, self._epoch)

    def die(self, node: str) -> None:
        self[node].reads = False
        self.dead.add(self[node].address)

    def pass_time(self, seconds: float) -> None:
        self.clock.now += seconds
        for replica in self.replicas.values():
            replica.control.tick()

    def flush(self) -> None:
        """Letters that wait for their turn go now, and so do the answers to them."""
        for _ in range(6):
            for replica in self.replicas.values():
                replica.inbox.flush()


def deliver(name: str, client_id: str | None = None, username: str | None = None, **fields: Any) -> Command:
    message = Message(fields.pop("topic", "t"), fields.pop("payload", b"x"), 1)
    return Command(name, DELIVER, Selector(client_id, username), message=message, **fields)
