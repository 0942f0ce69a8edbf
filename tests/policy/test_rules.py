"""Rules as they are written: what they take together, and what is said of each that cannot be obeyed."""

import sys

import pytest
from hypothesis import given
from hypothesis import strategies as st

from proxy.errors import ConfigError
from proxy.limits import ROUTING_RULES_MAX
from proxy.policy.routes import RouteTable
from proxy.policy.rules import RoutingContext, RuleSpec, compile_routes

CONTEXT = RoutingContext("t_", "node-7", clusters={"", "backup"})


def table(*specs: RuleSpec, match_all: bool = False) -> RouteTable:
    return compile_routes(specs, RoutingContext("t_", "node-7", clusters={"", "backup"}, match_all=match_all))


def names(routes: RouteTable, topic: str) -> list[str]:
    return [rule.name for rule in routes.match(topic)]


def complaint(*specs: RuleSpec, context: RoutingContext = CONTEXT) -> ConfigError:
    with pytest.raises(ConfigError) as raised:
        compile_routes(specs, context)
    return raised.value


# ---- what they take ----


def test_the_first_rule_that_matches_decides() -> None:
    routes = table(
        RuleSpec(["x"], "regex", regex="^a/[0-9]+$"),
        RuleSpec(["x"], "filter", filter="a/+"),
        RuleSpec(["x"], "contains", contains="/b"),
        RuleSpec(["x"], "prefix", prefix="c/"),
        RuleSpec(["x"], "rest", filter="#"),
    )
    found = {topic: names(routes, topic) for topic in ("a/1", "a/b", "x/b/c", "c/d", "c/b", "y")}
    assert found == {
        "a/1": ["regex"], "a/b": ["filter"], "x/b/c": ["contains"], "c/d": ["prefix"], "c/b": ["contains"],
        "y": ["rest"],
    }  # fmt: skip


def test_all_rules_that_match() -> None:
    routes = table(
        RuleSpec(["x"], "prefix", prefix="a"),
        RuleSpec(["x"], "filter", filter="a/#"),
        RuleSpec(["x"], "other", filter="b/#"),
        RuleSpec(["x"], "regex", regex="b$"),
        match_all=True,
    )
    assert names(routes, "a/b") == ["prefix", "filter", "regex"]
    assert names(routes, "c") == []
    assert [said for _, said in routes.explain("a/b")] == [
        "matches", "matches", 'does not match the filter "b/#"', "matches",
    ]  # fmt: skip


def test_all_tests_of_a_rule_must_hold() -> None:
    routes = table(RuleSpec(["x"], "all", filter="a/{b}/#", prefix="a/x", contains="/up", regex="[0-9]$"))
    taken = [
        topic for topic in ("a/x/up1", "a/x/up", "a/y/up1", "a/x/dn1", "b/x/up1", "a/xy/z/up9") if names(routes, topic)
    ]
    assert taken == ["a/x/up1", "a/xy/z/up9"]
    said = [routes.explain(topic)[0].said for topic in ("b/x/up1", "a/y/up1", "a/x/dn1", "a/x/up")]
    assert said == [
        'does not match the filter "a/{b}/#"', 'does not begin with "a/x"', 'does not contain "/up"',
        'does not match the regex "[0-9]$"',
    ]  # fmt: skip


def test_variables_of_filter_and_regex_come_together() -> None:
    (rule,) = table(RuleSpec(["x"], filter="a/{device}/#", regex="/v(?P<version>[0-9]+)")).match("a/d1/v12")
    assert rule.captures("a/d1/v12") == {"device": "d1", "version": "12"}


TOPICS = st.lists(st.sampled_from(["a", "b", "$a", ""]), min_size=1, max_size=4).map("/".join)
TESTS = st.one_of(
    st.sampled_from(["a/+", "a/#", "#", "+/b", "a/b/#", "+"]).map(lambda text: {"filter": text}),
    st.sampled_from(["a", "a/", "b", ""]).map(lambda text: {"prefix": text}),
    st.sampled_from(["b", "/a", "ab"]).map(lambda text: {"contains": text}),
    st.sampled_from(["^a", "b$", "a/.*b", "x"]).map(lambda text: {"regex": text}),
)
RULES = st.lists(st.tuples(TESTS, TESTS).map(lambda pair: pair[0] | pair[1]), max_size=8)


