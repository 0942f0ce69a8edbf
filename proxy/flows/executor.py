"""What one replica does with a command on its own connections; the other replicas do the same with theirs."""

from collections.abc import Iterable

from proxy import limits
from proxy.cluster.commands import ACL_CLEAN, DELIVER, KICK, Command, Selector
from proxy.errors import MqttError
from proxy.flows.client import Client
from proxy.flows.downlink import EXPIRED, NOT_SUBSCRIBED, TOO_LARGE, Delivery, Downlink, Parcel, Report
from proxy.flows.uplink import Uplink
from proxy.mqtt.packets import ReasonCode
from proxy.mqtt.topics import TopicName, parse_topic_name
from proxy.policy.subscribers import Subscribed

#: The outcome of a kick and of a clean.
DONE = "done"

#: The longest text of MQTT, in bytes.
_TEXT_BYTES_MAX = 65_535


class Executor:
    """Acts on the connections of one replica."""

    def __init__(self, uplink: Uplink, downlink: Downlink) -> None:
        self._uplink = uplink
        self._downlink = downlink

    def execute(self, command: Command, report: Report) -> list[str]:
        """The client identifiers that are hit. For each of them `report(client_id, outcome)` is called once, now or
        later. A client that is named and not connected here is not hit; with nobody named a message is for all who
        have subscribed to its topic.
        """
        if command.kind == DELIVER:
            return self._deliver(command, report)
        clients = [each for each in self._named(command.selector) if command.epoch in {None, each.epoch}]
        if command.kind == KICK:
            self._kick(clients)
        elif command.kind == ACL_CLEAN:
            for client in clients:
                client.clean_acl()
        else:
            raise ValueError(f"{command.kind} is no kind of command")
        self._forget_logins(command.selector, clients)
        hit = [each.client_id for each in clients]
        for client_id in hit:
            report(client_id, DONE)
        return hit

    # ---- kick and acl_clean ----

    def _named(self, selector: Selector) -> list[Client]:
        """All that are meant, those too that still wait to be let in."""
        uplink = self._uplink
        waiting = [each for each in uplink.connecting if selector.matches(each.client_id, each.username)]
        return self._connected(selector) + waiting

    def _kick(self, clients: list[Client]) -> None:
        for client in clients[: limits.KICKS_AT_ONCE_MAX]:
            client.disconnect(ReasonCode.ADMINISTRATIVE_ACTION, "disconnected by the operator")
        for client in clients[limits.KICKS_AT_ONCE_MAX :]:
            self._uplink.goodbyes.say(client, ReasonCode.ADMINISTRATIVE_ACTION, "disconnected by the operator")

    def _forget_logins(self, selector: Selector, clients: Iterable[Client]) -> None:
        chain = self._uplink.chain
        if selector.client_id is None and selector.username is None:
            chain.forget(None)
        for username in {selector.username, *(each.username for each in clients)}:
            if username is not None:
                chain.forget(username)

    # ---- deliver ----

    def _connected(self, selector: Selector) -> list[Client]:
        uplink = self._uplink
        found: Iterable[Client]
        if selector.client_id is not None:
            one = uplink.clients.get(selector.client_id)
            found = [one] if one is not None else []
        elif selector.username is not None:
            found = uplink.usernames.clients(selector.username)
        else:
            found = uplink.clients.values()
        return [each for each in found if each.is_connected and selector.matches(each.client_id, each.username)]

    def _deliver(self, command: Command, report: Report) -> list[str]:
        message, selector = command.message, command.selector
        topic = _topic(message.topic) if message is not None else None
        if message is None or topic is None:
            return []
        found: dict[Client, list[Subscribed]]
        if selector.client_id is None and selector.username is None:
            found = self._uplink.subscribers.find(topic.name)
        else:
            found = {client: client.matching(topic.name) for client in self._connected(selector)}
        parcel = Parcel(command, message, topic)
        fits = all(len(text.encode()) <= _TEXT_BYTES_MAX for pair in parcel.user_properties for text in pair)
        for client, subscriptions in found.items():
            self._hand_over(client, subscriptions, parcel, report, fits=fits)
        return [client.client_id for client in found]

    def _hand_over(
        self, client: Client, subscriptions: list[Subscribed], parcel: Parcel, report: Report, *, fits: bool
    ) -> None:
        downlink = self._downlink
        if not subscriptions:
            downlink.refuse(client.client_id, report, NOT_SUBSCRIBED)
            return
        delivery = Delivery(parcel, subscriptions, report, downlink.now() + downlink.ack_timeout_seconds)
        if not fits:
            downlink.settle(client.client_id, delivery, TOO_LARGE)
        elif delivery.is_expired(downlink.now_ms()):
            downlink.settle(client.client_id, delivery, EXPIRED)
        else:
            client.outbox_of(downlink).put(delivery)


def _topic(name: str) -> TopicName | None:
    """None when it is none that a message can have: that reaches nobody."""
    try:
        topic = parse_topic_name(name.encode())
    except (MqttError, UnicodeEncodeError):
        return None
    return topic if 0 < len(topic.raw) <= _TEXT_BYTES_MAX else None
