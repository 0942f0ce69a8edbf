"""What an `emqx_plugin_kafka.conf` means in our settings: the text of `mqk migrate`.

Every line of the file is answered for: by a setting, or by a comment that says why there is none.
"""

import json
import re
import tomllib
from collections.abc import Iterable, Iterator, Mapping
from typing import Final, NamedTuple

from pydantic import ValidationError

import proxy
from proxy.config.describe import describe
from proxy.config.problems import ConfigErrors, explain
from proxy.config.settings import Settings
from proxy.errors import ConfigError

#: Where the comments begin.
_COMMENT_COLUMN: Final = 44
#: Partition strategies of the plugin's older version, and the partitioner of a rule that does the same.
_PARTITIONERS: Final[Mapping[str, str]] = {
    "random": "random",
    "sticky_round_robin": "sticky",
    "strict_round_robin": "round_robin",
}
#: Settings of the plugin that nothing of ours corresponds to, and why.
_NOT_NEEDED: Final[Mapping[str, str]] = {
    "is_async_producer": "not needed: QoS 1 and 2 are acknowledged after Kafka has the record, QoS 0 waits for nothing",
    "partitionworkers": "not needed: batches fill by themselves while the one before is on its way",
}
_READ: Final = frozenset({"host", "port", "payloadtopic", "partition", "partitionstrategy"})


class _Line(NamedTuple):
    """One setting of ours, and what is said of it."""

    key: str
    value: object
    comment: str


def migrate(text: str, source: str) -> str:
    """The TOML for a plugin's configuration. Raises ConfigError: a line or a value that cannot be used."""
    theirs = dict(_parse(text, source))
    lines = list(_settings(theirs, source))
    printed = "\n".join([*_head(source), *_tables(lines), *_answers(theirs)]) + "\n"
    try:
        Settings.model_validate(tomllib.loads(printed))
    except ValidationError as error:
        origin = {line.key: f"{source}: {line.comment}" for line in lines}
        raise ConfigErrors(explain(error, origin)) from error
    return printed


def _parse(text: str, source: str) -> Iterator[tuple[str, str]]:
    """Names, without the `kafka.` that some versions put before them, and values; the last of two is in force."""
    for number, line in enumerate(text.splitlines(), 1):
        bare = line.replace("\t", " ").strip()
        if bare and not bare.startswith("#"):
            name, equals, value = bare.partition("=")
            if not equals or not name.strip() or not bare.isprintable():
                raise ConfigError(f"{source}:{number}", f"should be name = value, not {bare!r}")
            yield name.strip().removeprefix("kafka."), value.strip().strip('"')


def _settings(theirs: Mapping[str, str], source: str) -> Iterator[_Line]:
    port, count = _number(theirs, "port", source), _number(theirs, "partition", source)
    servers = _servers(theirs.get("host", "127.0.0.1"), 9092 if port is None else port)
    yield _Line("kafka.bootstrap_servers", servers, "kafka.host and kafka.port; more brokers may be named")
    yield _Line("kafka.topic_prefix", theirs.get("payloadtopic", "tlink_device_"), "kafka.payloadtopic")
    if count is not None:
        yield _Line("kafka.partitions", count, "kafka.partition: of topics that are missing")
    yield _Line("auth.anonymous", True, "EMQX's allow_anonymous; better an [[auth.chain]], `mqk config` shows how")
    yield _Line("routing.preset", "tlink", 'the rules of the plugin as patched; as it was: "single"')
    if count is not None:
        yield _Line("routing.md5_partitions", count, "kafka.partition: the count in the hash")
    yield _Line("status.key", "action", "the plugin's; \"clientid\" keeps a device's records in order")
    yield _Line("commands.group", "emqx_cluster", "the plugin's consumer group")
    yield _Line("commands.start", "earliest", "where the plugin begins")


def _servers(hosts: str, port: int) -> list[str]:
    named = [host.strip() for host in hosts.split(",")]
    return [host if re.search(r":\d+$", host) else f"{host}:{port}" for host in named]


def _number(theirs: Mapping[str, str], name: str, source: str) -> int | None:
    value = theirs.get(name)
    if value is None:
        return None
    if not (value.isascii() and value.isdecimal()):
        raise ConfigError(f"{source}: kafka.{name}", f"should be a number, not {value!r}")
    return int(value)


def _head(source: str) -> list[str]:
    return [
        f"# {source} in the settings of mqk {proxy.__version__}, by `mqk migrate`.",
        "# docs/migration.md says what is the same, what is not, and how to switch.",
    ]


def _tables(lines: Iterable[_Line]) -> Iterator[str]:
    """The settings table by table; one that this version lacks as a comment."""
    there = {row.key for row in describe()}
    table = ""
    for line in lines:
        above, _, name = line.key.rpartition(".")
        known = line.key in there
        if above != table:
            table = above
            yield ""
            yield f"[{table}]" if known else f"# [{table}]"
        value = json.dumps(line.value, ensure_ascii=False)  # TOML has no halves of a character beyond 16 bits.
        text = f"{name} = {value}" if known else f"# {name} = {value}"
        absent = "" if known else "not in this version: "
        yield f"{text:<{_COMMENT_COLUMN}}# {absent}{line.comment}"


def _answers(theirs: Mapping[str, str]) -> Iterator[str]:
    """What became of the lines that no setting stands for."""
    others = {name: value for name, value in theirs.items() if name not in _READ}
    strategy = theirs.get("partitionstrategy")
    if not others and strategy is None:
        return
    yield ""
    yield "# Without a setting of their own:"
    if strategy is not None:
        partitioner = _PARTITIONERS.get(strategy)
        instead = f'a routing rule has partitioner = "{partitioner}" for it' if partitioner else "nothing does that"
        yield f"# partitionstrategy = {strategy}: the preset takes MD5 of the key; {instead}"
    for name, value in others.items():
        yield f"# {name} = {value}: {_NOT_NEEDED.get(name, 'has no counterpart')}"