@given(RULES, TOPICS, st.booleans())
def test_match_and_explain_agree(rules: list[dict[str, str]], topic: str, match_all: bool) -> None:
    specs = []
    for each in rules:
        # Whatever can be reached behind those before it.
        try:
            table(*specs, RuleSpec(["x"], **each), match_all=match_all)
        except ConfigError:
            continue
        specs.append(RuleSpec(["x"], **each))
    routes = table(*specs, match_all=match_all)
    assert names(routes, topic) == [rule for rule, said in routes.explain(topic) if said == "matches"]


@given(RULES, st.lists(TOPICS, max_size=40))
def test_what_is_called_unreachable_takes_nothing(rules: list[dict[str, str]], topics: list[str]) -> None:
    for number, each in enumerate(rules):
        specs = [RuleSpec(["x"], **other) for other in (*rules[:number], each)]
        try:
            table(*specs)
        except ConfigError as error:
            last = error.setting == f"routing.rules[{number}]"
            routes = table(*specs, match_all=True) if last and "reached" in error.message else None
            reached = [topic for topic in topics if routes and names(routes, topic) == [f"rules[{number}]"]]
            assert reached == []
            return


# ---- targets ----


def test_targets() -> None:
    (rule,) = table(RuleSpec(["${prefix}a", "b@backup", "${prop.x@y}-c", "${topic.1}@backup"], filter="#")).rules
    assert [(target.topic.text, target.cluster) for target in rule.targets] == [
        ("${prefix}a", ""), ("b", "backup"), ("${prop.x@y}-c", ""), ("${topic.1}", "backup"),
    ]  # fmt: skip
    routes = table(RuleSpec(["a", "b@backup", "${topic}"], filter="#"))
    assert (routes.topics(), routes.topics("backup"), routes.clusters) == (["a"], ["b"], {"", "backup"})


# ---- what is wrong with them ----


@pytest.mark.parametrize(
    ("spec", "message"),
    [
        (RuleSpec(["x"]), "takes nothing: give it filter, prefix, contains or regex"),
        (RuleSpec(["x"], filter="a/#/b"), "filter: a/#/b: topic filter has a wildcard where none may stand"),
        (RuleSpec(["x"], filter="a/x{b}"), 'filter: level "x{b}" of a/x{b}: a name stands alone'),
        (RuleSpec(["x"], filter="$SYS/#"), "filter: $SYS/#: a topic that begins with $ is the server's own"),
        (RuleSpec(["x"], regex="(a"), "regex: no regular expression of RE2: missing )"),
        (RuleSpec(["${nope}"], filter="#"), "topic: unknown variable ${nope}; there are prefix, node, topic"),
        (RuleSpec(["${device}"], filter="a/{dev}"), "topic: unknown variable ${device}; there are"),
        (RuleSpec(["x"], filter="#", key="${nope}"), "key: unknown variable ${nope}"),
        (RuleSpec(["x"], filter="#", headers={"h": "${nope}"}), 'header "h": unknown variable ${nope}'),
        (RuleSpec(["x@nope"], filter="#"), 'topic: "x@nope": there is no [kafka.clusters.nope]'),
        (RuleSpec(["x@"], filter="#"), 'topic: "x@": there is no [kafka.clusters.]'),
        (RuleSpec(["${prefix}a/b"], filter="#"), "topic: 't_a/b' is no name for a Kafka topic"),
        (RuleSpec([""], filter="#"), "topic: '' is no name for a Kafka topic"),
        (RuleSpec(["x" * 300], filter="#"), "is no name for a Kafka topic: 1 to 249"),
        (RuleSpec(["_mqk_a"], filter="#"), "topic: _mqk_a is internal: it begins with kafka.internal_prefix"),
        (RuleSpec(["x"], filter="#", partitioner="nope"), "partitioner: should be md5, murmur2"),
        (RuleSpec(["x"], filter="a/{topic}"), "topic is a variable already"),
        (RuleSpec(["x"], regex="(?P<qos>a)"), "qos is a variable already"),
        (RuleSpec(["x"], filter="{a}/#", regex="(?P<a>b)"), "a names both a level of the filter and a group"),
        (RuleSpec(["x"], prefix="$SYS/"), "can never match: a topic that begins with $ is the server's own"),
        (RuleSpec(["x"], filter="a/#", prefix="b/"), 'can never match: nothing that the filter takes begins with "b/"'),
        (RuleSpec(["x"], filter="a/b", contains="c"), 'can never match: the filter takes "a/b" alone, which does not'),
        (RuleSpec(["x"], filter="a/b", regex="c"), 'can never match: the filter takes "a/b" alone, which does not'),
    ],
)
def test_a_rule_that_cannot_be_obeyed(spec: RuleSpec, message: str) -> None:
    spec.name = "mine"
    error = complaint(RuleSpec(["x"], "first", filter="first"), spec)
    assert error.setting == 'routing.rules[1] "mine"'
    assert message in error.message


