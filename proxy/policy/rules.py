"""Rules as they are written become rules as they are obeyed: compiled, checked, each complaint names its rule. Pure."""

from collections.abc import Callable, Mapping, Sequence
from collections.abc import Set as AbstractSet
from dataclasses import dataclass, field
from typing import Final, TypeVar

from proxy.errors import ConfigError
from proxy.limits import ROUTING_RULES_MAX
from proxy.policy.envelopes import ENVELOPES
from proxy.policy.filters import FilterTrie, parse_filter
from proxy.policy.kafka_topics import KafkaTopics
from proxy.policy.partitioners import parse_partitioner
from proxy.policy.regexes import MissingExtraError, Regex
from proxy.policy.routes import RouteTable, Rule, Target
from proxy.policy.templates import RESERVED, Template, compile_template

_Given = TypeVar("_Given")
_Made = TypeVar("_Made")


@dataclass(slots=True)
class RuleSpec:
    """One `[[routing.rules]]`; a `topic` is a template, with `@cluster` behind it when it is not the default one."""

    topic: Sequence[str]
    name: str = ""
    filter: str | None = None
    prefix: str | None = None
    contains: str | None = None
    regex: str | None = None
    key: str | None = None
    headers: Mapping[str, str] = field(default_factory=dict)
    partitioner: str = "md5"
    value: str = "raw"
    payload_bytes_max: int = 0


@dataclass(slots=True)
class RoutingContext:
    """What rules are compiled against: `kafka.topic_prefix`, `node.id`, the clusters that exist and so on."""

    prefix: str = ""
    node: str = ""
    internal_prefix: str = "_mqk_"
    allowed_topics: Sequence[str] = ()
    clusters: AbstractSet[str] = frozenset({""})
    match_all: bool = False

    @property
    def constants(self) -> dict[str, str]:
        return {"prefix": self.prefix, "node": self.node}


#: The rules of the system that this product replaces, in its order: "contains" looks at the whole name.
_TLINK: Final = (("ota", "ota"), ("sub_register", "sub/register"), ("sub_status", "sub/login"), ("msg", None))
#: The topic of the unmodified `emqx_plugin_kafka`.
_SINGLE_TOPIC: Final = "emqx-topic"


def preset_specs(preset: str) -> list[RuleSpec]:
    """The rules of `routing.preset`: tlink, single or none."""
    if preset == "tlink":
        return [RuleSpec([f"${{prefix}}{name}"], name, prefix="tlink/", contains=contains) for name, contains in _TLINK]
    return [RuleSpec([_SINGLE_TOPIC], "single", filter="#")] if preset == "single" else []


def compile_routes(specs: Sequence[RuleSpec], context: RoutingContext) -> RouteTable:
    """Raises ConfigError that names the rule."""
    if len(specs) > ROUTING_RULES_MAX:
        raise ConfigError("routing.rules", f"{len(specs)} rules, at most {ROUTING_RULES_MAX}")
    names = KafkaTopics(context.prefix, context.internal_prefix, context.allowed_topics)
    rules: list[Rule] = []
    used: dict[str, int] = {}
    coverage = _Coverage()
    for number, spec in enumerate(specs):
        try:
            rule = _compile(spec, f"rules[{number}]", context, names)
            _refuse_contradiction(rule)
            if rule.name in used:
                raise ValueError(f"routing.rules[{used[rule.name]}] has this name too")
            if not context.match_all:
                coverage.refuse_unreachable(rule)
        except (ValueError, MissingExtraError) as error:
            raise ConfigError(_called(number, spec), str(error)) from None
        used[rule.name] = number
        rules.append(rule)
    return RouteTable(rules, names, match_all=context.match_all)


def _called(number: int, spec: RuleSpec) -> str:
    return f"routing.rules[{number}]" + (f' "{spec.name}"' if spec.name else "")


def _compile(spec: RuleSpec, default_name: str, context: RoutingContext, names: KafkaTopics) -> Rule:
    if spec.filter is None and spec.prefix is None and spec.contains is None and spec.regex is None:
        raise ValueError('takes nothing: give it filter, prefix, contains or regex; filter = "#" takes everything')
    rule = Rule(spec.name or default_name, (), prefix=spec.prefix or "", contains=spec.contains or "")
    if spec.filter is not None:
        rule.filter = _about("filter", parse_filter, spec.filter)
    if spec.regex is not None:
        rule.regex = _about("regex", Regex, spec.regex)
    captures = _capture_names(rule)

    def template(what: str, text: str) -> Template:
        return _about(what, lambda each: compile_template(each, context.constants, captures), text)

    rule.targets = _targets(spec.topic, template, context, names)
    rule.key = template("key", spec.key) if spec.key is not None else None
    rule.headers = [(name, template(f'header "{name}"', text)) for name, text in spec.headers.items()]
    rule.partitioner, rule.partition_by_key = _about("partitioner", parse_partitioner, spec.partitioner)
    rule.envelope = ENVELOPES[spec.value]
    rule.payload_bytes_max = spec.payload_bytes_max
    return rule


