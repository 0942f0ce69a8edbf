"""Access control: lines of the file, whom and what they concern, and what is said of a line that is wrong."""

import random

import pytest

from proxy import limits
from proxy.errors import ConfigError
from proxy.policy.acl import Acl, Who, covers, overlaps, parse_acl

WHO = Who("c1", "u1", "10.0.0.7")


def acl(*lines: str, **defaults: bool) -> Acl:
    return parse_acl("\n".join(lines), "acl.conf", **defaults)


# ---- what decides ----


def test_the_first_rule_that_applies_decides() -> None:
    rules = acl("deny publish all a/b", "allow publish all a/#", "deny publish all #")
    verdicts = {topic: rules.allows_publish(topic, WHO) for topic in ("a/b", "a/c", "a", "b")}
    assert verdicts == {"a/b": False, "a/c": True, "a": True, "b": False}


@pytest.mark.parametrize("allowed", [True, False])
def test_without_a_rule_the_default_decides(allowed: bool) -> None:
    rules = acl("deny all all other", publish_default=allowed, subscribe_default=allowed)
    assert (rules.allows_publish("a", WHO), rules.allows_subscribe("a", WHO)) == (allowed, allowed)


def test_defaults_of_the_product() -> None:
    assert (Acl().allows_publish("a", WHO), Acl().allows_subscribe("a", WHO)) == (True, False)


def test_an_action_concerns_itself_only() -> None:
    rules = acl("deny publish all a", "allow subscribe all a", "deny all all b")
    assert not rules.allows_publish("a", WHO)
    assert rules.allows_subscribe("a", WHO)
    assert not rules.allows_publish("b", WHO)


@pytest.mark.parametrize(
    ("whom", "meant"),
    [
        ("all", True),
        ("user u1", True),
        ("user u2", False),
        ("client c1", True),
        ("client u1", False),
        ("ipaddr 10.0.0.7", True),
        ("ipaddr 10.0.0.0/24", True),
        ("ipaddr 10.0.1.0/24", False),
        ("ipaddr ::/0", False),
        ('user "u1"', True),
        ('user "u 1"', False),
    ],
)
def test_whom_it_concerns(whom: str, meant: bool) -> None:
    assert acl(f"deny publish {whom} #").allows_publish("a", WHO) is not meant


@pytest.mark.parametrize(
    ("address", "meant"), [("2001:db8::1", True), ("10.0.0.7", False), ("", False), ("here", False)]
)
def test_networks_of_either_family(address: str, meant: bool) -> None:
    assert acl("deny publish ipaddr 2001:db8::/32 #").allows_publish("a", Who("c", None, address)) is not meant


def test_rules_for_one_and_rules_for_all_keep_their_order() -> None:
    rules = acl(
        "deny publish all a", "allow publish user u1 a", "allow publish client c1 b", "deny publish user u1 b",
    )  # fmt: skip
    assert not rules.allows_publish("a", WHO)
    assert rules.allows_publish("b", WHO)


def test_what_stands_in_the_file_beside_rules() -> None:
    rules = acl("# a comment", "", "   # another", "\tallow\tsubscribe all a  b/# \r", 'allow subscribe all "c d"')
    assert [rules.allows_subscribe(each, WHO) for each in ("a", "b/c", "c d", "c")] == [True, True, True, False]
    assert rules.rules == 2


# ---- what stands for the device ----


@pytest.mark.parametrize(
    ("who", "topic", "allowed"),
    [
        (WHO, "d/c1/x", True),
        (WHO, "d/c2/x", False),
        (WHO, "u/pre-u1", True),
        (Who("c1", None, ""), "u/pre-", False),
        (Who("c1", "", ""), "u/pre-", False),
        (Who("a/b", "u1", ""), "d/a/b/x", False),
        (Who("+", "u1", ""), "d/+/x", False),
        (Who("#", "u1", ""), "d/#", False),
        (Who("\\1", "u1", ""), "d/\\1/x", True),
        (Who("${username}", "u1", ""), "d/u1/x", False),
    ],
)
def test_its_own_names(who: Who, topic: str, allowed: bool) -> None:
    rules = acl("allow all all d/${clientid}/# u/pre-${username}", publish_default=False)
    assert rules.allows_publish(topic, who) is allowed
    assert rules.allows_subscribe(topic, who) is allowed


# ---- subscriptions ----


@pytest.mark.parametrize(
    ("wanted", "granted"),
    [
        ("a/b", True),
        ("a/+", True),
        ("a/#", True),
        ("a", True),
        ("#", False),
        ("+/b", False),
        ("b", False),
        ("c/d", True),
        ("c/+", False),
        ("c/#", False),
        ("c/x", False),
        ("$SYS/#", False),
    ],
)
def test_a_filter_is_granted_as_a_whole(wanted: str, granted: bool) -> None:
    rules = acl("allow subscribe all a/# c/d", "deny subscribe all c/+", "allow subscribe all c/# c")
    assert rules.allows_subscribe(wanted, WHO) is granted


