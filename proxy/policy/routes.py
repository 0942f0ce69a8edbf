"""From an MQTT topic name to a Kafka topic. Pure: rules in, a decision out."""

from dataclasses import dataclass
from typing import Final


@dataclass(slots=True, frozen=True)
class Rule:
    """Takes a topic name that begins with `prefix` and contains `contains`, as plain text."""

    name: str
    topic: str
    prefix: str = ""
    contains: str = ""

    def why_not(self, topic_name: str) -> str | None:
        """Why this rule does not take the name; None when it does."""
        if not topic_name.startswith(self.prefix):
            return f'does not begin with "{self.prefix}"'
        if self.contains not in topic_name:
            return f'does not contain "{self.contains}"'
        return None


#: The rules of the system that this product replaces, in its order: "contains" looks at the whole name.
_TLINK: Final = (("ota", "ota"), ("sub_register", "sub/register"), ("sub_status", "sub/login"), ("msg", ""))
#: The topic of the unmodified `emqx_plugin_kafka`.
_SINGLE_TOPIC: Final = "emqx-topic"


def preset_rules(preset: str, topic_prefix: str) -> list[Rule]:
    """The rules of `routing.preset`: tlink, single or none."""
    if preset == "tlink":
        return [Rule(name, topic_prefix + name, "tlink/", contains) for name, contains in _TLINK]
    return [Rule("single", _SINGLE_TOPIC)] if preset == "single" else []


class RouteTable:
    """The rules in their order; the first that matches decides."""

    def __init__(self, rules: list[Rule]) -> None:
        self._rules = rules

    @property
    def topics(self) -> list[str]:
        """Every Kafka topic that a rule names."""
        return list(dict.fromkeys(rule.topic for rule in self._rules))

    def match(self, topic_name: str) -> Rule | None:
        """The rule that takes this name. Names that begin with `$` are the server's own: nobody takes them."""
        if topic_name.startswith("$"):
            return None
        for rule in self._rules:
            if rule.why_not(topic_name) is None:
                return rule
        return None

    def explain(self, topic_name: str) -> list[tuple[str, str]]:
        """Every rule that was asked, and what it said, up to the one that matched."""
        if topic_name.startswith("$"):
            return [("all", "a topic that begins with $ is the server's own")]
        said = []
        for rule in self._rules:
            reason = rule.why_not(topic_name)
            said.append((rule.name, reason or "matches"))
            if reason is None:
                break
        return said
