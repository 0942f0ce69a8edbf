"""What one device has subscribed to: asked for in SUBSCRIBE, granted by access control, kept with its session.

A subscription is for messages that the backend sends; nothing that one device publishes reaches another.
"""

import logging
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any, Protocol

from proxy import limits
from proxy.flows.attachment import Attachment
from proxy.mqtt.packets import SUBSCRIPTION_IDENTIFIER, ReasonCode, Subscribe, Subscription, Unsubscribe
from proxy.net.connection import MqttConnection
from proxy.policy.acl import SHARED, SUBSCRIBE
from proxy.policy.subscribers import Subscribed, Subscribers, subscribed, takes, unpacked
from proxy.session.protocol import CLOSED

log = logging.getLogger(__name__)


class Owner(Protocol):
    """The connection; `flows/client.py`."""

    connection: MqttConnection
    attachment: Attachment | None

    def may_subscribe(self, topic_filter: str) -> bool: ...


class Subscriptions:
    """Those of one client; made when it subscribes."""

    __slots__ = ("_all", "_bytes", "_denied", "_mine", "_owner")

    def __init__(self, owner: Owner, everybodys: Subscribers[Any], denied: dict[str, int]) -> None:
        self._owner = owner
        self._all = everybodys
        #: What access control has denied on this replica; `Access.denied`.
        self._denied = denied
        self._mine: dict[str, Subscribed] = {}
        self._bytes = 0

    def __len__(self) -> int:
        return len(self._mine)

    def matching(self, topic_name: str) -> list[Subscribed]:
        """Those that take a message with this topic name."""
        return [each for each in self._mine.values() if takes(each.topic_filter, topic_name)]

    def subscribe(self, subscribe: Subscribe) -> None:
        """A reason code for each topic filter: the QoS that is granted, or why there is none."""
        identifiers = subscribe.properties.get(SUBSCRIPTION_IDENTIFIER)
        identifier = identifiers[0] if isinstance(identifiers, list) and identifiers else None
        number = identifier if isinstance(identifier, int) else None
        # A packet holds a hundred thousand filters; those that could never be granted together are not looked at.
        asked = subscribe.subscriptions[: limits.SUBSCRIPTIONS_PER_CLIENT_MAX]
        reason_codes = [self._subscribe(each, number) for each in asked]
        reason_codes += [ReasonCode.QUOTA_EXCEEDED] * (len(subscribe.subscriptions) - len(asked))
        self._denied[SUBSCRIBE] += reason_codes.count(ReasonCode.NOT_AUTHORIZED)
        self._keep(partial(self._acknowledge_subscribe, subscribe.packet_id, reason_codes))

    def unsubscribe(self, unsubscribe: Unsubscribe) -> None:
        """A reason code for each topic filter. What waits for the device already is still sent."""
        reason_codes = [self._unsubscribe(each) for each in unsubscribe.topic_filters]
        self._keep(partial(self._acknowledge_unsubscribe, unsubscribe.packet_id, reason_codes))

    def restore(self, state: Sequence[object]) -> None:
        """Those that the session brings along, as far as its device may still have them."""
        for entry in state:
            subscription = unpacked(entry)
            if subscription is None:
                log.warning("subscription cannot be read", extra={"entry": repr(entry)[:100]})
            elif self._fits(subscription.topic_filter) and self._owner.may_subscribe(subscription.topic_filter):
                self._add(subscription)
        self._keep()

    def check_again(self) -> None:
        """Drops those that access control no longer allows."""
        denied = [each for each in self._mine if not self._owner.may_subscribe(each)]
        for topic_filter in denied:
            self._remove(topic_filter)
        self._denied[SUBSCRIBE] += len(denied)
        self._keep()

    def close(self) -> None:
        """The connection is over."""
        for topic_filter in list(self._mine):
            self._remove(topic_filter)

    def _keep(self, then: Callable[[], None] | None = None) -> None:
        """In the session's state; `then` tells the device, as soon as it may be told."""
        attachment = self._owner.attachment
        if attachment is not None:
            attachment.keep_subscriptions([each.packed() for each in self._mine.values()], then)

    def _acknowledge_subscribe(self, packet_id: int, reason_codes: list[int]) -> None:
        connection = self._owner.connection
        if connection.protocol.state != CLOSED:
            connection.protocol.acknowledge_subscribe(packet_id, reason_codes)
            connection.flush_soon()

    def _acknowledge_unsubscribe(self, packet_id: int, reason_codes: list[int]) -> None:
        connection = self._owner.connection
        if connection.protocol.state != CLOSED:
            connection.protocol.acknowledge_unsubscribe(packet_id, reason_codes)
            connection.flush_soon()

    def _subscribe(self, subscription: Subscription, identifier: int | None) -> int:
        topic_filter = subscription.topic_filter
        if topic_filter not in self._mine and not self._fits(topic_filter):
            return ReasonCode.QUOTA_EXCEEDED
        # 5.0 was told that there are no shared ones (0x9E); before, they are topics that nobody publishes to.
        if topic_filter.startswith(SHARED) or not self._owner.may_subscribe(topic_filter):
            return ReasonCode.NOT_AUTHORIZED
        self._add(subscribed(subscription, identifier))
        return subscription.qos

    def _fits(self, topic_filter: str) -> bool:
        return (
            len(self._mine) < limits.SUBSCRIPTIONS_PER_CLIENT_MAX
            and self._bytes + len(topic_filter.encode()) <= limits.SUBSCRIPTION_BYTES_PER_CLIENT_MAX
            and topic_filter.count("/") < limits.SUBSCRIPTION_LEVELS_MAX
        )

    def _unsubscribe(self, topic_filter: str) -> int:
        if topic_filter not in self._mine:
            return ReasonCode.NO_SUBSCRIPTION_EXISTED
        self._remove(topic_filter)
        return ReasonCode.SUCCESS

    def _add(self, subscription: Subscribed) -> None:
        topic_filter = subscription.topic_filter
        if topic_filter not in self._mine:
            self._bytes += len(topic_filter.encode())
        self._mine[topic_filter] = subscription
        self._all.add(self._owner, subscription)

    def _remove(self, topic_filter: str) -> None:
        self._bytes -= len(topic_filter.encode())
        del self._mine[topic_filter]
        self._all.remove(self._owner, topic_filter)