def test_what_is_the_servers_own_is_asked_for_by_name() -> None:
    rules = acl("allow subscribe all # $x/#")
    assert [rules.allows_subscribe(each, WHO) for each in ("#", "$x/a", "$y")] == [True, True, False]
    assert not acl("deny publish all #").allows_publish("a", WHO)
    assert acl("deny publish all #").allows_publish("$x", WHO)


def _filter(chance: random.Random) -> list[str]:
    levels = [chance.choice(["a", "b", "+", "$x"] if not index else ["a", "b", "+", ""]) for index in range(3)]
    levels = levels[: chance.randrange(1, 4)]
    return [*levels[:-1], "#"] if chance.random() < 0.3 else levels


#: Every topic name of up to four levels that such filters tell apart.
_TOPICS = [
    [first, *rest]
    for first in ("a", "b", "$x", "z")
    for rest in (
        [],
        *[[one] for one in ("a", "b", "", "z")],
        *[[one, two] for one in ("a", "b", "") for two in ("a", "b", "", "z")],
    )
] + [["a", "a", "a", "a"], ["b", "a", "", "b"], ["$x", "a", "b", "b"], ["z", "z", "z", "z"]]


def test_covering_and_overlapping_are_what_topics_say() -> None:
    chance = random.Random(7)
    for _ in range(3_000):
        one, two = _filter(chance), _filter(chance)
        ones = [topic for topic in _TOPICS if covers(one, topic)]
        twos = [topic for topic in _TOPICS if covers(two, topic)]
        if covers(one, two):
            assert all(topic in ones for topic in twos), (one, two)
        assert overlaps(one, two) == overlaps(two, one)
        if any(topic in ones for topic in twos):
            assert overlaps(one, two), (one, two)
        elif not {"#"} & {*one, *two}:
            assert not overlaps(one, two), (one, two)


def test_who_is_granted_a_filter_may_have_every_topic_of_it() -> None:
    chance = random.Random(8)
    for _ in range(500):
        lines = [
            f"{chance.choice(['allow', 'deny'])} subscribe all {'/'.join(_filter(chance))}"
            for _ in range(chance.randrange(1, 5))
        ]
        rules = acl(*lines, subscribe_default=chance.random() < 0.5)
        wanted = _filter(chance)
        if rules.allows_subscribe("/".join(wanted), WHO):
            denied = [
                topic for topic in _TOPICS if covers(wanted, topic) and not rules.allows_subscribe("/".join(topic), WHO)
            ]
            assert not denied, (lines, wanted)


# ---- lines that are wrong ----


@pytest.mark.parametrize(
    ("line", "complaint"),
    [
        ("permit publish all #", "allow or deny is expected, not 'permit'"),
        ("allow read all #", "publish, subscribe or all is expected, not 'read'"),
        ("allow publish everybody #", "all, user, client or ipaddr is expected, not 'everybody'"),
        ("allow", "publish, subscribe or all is expected, not ''"),
        ("allow publish user", "user of whom?"),
        ("allow publish all", "a topic filter is missing"),
        ("allow publish user u1", "a topic filter is missing"),
        ("allow publish ipaddr 10.0.0 #", "10.0.0 is no address and no network"),
        ("allow publish all a/#/b", "a/#/b: topic filter has a wildcard where none may stand"),
        ('allow publish all ""', "topic filter is empty"),
        ("allow publish all a/${user}", "${clientid} and ${username} can be put in, not ${user}"),
        ("allow publish all a/${username", "can be put in, not ${username"),
        ("allow publish all +${username}", "wildcard where none may stand"),
        ("allow subscribe all $share/g/a", "shared subscriptions are never granted"),
        ('allow publish user "u 1 #', "a quote is not closed"),
    ],
)
def test_what_is_said_of_a_wrong_line(line: str, complaint: str) -> None:
    with pytest.raises(ConfigError) as error:
        acl("allow all all a", line)
    assert error.value.setting == "acl.conf:2"
    assert complaint in error.value.message


def test_rules_are_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(limits, "ACL_RULES_MAX", 3)
    monkeypatch.setattr(limits, "ACL_RULES_FOR_ALL_MAX", 1)
    with pytest.raises(ConfigError, match=r"acl\.conf:4: more than 3 rules"):
        acl(*(f"allow publish user u{number} #" for number in range(4)))
    with pytest.raises(ConfigError, match=r"acl\.conf:2: more than 1 rules for all"):
        acl("allow publish all #", "allow publish ipaddr 10.0.0.1 #")