def _about(what: str, make: Callable[[_Given], _Made], given: _Given) -> _Made:
    """`make(given)`, whose complaint begins with what it is about."""
    try:
        return make(given)
    except ValueError as error:
        raise ValueError(f"{what}: {error}") from None
    except MissingExtraError as error:
        raise MissingExtraError(f"{what} {error}") from None


def _capture_names(rule: Rule) -> list[str]:
    """Names of levels and groups. Raises ValueError: a name means something else already."""
    levels = list(rule.filter.names) if rule.filter is not None else []
    groups = list(rule.regex.names) if rule.regex is not None else []
    for name in (*levels, *groups):
        if name in RESERVED:
            raise ValueError(f"{name} is a variable already: give the level or group another name")
        if name in levels and name in groups:
            raise ValueError(f"{name} names both a level of the filter and a group of the regex")
    return [*levels, *groups]


def _targets(
    texts: Sequence[str], template: Callable[[str, str], Template], context: RoutingContext, names: KafkaTopics
) -> list[Target]:
    targets = []
    for text in texts:
        # Kafka's topics have no @ in their names, variables may.
        variables, brace, rest = text.rpartition("}")
        name, _, cluster = rest.partition("@")
        if "@" in rest and cluster not in context.clusters - {""}:
            raise ValueError(f'topic: "{text}": there is no [kafka.clusters.{cluster}]')
        target = Target(template("topic", variables + brace + name), cluster)
        made = target.topic.constant
        objection = names.objection(made) if made is not None else None
        if objection is not None:
            raise ValueError(f"topic: {objection.detail}")
        targets.append(target)
    return targets


def _beginning(rule: Rule) -> str:
    """The longest text that every name begins with which the rule takes."""
    return max(rule.prefix, rule.filter.head if rule.filter is not None else "", key=len)


def _refuse_contradiction(rule: Rule) -> None:
    """Raises ValueError: no name passes all tests of this rule."""
    beginning = _beginning(rule)
    if beginning.startswith("$"):
        raise ValueError("can never match: a topic that begins with $ is the server's own, nothing there is forwarded")
    if rule.filter is None:
        return
    head = rule.filter.head
    if not beginning.startswith(rule.prefix) or not beginning.startswith(head):
        raise ValueError(f'can never match: nothing that the filter takes begins with "{rule.prefix}"')
    reason = rule.why_not(head) if rule.filter.is_exact else None
    if reason is not None:
        raise ValueError(f'can never match: the filter takes "{head}" alone, which {reason}')


class _Coverage:
    """The rules so far, to find out whether they leave anything to the next one."""

    def __init__(self) -> None:
        self._trie = FilterTrie()
        self._rules: list[Rule] = []
        #: Rules without a filter by their prefix.
        self._unfiltered: dict[str, list[Rule]] = {}

    def refuse_unreachable(self, rule: Rule) -> None:
        """Adds a rule. Raises ValueError: an earlier one takes everything that it would take, as far as can be told
        without looking into regular expressions.
        """
        beginning = _beginning(rule)
        for length in range(len(beginning) + 1):
            for earlier in self._unfiltered.get(beginning[:length], ()):
                _refuse_if_covered(rule, beginning, earlier)
        # Without a filter: one that takes what begins with the same whole levels, and more.
        levels = rule.filter.levels if rule.filter is not None else [*beginning.split("/")[:-1], "#"]
        for number in sorted(self._trie.covering(levels)):
            _refuse_if_covered(rule, beginning, self._rules[number])
        if rule.filter is None:
            self._unfiltered.setdefault(rule.prefix, []).append(rule)
        else:
            self._trie.add(levels, len(self._rules))
        self._rules.append(rule)


def _refuse_if_covered(rule: Rule, beginning: str, earlier: Rule) -> None:
    """`earlier` has no filter, or one that takes all that the filter of `rule` takes."""
    if (
        beginning.startswith(earlier.prefix)
        and (earlier.contains in beginning or earlier.contains in rule.contains)
        and (earlier.regex is None or (rule.regex is not None and rule.regex.text == earlier.regex.text))
    ):
        raise ValueError(f'can never be reached: "{earlier.name}" before it takes everything that it would take')
