"""What one device has subscribed to: asked for in SUBSCRIBE, granted by access control, kept with its session.

A subscription is for messages that the backend sends; nothing that one device publishes reaches another.
"""

import logging
from collections.abc import Callable, Sequence
from typing import Any

from proxy import limits
from proxy.mqtt.packets import SUBSCRIPTION_IDENTIFIER, ReasonCode, Subscribe, Subscription, Unsubscribe
from proxy.policy.acl import SHARED
from proxy.policy.subscribers import Subscribed, Subscribers, subscribed, takes, unpacked

log = logging.getLogger(__name__)


class Subscriptions:
    """Those of one client, `owner`; made when it subscribes. `allowed` says whether it may have a topic filter."""

    __slots__ = ("_all", "_allowed", "_bytes", "_mine", "_owner")

    def __init__(self, owner: Any, everybodys: Subscribers[Any], allowed: Callable[[str], bool]) -> None:
        self._owner = owner
        self._all = everybodys
        self._allowed = allowed
        self._mine: dict[str, Subscribed] = {}
        self._bytes = 0

    def __len__(self) -> int:
        return len(self._mine)

    def state(self) -> list[list[Any]]:
        """As the session state has them."""
        return [each.packed() for each in self._mine.values()]

    def matching(self, topic_name: str) -> list[Subscribed]:
        """Those that take a message with this topic name."""
        return [each for each in self._mine.values() if takes(each.topic_filter, topic_name)]

    def subscribe(self, subscribe: Subscribe) -> list[int]:
        """A reason code for each topic filter: the QoS that is granted, or why there is none."""
        identifiers = subscribe.properties.get(SUBSCRIPTION_IDENTIFIER)
        identifier = identifiers[0] if isinstance(identifiers, list) and identifiers else identifiers
        number = identifier if isinstance(identifier, int) else None
        return [self._subscribe(each, number) for each in subscribe.subscriptions]

    def unsubscribe(self, unsubscribe: Unsubscribe) -> list[int]:
        """A reason code for each topic filter. What waits for the device already is still sent."""
        return [self._unsubscribe(each) for each in unsubscribe.topic_filters]

    def restore(self, state: Sequence[object]) -> None:
        """Those that the session brings along, as far as its device may still have them."""
        for entry in state:
            subscription = unpacked(entry)
            if subscription is None:
                log.warning("subscription cannot be read", extra={"entry": repr(entry)[:100]})
            elif self._allowed(subscription.topic_filter) and self._fits(subscription.topic_filter):
                self._add(subscription)

    def check_again(self) -> int:
        """Drops those that access control no longer allows; returns how many."""
        denied = [each for each in self._mine if not self._allowed(each)]
        for topic_filter in denied:
            self._remove(topic_filter)
        return len(denied)

    def close(self) -> None:
        """The connection is over."""
        for topic_filter in list(self._mine):
            self._remove(topic_filter)

    def _subscribe(self, subscription: Subscription, identifier: int | None) -> int:
        topic_filter = subscription.topic_filter
        # 5.0 was told that there are none of these (0x9E); before, they are topics that nobody publishes to.
        if topic_filter.startswith(SHARED) or not self._allowed(topic_filter):
            return ReasonCode.NOT_AUTHORIZED
        if topic_filter not in self._mine and not self._fits(topic_filter):
            return ReasonCode.QUOTA_EXCEEDED
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
