"""Which Kafka topics a rule may name: what Kafka takes, never our own, and of those made from device data only the
allowed ones. Pure.
"""

import re
from collections.abc import Sequence
from typing import Final, NamedTuple

from proxy.errors import Refusal
from proxy.limits import KAFKA_TOPIC_CHARACTERS_MAX

_LEGAL: Final = re.compile(rf"[A-Za-z0-9._-]{{1,{KAFKA_TOPIC_CHARACTERS_MAX}}}", re.ASCII)


class Objection(NamedTuple):
    """Why a message is not produced: a word for the dead letter, and what the device is told where there is none."""

    cause: str
    refusal: Refusal
    detail: str


def matches(pattern: str, name: str) -> bool:
    """Whether a pattern, in which `*` stands for any text, takes the whole name; in linear time."""
    first, *rest = pattern.split("*")
    if not rest:
        return pattern == name
    if not name.startswith(first):
        return False
    position = len(first)
    for piece in rest[:-1]:
        position = name.find(piece, position)
        if position < 0:
            return False
        position += len(piece)
    return len(name) - position >= len(rest[-1]) and name.endswith(rest[-1])


class KafkaTopics:
    """`allowed` are the patterns of `routing.allowed_topics`; without any it is everything that has the prefix."""

    def __init__(self, prefix: str = "", internal_prefix: str = "_mqk_", allowed: Sequence[str] = ()) -> None:
        self._internal_prefix = internal_prefix
        self._allowed = list(allowed) or [prefix + "*"]

    def objection(self, name: str) -> Objection | None:
        """What is wrong with a name, whoever made it."""
        if not _LEGAL.fullmatch(name) or name in {".", ".."}:
            limit = KAFKA_TOPIC_CHARACTERS_MAX
            said = f"{_shortened(name)} is no name for a Kafka topic: 1 to {limit} of A-Z a-z 0-9 . _ -"
            return Objection("topic_invalid", Refusal.UNKNOWN_TOPIC, said)
        if name.startswith(self._internal_prefix):
            said = f"{name} is internal: it begins with kafka.internal_prefix"
            return Objection("topic_internal", Refusal.NOT_AUTHORIZED, said)
        return None

    def objection_to_made(self, name: str) -> Objection | None:
        """What is wrong with a name that was made from device data."""
        objection = self.objection(name)
        if objection is None and not any(matches(pattern, name) for pattern in self._allowed):
            said = f"{name} is not in routing.allowed_topics"
            return Objection("topic_not_allowed", Refusal.NOT_AUTHORIZED, said)
        return objection


def _shortened(name: str) -> str:
    """A device may have sent 64 KiB of it."""
    return repr(name if len(name) <= KAFKA_TOPIC_CHARACTERS_MAX else f"{name[:KAFKA_TOPIC_CHARACTERS_MAX]}…")
