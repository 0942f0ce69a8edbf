"""A replica as the admin API sees it, without sockets and without Kafka, and somebody who asks."""

import asyncio
import hashlib
from typing import Any

import httpx
from prometheus_client import CollectorRegistry, Counter

from proxy.admin.api import Api
from proxy.admin.app import Check, Views, make_app
from proxy.admin.directory import Directory
from proxy.admin.guard import Guard, Token
from proxy.admin.parts import Parts
from proxy.admin.routes import ENDPOINTS
from proxy.cluster.commands import ClientOutcome, Command, Result
from proxy.cluster.nodes import NodeRegistry
from proxy.flows.bans import Bans, BanSettings
from proxy.flows.explain import Partitions, explain
from proxy.kafka.records import NodeRecord
from proxy.policy.templates import Scope
from tests.flows.harness import Device, Replica
from tests.support.memory_log import MemoryKafka

READ, WRITE = "the token that reads", "the token that writes"


class FakeController:
    """Keeps what it is asked for, and answers what a test says."""

    def __init__(self) -> None:
        self.commands: list[Command] = []
        self.outcome = "done"
        self.hit: list[str] = ["c1"]
        self.error = ""
        self.bug: Exception | None = None
        #: Cleared by a test: commands wait.
        self.goes_on = asyncio.Event()
        self.goes_on.set()

    async def execute(self, command: Command) -> Result:
        self.commands.append(command)
        await self.goes_on.wait()
        if self.bug is not None:
            raise self.bug
        clients = [ClientOutcome(name, self.outcome, "node-7") for name in self.hit]
        return Result(command.id, command.kind, self.outcome, clients, self.error)


class FakeDrainer:
    def __init__(self) -> None:
        self.state = "serving"

    def start(self) -> None:
        self.state = "draining"

    def cancel(self) -> None:
        self.state = "serving"


class Door:
    """The admin port of one replica. `tokens` False: none is set."""

    def __init__(self, kafka: MemoryKafka, *, tokens: bool = True) -> None:
        self.replica = Replica()
        self.replica.gateway.add_topic("t_bans")
        kafka.gateways.append(self.replica.gateway)
        self.now_ms = self.replica.log.now_ms
        self.bans = Bans(BanSettings("t_bans", {}), self.replica.gateway, self.replica.uplink, lambda: self.now_ms)
        self.controller = FakeController()
        self.drainer = FakeDrainer()
        self.registry = NodeRegistry(0.0)
        self.is_joined = True
        self.requests = Counter("mqk_admin_requests", "Requests", ["status"], registry=CollectorRegistry())
        known = [Token("reader", "read", sha256(READ)), Token("writer", "write", sha256(WRITE))] if tokens else []
        self.api = Api(ENDPOINTS, self._parts(), Guard(known), self.requests)
        self.app = make_app(Views(lambda: Check(True, "ready"), dict, bytes), self.api.app)

    def _parts(self) -> Parts:
        replica = self.replica
        return Parts(
            node="node-7",
            joined=lambda: self.is_joined,
            directory=Directory(lambda: replica.sessions.tables, lambda: self.now_ms),
            view=replica.sessions.view,
            local=replica.sessions.local,
            registry=lambda: self.registry,
            controller=self.controller,
            bans=self.bans,
            routes=lambda: replica.uplink.routes,
            explain=self._explain,
            effective=lambda: [("node.id", "node-7"), ("admin.tokens[0].token_sha256", "********")],
            drainer=self.drainer,
        )

    def _explain(self, topic: str, client_id: str, username: str | None) -> dict[str, Any]:
        uplink = self.replica.uplink
        partitions = Partitions({"": 12})
        return explain(uplink.routes, uplink.headers, Scope(topic, client_id, username), "drop", partitions)

    def client(self, token: str | None = WRITE, base_url: str = "http://127.0.0.1:8080") -> httpx.AsyncClient:
        headers = {"Authorization": f"Bearer {token}"} if token is not None else {}
        return httpx.AsyncClient(transport=httpx.ASGITransport(self.app), base_url=base_url, headers=headers)

    async def ask(self, method: str, path: str, body: object = None, **more: Any) -> httpx.Response:
        async with self.client(more.pop("token", WRITE)) as client:
            return await client.request(method, path, **({} if body is None else {"json": body}), **more)

    def connect(self, client_id: str = "c1", **fields: Any) -> Device:
        device = Device(self.replica, fields.pop("version", 5))
        device.connect(client_id, **fields)
        return device

    def hear(self, name: str, now: float, connections: int = 0, state: str = "serving") -> None:
        """A heartbeat of a replica."""
        record = NodeRecord(name, False, 1, 4, state, "127.0.0.1:8080", connections)
        self.registry.read(name, record, now)


def sha256(token: str) -> str:
    return hashlib.sha256(token.encode()).hexdigest()
