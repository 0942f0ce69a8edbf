"""Who may publish where and who may subscribe to what: the rules of `acl.file`. Pure.

One rule a line, the first that applies decides:

    allow|deny  publish|subscribe|all  all|user NAME|client ID|ipaddr CIDR  FILTER...

A topic is published to when a filter of the rule matches it. A subscription asks for all topics that its filter takes:
an `allow` grants it when one of its filters covers all of them, a `deny` refuses it when one of its filters takes any.
"""

import ipaddress
import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from heapq import merge
from typing import Final

from proxy import limits
from proxy.errors import ConfigError, MqttError
from proxy.mqtt.topics import parse_topic_filter

PUBLISH: Final = "publish"
SUBSCRIBE: Final = "subscribe"
ALL: Final = "all"
SHARED: Final = "$share/"

_WORD: Final = re.compile(r'"([^"]*)"|([^\s"]+)')
_VARIABLE: Final = re.compile(r"\$\{([^}]*)\}?")
_VARIABLES: Final = frozenset({"clientid", "username"})
#: What a name may not contain that stands for a part of a filter: it would be a wildcard, or more than one level.
_SPECIAL: Final = frozenset("+#/")
_Network = ipaddress.IPv4Network | ipaddress.IPv6Network


@dataclass(slots=True, frozen=True)
class Who:
    """A device, as the rules know it."""

    client_id: str
    username: str | None
    address: str


class _Filter:
    """A topic filter in which `${clientid}` and `${username}` may stand."""

    __slots__ = ("_levels", "_varies")

    def __init__(self, text: str) -> None:
        self._levels = text.split("/")
        self._varies = "${" in text

    def levels(self, who: Who) -> list[str] | None:
        """Its levels for a device; None: it takes nothing, as the device has no such name or one that means more."""
        if not self._varies:
            return self._levels
        values = {"clientid": who.client_id, "username": who.username or ""}
        for name, value in values.items():
            used = any(f"${{{name}}}" in level for level in self._levels)
            if used and (not value or not _SPECIAL.isdisjoint(value)):
                return None
        return [_VARIABLE.sub(lambda found: values[found[1]], level) for level in self._levels]


@dataclass(slots=True, frozen=True)
class Rule:
    """One line."""

    number: int
    allow: bool
    action: str
    filters: tuple[_Filter, ...]
    network: _Network | None = None


class Acl:
    """All rules, and what is true where none applies."""

    def __init__(self, publish_default: bool = True, subscribe_default: bool = False) -> None:
        self._defaults = {PUBLISH: publish_default, SUBSCRIBE: subscribe_default}
        #: By whom they concern, so that a file with a rule for each device costs a device its own.
        self._for_all: list[Rule] = []
        self._by_user: dict[str, list[Rule]] = {}
        self._by_client: dict[str, list[Rule]] = {}
        self.rules = 0

    def allows_publish(self, topic_name: str, who: Who) -> bool:
        """Whether a device may publish to this topic."""
        topic = topic_name.split("/")
        for rule, levels in self._asked(PUBLISH, who):
            if covers(levels, topic):
                return rule.allow
        return self._defaults[PUBLISH]

    def allows_subscribe(self, topic_filter: str, who: Who) -> bool:
        """Whether a device may have all messages that this filter takes."""
        wanted = topic_filter.split("/")
        for rule, levels in self._asked(SUBSCRIBE, who):
            if covers(levels, wanted) if rule.allow else overlaps(levels, wanted):
                return rule.allow
        return self._defaults[SUBSCRIBE]

    def add(self, rule: Rule, kind: str, name: str) -> None:
        """The next rule."""
        if kind == "user":
            self._by_user.setdefault(name, []).append(rule)
        elif kind == "client":
            self._by_client.setdefault(name, []).append(rule)
        else:
            self._for_all.append(rule)
            if len(self._for_all) > limits.ACL_RULES_FOR_ALL_MAX:
                raise ValueError(f"more than {limits.ACL_RULES_FOR_ALL_MAX} rules for all or for addresses")
        self.rules += 1
        if self.rules > limits.ACL_RULES_MAX:
            raise ValueError(f"more than {limits.ACL_RULES_MAX} rules")

    def _asked(self, action: str, who: Who) -> Iterator[tuple[Rule, list[str]]]:
        """What the rules for this device say of it, filter by filter, in the order of the file."""
        mine = self._by_user.get(who.username, ()) if who.username is not None else ()
        for rule in merge(self._for_all, mine, self._by_client.get(who.client_id, ()), key=_number):
            if rule.action in {action, ALL} and (rule.network is None or _is_in(who.address, rule.network)):
                for each in rule.filters:
                    levels = each.levels(who)
                    if levels is not None:
                        yield rule, levels


