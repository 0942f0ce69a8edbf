"""The shipped rules: which topic goes where, and what is said about it."""

import pytest

from proxy.policy.routes import RouteTable
from proxy.policy.rules import RoutingContext, RuleSpec, compile_routes, preset_specs


def preset(name: str, prefix: str = "tlink_device_") -> RouteTable:
    return compile_routes(preset_specs(name), RoutingContext(prefix))


@pytest.fixture
def tlink() -> RouteTable:
    return preset("tlink")


@pytest.mark.parametrize(
    ("topic", "kafka_topic"),
    [
        ("tlink/pk/dev/up", "msg"),
        ("tlink/", "msg"),
        ("tlink//", "msg"),
        ("tlink/ä/传感器/数据", "msg"),
        ("tlink/a/sub/logout", "msg"),
        ("tlink/a/sub", "msg"),
        ("tlink/a/OTA", "msg"),
        ("tlink/a/b/ota/x", "ota"),
        ("tlink/a/sub/register", "sub_register"),
        ("tlink/sub/register", "sub_register"),
        ("tlink/a/sub/login", "sub_status"),
        # "contains" looks at the whole name, not at its levels.
        ("tlink/a/total", "ota"),
        ("tlink/quota", "ota"),
        ("tlink/a/sub/registered/now", "sub_register"),
        ("tlink/a/xsub/loginx", "sub_status"),
        # The order decides when several match.
        ("tlink/ota/sub/register", "ota"),
        ("tlink/a/sub/login/total", "ota"),
        ("tlink/sub/login/sub/register", "sub_register"),
    ],
)
def test_where_a_topic_goes(tlink: RouteTable, topic: str, kafka_topic: str) -> None:
    (rule,) = tlink.match(topic)
    (target,) = rule.targets
    assert (rule.name, target.topic.constant) == (kafka_topic, f"tlink_device_{kafka_topic}")


@pytest.mark.parametrize(
    "topic", ["", "tlink", "xtlink/a", "/tlink/a", "Tlink/a", "other/x", "a/tlink/ota", " tlink/a"]
)
def test_what_goes_nowhere(tlink: RouteTable, topic: str) -> None:
    assert tlink.match(topic) == []


def test_every_topic_is_named_once(tlink: RouteTable) -> None:
    names = ["ota", "sub_register", "sub_status", "msg"]
    assert tlink.topics() == [f"tlink_device_{name}" for name in names]
    specs = [
        RuleSpec(["same"], prefix="a/"),
        RuleSpec(["same", "t.${topic}"], prefix="b/"),
        RuleSpec(["x"], filter="#"),
    ]
    assert compile_routes(specs, RoutingContext()).topics() == ["same", "x"]


@pytest.mark.parametrize("topic", ["anything", "tlink/a/ota", "/", "x" * 65_535])
def test_one_topic_for_all(topic: str) -> None:
    single = preset("single")
    (rule,) = single.match(topic)
    # The name of the unmodified plugin, which knew no prefix.
    assert rule.targets[0].topic.constant == "emqx-topic"
    assert single.topics() == ["emqx-topic"]


@pytest.mark.parametrize("name", ["tlink", "single", "none"])
@pytest.mark.parametrize("topic", ["$SYS/broker/load", "$", "$tlink/a", "$share/g/tlink/a"])
def test_the_servers_own_topics_go_nowhere(name: str, topic: str) -> None:
    table = preset(name, "")
    assert table.match(topic) == []
    ((rule, said),) = table.explain(topic)
    assert rule == "all"
    assert "$" in said


def test_no_rules() -> None:
    none = preset("none")
    assert (none.match("tlink/a"), none.topics(), none.explain("tlink/a")) == ([], [], [])


def test_explain_names_each_rule_that_was_asked(tlink: RouteTable) -> None:
    assert tlink.explain("tlink/a/sub/register") == [
        ("ota", 'does not contain "ota"'),
        ("sub_register", "matches"),
    ]
    assert tlink.explain("other/ota") == [
        (name, 'does not begin with "tlink/"') for name in ("ota", "sub_register", "sub_status", "msg")
    ]


@pytest.mark.parametrize("topic", ["tlink/a/b/ota", "tlink/a/sub/login", "tlink/a", "other", "$SYS"])
def test_explain_and_match_agree(tlink: RouteTable, topic: str) -> None:
    matched = [name for name, said in tlink.explain(topic) if said == "matches"]
    assert matched == [rule.name for rule in tlink.match(topic)]
