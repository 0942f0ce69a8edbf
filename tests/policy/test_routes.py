"""The shipped rules: which topic goes where, and what is said about it."""

import pytest

from proxy.policy.routes import RouteTable, Rule, preset_rules


@pytest.fixture
def tlink() -> RouteTable:
    return RouteTable(preset_rules("tlink", "tlink_device_"))


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
    rule = tlink.match(topic)
    assert rule is not None
    assert (rule.name, rule.topic) == (kafka_topic, f"tlink_device_{kafka_topic}")


@pytest.mark.parametrize(
    "topic", ["", "tlink", "xtlink/a", "/tlink/a", "Tlink/a", "other/x", "a/tlink/ota", " tlink/a"]
)
def test_what_goes_nowhere(tlink: RouteTable, topic: str) -> None:
    assert tlink.match(topic) is None


def test_every_topic_is_named_once(tlink: RouteTable) -> None:
    names = ["ota", "sub_register", "sub_status", "msg"]
    assert tlink.topics == [f"tlink_device_{name}" for name in names]
    assert RouteTable([Rule("a", "same", "a/"), Rule("b", "same", "b/"), Rule("c", "other")]).topics == [
        "same",
        "other",
    ]


@pytest.mark.parametrize("topic", ["anything", "tlink/a/ota", "/", "x" * 65_535])
def test_one_topic_for_all(topic: str) -> None:
    single = RouteTable(preset_rules("single", "tlink_device_"))
    rule = single.match(topic)
    assert rule is not None
    # The name of the unmodified plugin, which knew no prefix.
    assert rule.topic == "emqx-topic"
    assert single.topics == ["emqx-topic"]


@pytest.mark.parametrize("preset", ["tlink", "single", "none"])
@pytest.mark.parametrize("topic", ["$SYS/broker/load", "$", "$tlink/a", "$share/g/tlink/a"])
def test_the_servers_own_topics_go_nowhere(preset: str, topic: str) -> None:
    table = RouteTable(preset_rules(preset, ""))
    assert table.match(topic) is None
    ((rule, said),) = table.explain(topic)
    assert rule == "all"
    assert "$" in said


def test_no_rules() -> None:
    none = RouteTable(preset_rules("none", "tlink_device_"))
    assert (none.match("tlink/a"), none.topics, none.explain("tlink/a")) == (None, [], [])


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
    rule = tlink.match(topic)
    matched = [name for name, said in tlink.explain(topic) if said == "matches"]
    assert matched == ([rule.name] if rule is not None else [])