def _number(rule: Rule) -> int:
    return rule.number


def _is_in(address: str, network: _Network) -> bool:
    """An address that is none, as a record may have it or a socket without a peer, is in no network."""
    try:
        return ipaddress.ip_address(address) in network
    except ValueError:
        return False


def covers(levels: list[str], other: list[str]) -> bool:
    """Whether the filter of these levels takes every topic that the other takes; the other may be a topic name."""
    if other[0].startswith("$") and levels[0] in {"+", "#"}:
        return False  # [MQTT-4.7.2-1]
    for index, level in enumerate(levels):
        if level == "#":
            return True
        if index == len(other) or other[index] == "#" or level not in {"+", other[index]}:
            return False
    return len(levels) == len(other)


def overlaps(levels: list[str], other: list[str]) -> bool:
    """Whether there is a topic that both filters take."""
    if {levels[0], other[0]} & {"+", "#"} and (levels[0].startswith("$") or other[0].startswith("$")):
        return False
    for one, two in zip(levels, other, strict=False):
        if "#" in {one, two}:
            return True
        if one != two and "+" not in {one, two}:
            return False
    longer = max(levels, other, key=len)
    return len(levels) == len(other) or longer[min(len(levels), len(other)) :] == ["#"]


def parse_acl(text: str, name: str, *, publish_default: bool = True, subscribe_default: bool = False) -> Acl:
    """The rules of a file. Raises ConfigError that names the file and the line."""
    acl = Acl(publish_default, subscribe_default)
    for number, line in enumerate(text.split("\n"), 1):
        if line.strip() and not line.lstrip().startswith("#"):
            try:
                _add(acl, number, _words(line))
            except ValueError as error:
                raise ConfigError(f"{name}:{number}", str(error)) from None
    return acl


def _words(line: str) -> list[str]:
    """Parted by blanks; what contains some stands in quotes."""
    rest = _WORD.sub("", line)
    if rest.strip():
        raise ValueError("a quote is not closed")
    return [found[1] if found[1] is not None else found[2] for found in _WORD.finditer(line)]


def _add(acl: Acl, number: int, words: list[str]) -> None:
    it = iter(words)
    verdict = _one_of(next(it, ""), ("allow", "deny"))
    action = _one_of(next(it, ""), (PUBLISH, SUBSCRIBE, ALL))
    kind = _one_of(next(it, ""), ("all", "user", "client", "ipaddr"))
    name = "" if kind == "all" else next(it, "")
    if kind != "all" and not name:
        raise ValueError(f"{kind} of whom?")
    filters = tuple(_filters(it))
    if not filters:
        raise ValueError("a topic filter is missing at the end; # takes all topics")
    network = _network(name) if kind == "ipaddr" else None
    acl.add(Rule(number, verdict == "allow", action, filters, network), kind, name)


def _one_of(word: str, known: tuple[str, ...]) -> str:
    if word not in known:
        raise ValueError(f"{', '.join(known[:-1])} or {known[-1]} is expected, not {word!r}")
    return word


def _filters(words: Iterable[str]) -> Iterator[_Filter]:
    for word in words:
        for variable in _VARIABLE.finditer(word):
            if variable[1] not in _VARIABLES or not variable[0].endswith("}"):
                raise ValueError(f"{word}: ${{clientid}} and ${{username}} can be put in, not {variable[0]}")
        if word.startswith(SHARED):
            raise ValueError(f"{word}: shared subscriptions are never granted")
        try:
            parse_topic_filter(_VARIABLE.sub("x", word).encode())
        except MqttError as error:
            raise ValueError(f"{word}: {error}") from None
        yield _Filter(word)


def _network(text: str) -> _Network:
    try:
        return ipaddress.ip_network(text, strict=False)
    except ValueError:
        raise ValueError(f"{text} is no address and no network, as in 10.0.0.0/8") from None
