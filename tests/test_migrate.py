"""`mqk migrate`: what a plugin's configuration becomes, and that docs/migration.md shows just that."""

import re
import tomllib
from pathlib import Path

import pytest

from proxy.cluster.table import NODE_LOST
from proxy.config import describe, load, migrate
from proxy.config.problems import ConfigErrors
from proxy.errors import ConfigError
from proxy.session.events import EndReason

PAGE = (Path(__file__).parent.parent / "docs" / "migration.md").read_text()
NAME = "emqx_plugin_kafka.conf"


def block(language: str) -> str:
    """The one example in the page in this language."""
    [found] = re.findall(rf"```{language}\n(.*?)```", PAGE, re.DOTALL)
    return str(found)


def migrated(text: str) -> dict[str, dict[str, object]]:
    return tomllib.loads(migrate(text, NAME))


def test_the_page_shows_what_is_printed() -> None:
    assert block("toml") == migrate(block("ini"), NAME)


def test_what_is_printed_can_be_used(tmp_path: Path) -> None:
    (tmp_path / "mqk.toml").write_text(migrate(block("ini"), NAME))
    settings = load(tmp_path / "mqk.toml").settings
    assert settings.kafka.bootstrap_servers == ["127.0.0.1:9092"]
    assert settings.kafka.topic_prefix == "tlink_device_"
    assert (settings.kafka.partitions, settings.routing.md5_partitions) == (12, 12)
    assert (settings.routing.preset, settings.status.key) == ("tlink", "action")


def test_every_line_is_answered_for() -> None:
    printed = migrate(block("ini") + "kafka.reconnect = 5s\n", NAME)
    for line in block("ini").splitlines():
        assert line.partition(" ")[0].removeprefix("kafka.") in printed
    assert "# reconnect = 5s: has no counterpart\n" in printed
    assert "# partitionstrategy = strict_round_robin: the preset takes MD5 of the key; a routing rule has" in printed


def test_what_this_version_lacks_is_a_comment() -> None:
    there = {row.key for row in describe()}
    lines = {line.partition("  ")[0] for line in migrate(block("ini"), NAME).splitlines()}
    assert ('group = "emqx_cluster"' in lines) == ("commands.group" in there)
    assert ('# group = "emqx_cluster"' in lines) == ("commands.group" not in there)


@pytest.mark.parametrize(
    ("text", "servers"),
    [
        ("", ["127.0.0.1:9092"]),
        ("host = kafka\nport=9093", ["kafka:9093"]),
        ("kafka.host = a, b:9094\nkafka.port = 1", ["a:1", "b:9094"]),
        ('  kafka.host\t=\t"first"\nkafka.host = second  ', ["second:9092"]),
    ],
)
def test_brokers(text: str, servers: list[str]) -> None:
    assert migrated(text)["kafka"]["bootstrap_servers"] == servers


def test_comments_and_empty_lines_say_nothing() -> None:
    assert migrate("## a = b\n\n  # kafka.host = x\n", NAME) == migrate("", NAME)


def test_without_a_count_the_topics_own_is_taken() -> None:
    assert "md5_partitions" not in migrated("kafka.host = a")["routing"]


def test_an_unknown_strategy_has_no_partitioner() -> None:
    assert "# partitionstrategy = custom: the preset takes MD5 of the key; nothing does that\n" in migrate(
        "kafka.partitionstrategy = custom", NAME
    )


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("kafka.host = a\nkafka.port", f"{NAME}:2: should be name = value, not 'kafka.port'"),
        ("= 5", f"{NAME}:1: should be name = value, not '= 5'"),
        ("a = \x01", f"{NAME}:1: should be name = value, not "),
        ("kafka.port = many", f"{NAME}: kafka.port: should be a number, not 'many'"),
        ("kafka.port = 0", "kafka.bootstrap_servers[0]: should be host:port with a port of 1 to 65535"),
        ("kafka.partition = 0", "kafka.partitions: should be greater than or equal to 1, not 0"),
        ("kafka.payloadtopic = a b", "kafka.topic_prefix: should be made of letters, digits, dots, underscores"),
        ("kafka.host = ::1", "kafka.bootstrap_servers[0]: an IPv6 address stands in brackets"),
    ],
)
def test_what_cannot_be_used_is_named(text: str, message: str) -> None:
    with pytest.raises(ConfigError) as raised:
        migrate(text, NAME)
    assert str(raised.value).startswith(message)
    assert NAME in str(raised.value)


def test_every_problem_is_said_with_the_line_that_it_comes_from() -> None:
    with pytest.raises(ConfigErrors) as raised:
        migrate("kafka.payloadtopic = a b\nkafka.partition = 20000", NAME)
    assert {problem.partition("[")[2] for problem in str(raised.value).splitlines()} == {
        f"{NAME}: kafka.payloadtopic]",
        f"{NAME}: kafka.partition: of topics that are missing]",
        f"{NAME}: kafka.partition: the count in the hash]",
    }


def test_the_page_names_reasons_that_there_are() -> None:
    rows = [line.split("|")[1:-1] for line in PAGE.splitlines() if line.startswith("| ") and line.count("|") == 3]
    start = next(number for number, (theirs, _) in enumerate(rows) if theirs.strip() == "`normal`")
    named = {name for _, ours in rows[start:] for name in re.findall(r"`([a-z_]+)`", ours)}
    assert named <= {NODE_LOST, *(reason.value for reason in EndReason)}
