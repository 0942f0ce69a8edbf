"""Who has subscribed to what: the index finds exactly those whose filters match, and forgets whom it is told to."""

import random
from typing import Any

import pytest

from proxy.mqtt.packets import Subscription
from proxy.policy.subscribers import Subscribed, Subscribers, qos_of, subscribed, takes, unpacked


def found(subscribers: Subscribers[Any], topic: str) -> dict[Any, list[str]]:
    return {who: sorted(each.topic_filter for each in which) for who, which in subscribers.find(topic).items()}


def having(*entries: tuple[str, str]) -> Subscribers[str]:
    subscribers: Subscribers[str] = Subscribers()
    for who, topic_filter in entries:
        subscribers.add(who, Subscribed(topic_filter, 0))
    return subscribers


@pytest.mark.parametrize(
    ("topic_filter", "topic", "match"),
    [
        ("a", "a", True),
        ("a/#", "a", True),
        ("a/#", "a/b/c", True),
        ("a/+", "a", False),
        ("a/+", "a/", True),
        ("a/+", "a/b/c", False),
        ("+/+", "/a", True),
        ("/+", "/a", True),
        ("+", "/a", False),
        ("#", "a/b", True),
        ("a/b", "a/B", False),
        # [MQTT-4.7.2-1]
        ("#", "$SYS/a", False),
        ("+/a", "$SYS/a", False),
        ("$SYS/#", "$SYS/a", True),
        ("$SYS/+", "$SYS/a", True),
        ("a/#", "a/$b", True),
        ("a/+", "a/$b", True),
    ],
)
def test_what_matches(topic_filter: str, topic: str, match: bool) -> None:
    assert takes(topic_filter, topic) is match
    assert found(having(("one", topic_filter)), topic) == ({"one": [topic_filter]} if match else {})


def test_all_of_one_and_one_of_many() -> None:
    subscribers = having(("one", "a/#"), ("one", "a/+"), ("one", "b"), ("two", "a/b"), ("two", "#"))
    assert found(subscribers, "a/b") == {"one": ["a/#", "a/+"], "two": ["#", "a/b"]}
    assert found(subscribers, "c") == {"two": ["#"]}
    assert len(subscribers) == 5


def test_a_filter_once_more_has_its_new_options() -> None:
    subscribers = having(("one", "a/+"))
    subscribers.add("one", Subscribed("a/+", 2, 7))
    assert subscribers.find("a/b") == {"one": [Subscribed("a/+", 2, 7)]}
    assert len(subscribers) == 1


def test_nothing_is_left_behind() -> None:
    subscribers = having(("one", "a/b/c"), ("two", "a/b/c"), ("one", "a/#"), ("one", "+/#"), ("one", "#"))
    for who, topic_filter in (("one", "a/b/c"), ("one", "#"), ("one", "+/#"), ("two", "a/b/c")):
        subscribers.remove(who, topic_filter)
    assert found(subscribers, "a/b/c") == {"one": ["a/#"]}
    subscribers.remove("one", "a/#")
    assert len(subscribers) == 0
    assert subscribers._root.is_empty


@pytest.mark.parametrize("topic_filter", ["a", "a/#", "b"])
def test_what_is_not_there_cannot_be_removed(topic_filter: str) -> None:
    with pytest.raises(KeyError):
        having(("one", "a/b")).remove("one", topic_filter)


def test_it_finds_what_asking_everybody_finds() -> None:
    chance = random.Random(3)
    levels = ["a", "b", "", "+", "$x"]
    subscribers: Subscribers[int] = Subscribers()
    entries: set[tuple[int, str]] = set()
    for _ in range(2_000):
        parts = [chance.choice(levels) for _ in range(chance.randrange(1, 5))]
        topic_filter = "/".join([*parts[:-1], "#"] if chance.random() < 0.3 else parts)
        entry = (chance.randrange(20), topic_filter)
        if entry in entries and chance.random() < 0.8:
            entries.remove(entry)
            subscribers.remove(*entry)
        else:
            entries.add(entry)
            subscribers.add(entry[0], Subscribed(topic_filter, 0))
        topic = "/".join(chance.choice(["a", "b", "", "$x", "z"]) for _ in range(chance.randrange(1, 5)))
        expected: dict[int, set[str]] = {}
        for who, each in entries:
            if takes(each, topic):
                expected.setdefault(who, set()).add(each)
        assert {
            who: {each.topic_filter for each in which} for who, which in subscribers.find(topic).items()
        } == expected
        assert len(subscribers) == len(entries)


# ---- one subscription ----


def test_it_comes_back_from_the_session_state() -> None:
    asked = Subscription("a", 2, no_local=True, retain_as_published=True, retain_handling=2)
    for identifier in (None, 268_435_455):
        kept = subscribed(asked, identifier)
        assert (kept.qos, kept.retain_as_published, kept.identifier) == (2, True, identifier)
        assert unpacked(kept.packed()) == kept
    assert not subscribed(Subscription("a", 1), None).retain_as_published


@pytest.mark.parametrize("entry", [None, [], ["a"], ["", 1], ["a", 3], ["a", "1"], [1, 1], ["a", 1, 0], ["a", 1, 1, 1]])
def test_what_is_no_subscription(entry: object) -> None:
    assert unpacked(entry) is None


def test_the_highest_qos_counts() -> None:
    assert qos_of([Subscribed("a", 1), Subscribed("#", 2 | 8), Subscribed("+", 0)]) == 2
