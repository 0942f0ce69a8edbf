"""Who has subscribed to what: from a topic name to all whose filter takes it, without looking at the others. Pure."""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Any, Final, Generic, TypeVar

from proxy.mqtt.packets import Subscription
from proxy.policy.acl import covers

Subscriber = TypeVar("Subscriber")

_RETAIN_AS_PUBLISHED: Final = 0x08


@dataclass(slots=True, frozen=True)
class Subscribed:
    """One subscription. `options` is the byte of SUBSCRIBE (3.8.3.1), `identifier` the Subscription Identifier."""

    topic_filter: str
    options: int
    identifier: int | None = None

    @property
    def qos(self) -> int:
        return self.options & 3

    @property
    def retain_as_published(self) -> bool:
        return bool(self.options & _RETAIN_AS_PUBLISHED)

    def packed(self) -> list[Any]:
        """As the session state has it."""
        entry: list[Any] = [self.topic_filter, self.options]
        return entry if self.identifier is None else [*entry, self.identifier]


def subscribed(subscription: Subscription, identifier: int | None) -> Subscribed:
    """What a SUBSCRIBE asks for."""
    options = (
        subscription.qos
        | subscription.no_local << 2
        | subscription.retain_as_published << 3
        | subscription.retain_handling << 4
    )
    return Subscribed(subscription.topic_filter, options, identifier)


def unpacked(entry: object) -> Subscribed | None:
    """A subscription of the session state; None: it is none."""
    match entry:
        case [str(topic_filter), int(options)] if topic_filter and options & 3 < 3:
            return Subscribed(topic_filter, options)
        case [str(topic_filter), int(options), int(identifier)] if topic_filter and options & 3 < 3 and identifier > 0:
            return Subscribed(topic_filter, options, identifier)
    return None


def takes(topic_filter: str, topic_name: str) -> bool:
    """Whether a filter matches a topic name."""
    return topic_filter == topic_name or covers(topic_filter.split("/"), topic_name.split("/"))


class _Node(Generic[Subscriber]):
    __slots__ = ("children", "here", "rest")

    def __init__(self) -> None:
        self.children: dict[str, _Node[Subscriber]] = {}
        #: Whose filter ends here, and whose ends here with a `#`; made when there is one.
        self.here: dict[Subscriber, Subscribed] | None = None
        self.rest: dict[Subscriber, Subscribed] | None = None

    @property
    def is_empty(self) -> bool:
        return not self.children and not self.here and not self.rest


class Subscribers(Generic[Subscriber]):
    """All subscriptions of a replica. A look-up visits only branches that match so far."""

    def __init__(self) -> None:
        self._root: _Node[Subscriber] = _Node()
        self._count = 0

    def __len__(self) -> int:
        return self._count

    def add(self, subscriber: Subscriber, subscription: Subscribed) -> None:
        """A subscriber that has this filter already has it with the new options [MQTT-3.8.4-3]."""
        node, ends_with_rest = self._root, False
        for level in subscription.topic_filter.split("/"):
            if level == "#":
                ends_with_rest = True
            else:
                node = node.children.setdefault(level, _Node())
        if ends_with_rest:
            there = node.rest = node.rest if node.rest is not None else {}
        else:
            there = node.here = node.here if node.here is not None else {}
        self._count += subscriber not in there
        there[subscriber] = subscription

    def remove(self, subscriber: Subscriber, topic_filter: str) -> None:
        """The subscription is there. What nobody needs any more is taken down with it."""
        path: list[tuple[_Node[Subscriber], str]] = []
        node = self._root
        levels = topic_filter.split("/")
        for level in levels:
            if level != "#":
                path.append((node, level))
                node = node.children[level]
        there = node.rest if levels[-1] == "#" else node.here
        if there is None or subscriber not in there:
            raise KeyError(topic_filter)
        del there[subscriber]
        self._count -= 1
        while path and node.is_empty:
            node, level = path.pop()
            del node.children[level]

    def find(self, topic_name: str) -> dict[Subscriber, list[Subscribed]]:
        """All whose filters match, each with those of his that do."""
        found: dict[Subscriber, list[Subscribed]] = {}
        levels = topic_name.split("/")
        nodes = [self._root]
        for depth, level in enumerate(levels):
            # [MQTT-4.7.2-1]
            wildcards = depth > 0 or not level.startswith("$")
            deeper: list[_Node[Subscriber]] = []
            for node in nodes:
                if node.rest and wildcards:
                    _collect(node.rest, found)
                deeper += _children(node, level, "+" if wildcards else level)
            nodes = deeper
            if not nodes:
                return found
        for node in nodes:
            for there in (node.here, node.rest):
                if there:
                    _collect(there, found)
        return found


def _children(node: _Node[Subscriber], level: str, wildcard: str) -> Iterator[_Node[Subscriber]]:
    exact = node.children.get(level)
    if exact is not None:
        yield exact
    wild = node.children.get(wildcard) if wildcard != level else None
    if wild is not None:
        yield wild


def _collect(there: dict[Subscriber, Subscribed], found: dict[Subscriber, list[Subscribed]]) -> None:
    for subscriber, subscription in there.items():
        found.setdefault(subscriber, []).append(subscription)


def qos_of(subscriptions: Iterable[Subscribed]) -> int:
    """Of several that take a message the highest counts [MQTT-3.3.4-2]; 3.1.1: [MQTT-3.3.5-1]."""
    return max(each.qos for each in subscriptions)
