"""From an MQTT topic name to the rules that take it. Pure: rules in, a decision out.

A `Rule` is compiled (`rules` does that); what becomes of a message that it takes is read off it by the flow.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Final, NamedTuple

from proxy.policy.envelopes import Envelope
from proxy.policy.filters import Filter, FilterTrie
from proxy.policy.kafka_topics import KafkaTopics
from proxy.policy.partitioners import Partitioner
from proxy.policy.regexes import Regex, RegexSet
from proxy.policy.templates import Template

#: The only outcome that is not a reason.
MATCHES: Final = "matches"


@dataclass(slots=True)
class Target:
    """A Kafka topic on a cluster; the default cluster has the empty name."""

    topic: Template
    cluster: str = ""


@dataclass(slots=True)
class Rule:
    """Takes a topic name when all tests that it has hold, and says what becomes of the message.

    `partitioner` None is md5; `partition_by_key` says that its answer depends on the key alone. Without a `key` it is
    the MQTT topic, without an `envelope` the value is the payload, `payload_bytes_max` 0 is no limit.
    """

    name: str
    targets: Sequence[Target]
    filter: Filter | None = None
    prefix: str = ""
    contains: str = ""
    regex: Regex | None = None
    key: Template | None = None
    headers: Sequence[tuple[str, Template]] = ()
    partitioner: Partitioner | None = None
    partition_by_key: bool = True
    envelope: Envelope | None = None
    payload_bytes_max: int = 0

    def why_not(self, topic_name: str) -> str | None:
        """Why this rule does not take the name; None when it does."""
        if self.filter is not None and not self.filter.matches(topic_name):
            return f'does not match the filter "{self.filter.text}"'
        if not topic_name.startswith(self.prefix):
            return f'does not begin with "{self.prefix}"'
        if self.contains not in topic_name:
            return f'does not contain "{self.contains}"'
        if self.regex is not None and not self.regex.matches(topic_name):
            return f'does not match the regex "{self.regex.text}"'
        return None

    def captures(self, topic_name: str) -> Mapping[str, str]:
        """What named levels and groups are in a name that it takes."""
        levels = self.filter.captures(topic_name) if self.filter is not None else {}
        return levels | self.regex.captures(topic_name) if self.regex is not None else levels


class Explained(NamedTuple):
    """What one rule said of a topic name."""

    rule: str
    said: str


class RouteTable:
    """The rules in their order: the first that matches decides, or with `match_all` all that do."""

    def __init__(self, rules: Sequence[Rule], names: KafkaTopics, *, match_all: bool = False) -> None:
        self.rules = rules
        #: Which names a template may make of device data.
        self.names = names
        self.match_all = match_all
        self._trie = FilterTrie()
        #: Numbers of the rules that no filter finds.
        self._unfiltered: list[int] = []
        for number, rule in enumerate(rules):
            if rule.filter is not None:
                self._trie.add(rule.filter.levels, number)
            else:
                self._unfiltered.append(number)
        self._regexes = RegexSet({number: rule.regex for number, rule in enumerate(rules) if rule.regex is not None})

    def topics(self, cluster: str = "") -> list[str]:
        """Every Kafka topic on a cluster that a rule names outright."""
        targets = (target for rule in self.rules for target in rule.targets if target.cluster == cluster)
        return list(dict.fromkeys(target.topic.constant for target in targets if target.topic.constant is not None))

    @property
    def clusters(self) -> set[str]:
        """The clusters that rules name."""
        return {target.cluster for rule in self.rules for target in rule.targets}

    def match(self, topic_name: str) -> list[Rule]:
        """The rules that take this name, in their order; one at most unless all are wanted. Names that begin with `$`
        are the server's own: nobody takes them.
        """
        if topic_name.startswith("$"):
            return []
        taking: list[Rule] = []
        regexes: set[int] | None = None
        for number in sorted(self._trie.find(topic_name) + self._unfiltered):
            rule = self.rules[number]
            if not topic_name.startswith(rule.prefix) or rule.contains not in topic_name:
                continue
            if rule.regex is not None:
                if regexes is None:
                    regexes = self._regexes.find(topic_name)
                if number not in regexes:
                    continue
            taking.append(rule)
            if not self.match_all:
                break
        return taking

    def explain(self, topic_name: str) -> list[Explained]:
        """Every rule that was asked, and what it said, up to the one that matched unless all are wanted."""
        if topic_name.startswith("$"):
            return [Explained("all", "a topic that begins with $ is the server's own")]
        explained = []
        for rule in self.rules:
            reason = rule.why_not(topic_name)
            explained.append(Explained(rule.name, reason or MATCHES))
            if reason is None and not self.match_all:
                break
        return explained
