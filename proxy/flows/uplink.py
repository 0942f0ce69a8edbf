"""What all devices of a replica share on their way into Kafka: gateways, rules, authentication, counts, and the list of
who is connected. Each of them is a `Client`.
"""

import asyncio
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

from proxy.errors import GatewayError
from proxy.flows.access import Access, AccessSettings
from proxy.flows.client import Client
from proxy.flows.forwarding import Joint, outcome
from proxy.flows.goodbyes import Goodbyes
from proxy.flows.headers import HeaderPlan
from proxy.flows.sessions import Sessions
from proxy.flows.usernames import Usernames
from proxy.kafka.gateway import KafkaGateway
from proxy.metrics import Metrics
from proxy.mqtt.packets import ReasonCode
from proxy.net.connection import MqttConnection
from proxy.policy.authenticators.base import Chain
from proxy.policy.quotas import Rate
from proxy.policy.routes import RouteTable
from proxy.policy.subscribers import Subscribers


@dataclass(slots=True, frozen=True)
class UplinkSettings:
    """`headers` is `kafka.headers`, `unmatched` is `routing.unmatched`, and so on."""

    node: str
    headers: Sequence[str]
    unmatched: Literal["drop", "dead_letter", "reject"]
    connects_per_second_max: int
    session_expiry_seconds_max: int
    bind_client_id: bool = False


class Uplink:
    """What all connections of a replica share."""

    def __init__(
        self,
        settings: UplinkSettings,
        gateways: Mapping[str, KafkaGateway],
        routes: RouteTable,
        chain: Chain,
        sessions: Sessions,
        goodbyes: Goodbyes,
        metrics: Metrics,
        access: Access | None = None,
    ) -> None:
        self.settings = settings
        self.access = access or Access(AccessSettings())
        #: By the name of the cluster; the default one has the empty name.
        self.gateways = gateways
        self.gateway = gateways[""]
        self.routes = routes
        self.headers = HeaderPlan(settings.headers, settings.node)
        self.with_message_headers = self.headers.each
        self.telling_properties = self.headers.telling
        self.chain = chain
        self.sessions = sessions
        self.goodbyes = goodbyes
        self.metrics = metrics
        self.publishes = metrics.publishes
        self.ack_seconds = metrics.ack_seconds
        #: Connected clients by client identifier.
        self.clients: dict[str, Client] = {}
        self.usernames: Usernames[Client] = Usernames()
        #: Those whose CONNECT has not been answered yet.
        self.connecting: set[Client] = set()
        self.subscribers: Subscribers[Client] = Subscribers()
        #: Set while the replica lets its devices go, to stop or for a while: nobody new comes in.
        self.draining = False
        #: Says whether this replica knows all sessions.
        self.joined: Callable[[], bool] = lambda: True
        #: Says whether a client is banned, by its client identifier, user name and address.
        self.banned: Callable[[str, str | None, str], bool] = lambda *_: False
        self.connect_rate = Rate(settings.connects_per_second_max)
        #: Messages of several targets that no device waits for.
        self.joint = Joint(self)
        self._joint_token = 0
        self._logins: set[asyncio.Task[None]] = set()

    def new_client(self, connection: MqttConnection) -> Client:
        return Client(self, connection)

    def refusal(self, now: float) -> tuple[ReasonCode, str] | None:
        """Why nobody may come in at the moment, whoever it is."""
        if self.draining:
            return ReasonCode.SERVER_UNAVAILABLE, "this replica lets its devices go"
        if not self.gateway.ready:
            return ReasonCode.SERVER_UNAVAILABLE, "kafka does not answer"
        if not self.joined():
            return ReasonCode.SERVER_UNAVAILABLE, "the session log is being read"
        if self.gateway.full:
            # Else devices that come and go would fill the queue with status records.
            return ReasonCode.SERVER_BUSY, "the queue for kafka is full"
        if not self.connect_rate.allows(now):
            return ReasonCode.CONNECTION_RATE_EXCEEDED, "limits.connects_per_second_max is reached"
        return None

    def use_routes(self, routes: RouteTable) -> None:
        """From now on these rules are obeyed. Every decision that is remembered is out of date."""
        self.routes = routes
        for gateway in self.gateways.values():
            gateway.generation += 1

    def next_joint_token(self) -> int:
        self._joint_token += 1
        return self._joint_token

    @property
    def logins_waiting(self) -> int:
        """Devices whose login is being checked."""
        return len(self._logins)

    def log_in(self, login: "asyncio.Task[None]") -> None:
        """Keeps the task of a login that has to wait: one at most for each connection."""
        self._logins.add(login)
        login.add_done_callback(self._logins.discard)

    def settle(self, tokens: list[int], error: GatewayError | None, seconds: float) -> None:
        """The outcome of messages that no device waits for, QoS 0 and wills: as a `Recipient` of the gateway."""
        outcome(self.publishes, error)[0] += len(tokens)
