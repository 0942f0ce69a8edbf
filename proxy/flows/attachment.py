"""A connection's part in the session log: its claim, what its session remembers, and what it hands to its successor.

The rules are the table's. What is here is QoS 2: which packet identifiers a session remembers while messages are still
on their way to Kafka, when the first of them may go there, and who goes on with them after a reconnect to the same
replica.
"""

import secrets
from collections.abc import Callable
from typing import Any, Protocol

from proxy.clock import wall_ms
from proxy.cluster.table import LocalSession
from proxy.errors import GatewayError
from proxy.flows.sessions import Sessions
from proxy.kafka.records import About, StoredWill
from proxy.mqtt.packets import (
    MQTT_5_0,
    SESSION_EXPIRY_INTERVAL,
    WILL_DELAY_INTERVAL,
    Connect,
    Publish,
)
from proxy.session.events import EndReason


class Attached(Protocol):
    """The connection itself; `flows/client.py`."""

    @property
    def unreleased(self) -> list[int]:
        """QoS 2 packet identifiers that wait for PUBREL."""

    @property
    def unsettled_exactly_once(self) -> set[int]:
        """QoS 2 messages whose outcome in Kafka is not known."""

    def accept(self, session_present: bool, unreleased: list[int], *, hold: bool) -> None: ...
    def go_on(self) -> None: ...
    def acknowledge(self, packet_ids: list[int]) -> None: ...
    def restore(self, packet_ids: list[int]) -> None: ...
    def take(self, publish: Publish) -> None: ...
    def superseded(self) -> None: ...
    def log_failed(self, detail: str) -> None: ...