def test_a_rule_without_a_name_is_named_by_its_place() -> None:
    assert complaint(RuleSpec(["x"], filter="a"), RuleSpec(["x"], filter="#/a")).setting == "routing.rules[1]"


@pytest.mark.parametrize(
    ("earlier", "later"),
    [
        ({"filter": "#"}, {"filter": "a/b"}),
        ({"filter": "#"}, {"prefix": "a"}),
        ({"filter": "#"}, {"regex": "a"}),
        ({"filter": "a/+/#"}, {"filter": "a/{b}/c"}),
        ({"filter": "a/#"}, {"filter": "a/#", "contains": "x"}),
        ({"filter": "a/#"}, {"prefix": "a/b"}),
        ({"prefix": ""}, {"filter": "a"}),
        ({"prefix": "a/"}, {"prefix": "a/b"}),
        ({"prefix": "a/"}, {"filter": "a/b/#"}),
        ({"prefix": "a/"}, {"filter": "a/+"}),
        ({"contains": "b"}, {"contains": "abc"}),
        ({"contains": "b"}, {"prefix": "a/b"}),
        ({"contains": "b"}, {"filter": "a/b/#"}),
        ({"regex": "b$"}, {"regex": "b$", "prefix": "a"}),
        ({"filter": "a/#", "regex": "b$"}, {"filter": "a/+/#", "regex": "b$"}),
    ],
)
def test_a_rule_that_can_never_be_reached(earlier: dict[str, str], later: dict[str, str]) -> None:
    error = complaint(RuleSpec(["x"], "one", **earlier), RuleSpec(["x"], "two", **later))
    assert str(error) == (
        'routing.rules[1] "two": can never be reached: "one" before it takes everything that it would take'
    )
    assert len(table(RuleSpec(["x"], "one", **earlier), RuleSpec(["x"], "two", **later), match_all=True).rules) == 2


@pytest.mark.parametrize(
    ("earlier", "later"),
    [
        ({"filter": "a/+"}, {"filter": "a/#"}),
        ({"filter": "a/#", "contains": "x"}, {"filter": "a/#"}),
        ({"prefix": "a/"}, {"filter": "a/#"}),  # takes `a` too
        ({"prefix": "a/b"}, {"prefix": "a/"}),
        ({"contains": "abc"}, {"contains": "b"}),
        ({"regex": "b"}, {"filter": "b"}),
        ({"filter": "a/+/#"}, {"prefix": "a"}),
    ],
)
def test_a_rule_that_can_be_reached(earlier: dict[str, str], later: dict[str, str]) -> None:
    assert len(table(RuleSpec(["x"], "one", **earlier), RuleSpec(["x"], "two", **later)).rules) == 2


def test_two_rules_of_one_name() -> None:
    error = complaint(RuleSpec(["x"], "same", filter="a"), RuleSpec(["x"], "same", filter="b"))
    assert str(error) == 'routing.rules[1] "same": routing.rules[0] has this name too'


def test_a_regex_without_the_extra(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "re2", None)
    error = complaint(RuleSpec(["x"], "alarms", regex="a"))
    assert str(error) == ("routing.rules[0] \"alarms\": regex needs an extra: pip install 'mqtt-kafka-proxy[regex]'")


@pytest.mark.long
def test_more_rules_than_there_may_be() -> None:
    most = [RuleSpec(["x"], filter=f"a/{number}") for number in range(ROUTING_RULES_MAX)]
    assert len(compile_routes(most, CONTEXT).rules) == ROUTING_RULES_MAX
    assert complaint(*most, RuleSpec(["x"], filter="b")).setting == "routing.rules"
