"""Names that a rule may make of device data: what Kafka takes, never our own, only what is allowed."""

import time

import pytest

from proxy.errors import Refusal
from proxy.policy.kafka_topics import KafkaTopics, matches


def cause(topics: KafkaTopics, name: str) -> str | None:
    objection = topics.objection_to_made(name)
    return objection.cause if objection is not None else None


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("t_a", None),
        ("t_" + "a" * 247, None),
        ("t_" + "a" * 248, "topic_invalid"),
        ("t_" + "a" * 65_000, "topic_invalid"),
        ("t_a/b", "topic_invalid"),
        ("t_ä", "topic_invalid"),
        ("t_a b", "topic_invalid"),
        ("t_a\n", "topic_invalid"),
        ("", "topic_invalid"),
        (".", "topic_invalid"),
        ("..", "topic_invalid"),
        ("_mqk_sessions", "topic_internal"),
        ("other", "topic_not_allowed"),
        ("T_a", "topic_not_allowed"),
    ],
)
def test_what_may_be_made_of_device_data(name: str, expected: str | None) -> None:
    assert cause(KafkaTopics("t_"), name) == expected


def test_internal_topics_stay_internal_whatever_is_allowed() -> None:
    topics = KafkaTopics("", "own.", ["*"])
    assert [cause(topics, name) for name in ("own.a", "_mqk_a", "a")] == ["topic_internal", None, None]


def test_who_hears_what() -> None:
    topics = KafkaTopics("t_")
    refusals = [objection.refusal for name in ("/", "_mqk_a", "x") if (objection := topics.objection_to_made(name))]
    assert refusals == [Refusal.UNKNOWN_TOPIC, Refusal.NOT_AUTHORIZED, Refusal.NOT_AUTHORIZED]


def test_a_name_of_64_kib_is_not_repeated_as_a_whole() -> None:
    objection = KafkaTopics("t_").objection("x" * 65_535)
    assert objection is not None
    assert len(objection.detail) < 400


@pytest.mark.parametrize(
    ("pattern", "taken", "left"),
    [
        ("audit", ["audit"], ["audit1", "xaudit", ""]),
        ("alarms-*", ["alarms-", "alarms-x"], ["alarms", "xalarms-"]),
        ("*-raw", ["-raw", "a-raw"], ["a-raw-", "raw"]),
        ("a*b*c", ["abc", "axbxc", "abbc"], ["ab", "ac", "acb", "abcx"]),
        ("*", ["", "a"], []),
        ("a*a", ["aa", "aba"], ["a"]),
        ("a**b", ["ab", "axb"], ["a"]),
        ("*ab*ab", ["abab", "xabyab"], ["ab", "aab"]),
    ],
)
def test_patterns(pattern: str, taken: list[str], left: list[str]) -> None:
    assert [name for name in (*taken, *left) if matches(pattern, name)] == taken


def test_a_pattern_with_many_stars_takes_no_time() -> None:
    began = time.process_time()
    assert not matches("a*" * 100 + "b", "a" * 249)
    # Backtracking would take longer than the universe has.
    assert time.process_time() - began < 5