class Attachment:
    """The handle of a `LocalSession`."""

    __slots__ = ("_client", "_ending", "_gated", "_heir", "_inherited", "_sessions", "_stored", "local")

    def __init__(self, client: Attached, sessions: Sessions, local: LocalSession) -> None:
        self.local = local
        local.handle = self
        self._client = client
        self._sessions = sessions
        #: QoS 2 messages that wait until the log says that QoS 2 is in use; None while nothing waits.
        self._gated: list[Publish] | None = None
        #: QoS 2 messages of the connection before that Kafka has not settled, with the PUBLISH that repeated it.
        self._inherited: dict[int, Publish | None] = {}
        #: QoS 2 messages that were settled before CONNACK, or after the end of the connection.
        self._stored: set[int] = set()
        self._heir: Attachment | None = None
        #: Set while the end of the connection waits for its last messages.
        self._ending: tuple[str, bool] | None = None

    # ---- its place ----

    def claim(self) -> None:
        """Takes over from an older connection here, then claims the client's place."""
        older = self._sessions.local(self.local.client_id)
        handed_over: list[int] = older.handle.hand_over(self) if older is not None else []
        self._sessions.connect(self.local, handed_over)

    def hand_over(self, heir: "Attachment") -> list[int]:
        """A newer connection of this client goes on here; returns the identifiers that wait for PUBREL."""
        self._heir = heir
        heir._inherited = dict.fromkeys(self._client.unsettled_exactly_once | self._inherited.keys())
        unreleased = {*self._client.unreleased, *self._stored}
        self._client.superseded()
        return sorted(unreleased)

    def end(self, reason: str, expiry_seconds: int | None, *, with_will: bool) -> None:
        """The connection is over. A session that lives on waits for its last QoS 2 messages, to remember them."""
        if self._heir is not None:
            return
        if expiry_seconds is not None:
            self.local.expiry_seconds = expiry_seconds
        self._ending = (reason, with_will)
        if reason == EndReason.NORMAL:
            # A device that says goodbye may never send again what it was not told of.
            self._open_gate()
        self._gated = None
        self._end_if_settled()

    def _end_if_settled(self) -> None:
        if self._ending is None or self._heir is not None:
            return
        if self.local.expiry_seconds and (self._client.unsettled_exactly_once or self._inherited):
            return
        (reason, with_will), self._ending = self._ending, None
        unreleased = {*self._client.unreleased, *self._stored}
        self._sessions.end(self.local, reason, unreleased, with_will=with_will)

    # ---- as the handle of its session ----

    def on_established(self, session_present: bool) -> None:
        """As `SessionClient`."""
        local = self.local
        if not session_present:
            self._inherited = {}
        unreleased = [*local.qos2, *self._stored] if session_present else []
        self._stored.clear()
        # A device that releases such an identifier may use it again at once: the log must not list it then. And a
        # message that Kafka has not settled is one more whose PUBREC the log has to know of.
        careful = bool(unreleased or self._inherited) and local.expiry_seconds > 0 and not local.qos2_used
        self._client.accept(session_present, unreleased, hold=careful)
        if careful:
            self._use_exactly_once(self._go_on)

    def on_superseded(self) -> None:
        """As `SessionClient`."""
        self._client.superseded()

    def on_log_failed(self, detail: str) -> None:
        """As `SessionClient`."""
        self._client.log_failed(detail)

    def on_durable(self, token: object) -> None:
        """As `SessionClient`: what waits is a step of ours."""
        if callable(token):
            token()

    # ---- what the device sends ----

    def keep_subscriptions(self, subscriptions: list[list[Any]], then: Callable[[], None] | None = None) -> None:
        """The session has these from now on. A device is told only what is durable: `then` is called once the log says
        so, in the order of the calls.
        """
        local = self.local
        changed = subscriptions != local.subscriptions
        local.subscriptions = subscriptions
        if changed and local.expiry_seconds:
            self._sessions.assert_state(local)
        if then is not None and local.expiry_seconds:
            self._sessions.when_durable(local, local.seq, then)
        elif then is not None:
            then()

    def heard(self) -> None:
        """The device knows its session: from now on Session Present may name it."""
        local = self.local
        if local.expiry_seconds and not local.confirmed and local.epoch >= 0:
            local.confirmed = True
            self._sessions.assert_state(local)

    def receive_exactly_once(self, publish: Publish) -> bool:
        """A QoS 2 message has come. False when it has to wait: it repeats one of the connection before that Kafka has
        not settled, or the log does not say yet that QoS 2 is in use. Until it does, another replica would tell the
        device that its session is present, and not know the message that the device then repeats.
        """
        if publish.packet_id in self._inherited:
            self._inherited[publish.packet_id] = publish
            return False
        local = self.local
        if local.expiry_seconds and not local.qos2_used:
            self._use_exactly_once(self._open_gate)
        if self._gated is not None:
            self._gated.append(publish)
            return False
        return True

    def settle_exactly_once(self, packet_ids: set[int], error: GatewayError | None) -> bool:
        """The outcome of QoS 2 messages is known. True when the device may be told now; else it is told later, or by
        the connection that goes on with the session.
        """
        if self._heir is not None:
            self._heir.inherit(packet_ids, error)
            return False
        if self._ending is not None:
            if error is None:
                self._stored |= packet_ids
            self._end_if_settled()
            return False
        return True

    def inherit(self, packet_ids: set[int], error: GatewayError | None) -> None:
        """The outcome of messages that the connection before had taken."""
        if self._heir is not None:
            self._heir.inherit(packet_ids, error)
            return
        for packet_id in packet_ids & self._inherited.keys():
            repeated = self._inherited.pop(packet_id)
            if error is not None:
                if repeated is not None and self._ending is None:
                    self._client.take(repeated)
            elif self._ending is not None or not self.local.established:
                self._stored.add(packet_id)
            elif repeated is not None:
                self._client.acknowledge([packet_id])
            else:
                self._client.restore([packet_id])
        self._end_if_settled()

    def _use_exactly_once(self, then: Callable[[], None]) -> None:
        """From now on the log does not know this session's QoS 2 identifiers; messages wait until it says so."""
        local = self.local
        local.qos2_used = True
        self._gated = []
        self._sessions.when_durable(local, self._sessions.assert_state(local), then)

    def _go_on(self) -> None:
        self._open_gate()
        self._client.go_on()

    def _open_gate(self) -> None:
        gated, self._gated = self._gated, None
        for publish in gated or ():
            self._client.take(publish)


def local_session(
    client_id: str, connect: Connect, address: str, peer_cert_cn: str | None, expiry_seconds_max: int
) -> LocalSession:
    """What the session log is told of a connection."""
    about = About(connect.username, address, connect.keep_alive, connect.protocol_version, peer_cert_cn, wall_ms())
    return LocalSession(
        client_id,
        secrets.randbits(63),
        clean_start=connect.clean_start,
        expiry_seconds=session_expiry(connect, expiry_seconds_max),
        about=about,
        will=_stored_will(connect),
    )


def session_expiry(connect: Connect, most: int) -> int:
    """Seconds that the session outlives its connection: what 5.0 asks for; for clean session 0 all that there are."""
    if connect.protocol_version == MQTT_5_0:
        asked = connect.properties.get(SESSION_EXPIRY_INTERVAL, 0)
        return min(asked, most) if isinstance(asked, int) else 0
    return 0 if connect.clean_start else most


def _stored_will(connect: Connect) -> StoredWill | None:
    will = connect.will
    if will is None:
        return None
    delay = will.properties.get(WILL_DELAY_INTERVAL, 0)
    properties = {name: value for name, value in will.properties.items() if name != WILL_DELAY_INTERVAL}
    return StoredWill(will.topic.raw, will.payload, will.retain, delay if isinstance(delay, int) else 0, properties)
