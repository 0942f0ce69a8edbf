"""Which partition a record goes to: by its key as md5 and murmur2 do, by turns, by chance, or always the same one."""

import random
import re
from collections.abc import Callable
from typing import Final

from proxy.limits import STICKY_RECORDS

#: From a key and the number of partitions to one of them.
Partitioner = Callable[[bytes, int], int]

_FIXED: Final = re.compile(r"fixed:(0|[1-9][0-9]{0,5})", re.ASCII)
_NAMES: Final = "md5, murmur2, round_robin, random, sticky or fixed:N"

_MASK: Final = 0xFFFFFFFF
_M: Final = 0x5BD1E995


def murmur2(key: bytes) -> int:
    """MurmurHash2 with the seed of Kafka's Java client, as an unsigned number of 32 bits."""
    length = len(key)
    h = 0x9747B28C ^ length
    whole = length & ~3
    for at in range(0, whole, 4):
        k = (key[at] | key[at + 1] << 8 | key[at + 2] << 16 | key[at + 3] << 24) * _M & _MASK
        k = (k ^ k >> 24) * _M & _MASK
        h = h * _M & _MASK ^ k
    rest = length - whole
    if rest:
        h = (h ^ int.from_bytes(key[whole:], "little")) * _M & _MASK
    h = (h ^ h >> 13) * _M & _MASK
    return h ^ h >> 15


def murmur2_partition(key: bytes, partitions: int) -> int:
    """As the Java client's default partitioner chooses for a record that has a key."""
    return (murmur2(key) & 0x7FFFFFFF) % partitions


class RoundRobin:
    """Each record goes to the partition after the last one's."""

    __slots__ = ("_next",)

    def __init__(self) -> None:
        self._next = 0

    def __call__(self, key: bytes, partitions: int) -> int:
        partition = self._next % partitions
        self._next = partition + 1
        return partition


class Random:
    """Each record goes anywhere."""

    __slots__ = ("_choose",)

    def __init__(self, choose: Callable[[int], int]) -> None:
        self._choose = choose

    def __call__(self, key: bytes, partitions: int) -> int:
        return self._choose(partitions)


class Sticky:
    """Some hundred records go to one partition, which fills its batches, then as many to another."""

    __slots__ = ("_choose", "_left", "_partition")

    def __init__(self, choose: Callable[[int], int]) -> None:
        self._choose = choose
        self._left = 0
        self._partition = 0

    def __call__(self, key: bytes, partitions: int) -> int:
        if not self._left or self._partition >= partitions:
            self._partition, self._left = self._choose(partitions), STICKY_RECORDS
        self._left -= 1
        return self._partition


class Fixed:
    """Every record goes to one partition, also one that the topic does not have: whoever asks will say so."""

    __slots__ = ("_partition",)

    def __init__(self, partition: int) -> None:
        self._partition = partition

    def __call__(self, key: bytes, partitions: int) -> int:
        return self._partition


def parse_partitioner(text: str) -> tuple[Partitioner | None, bool]:
    """The partitioner of that name, None for md5, which is the gateway's own; and whether its answer depends on the key
    alone, so that it can be remembered. Raises ValueError.
    """
    match text:
        case "md5":
            return None, True
        case "murmur2":
            return murmur2_partition, True
        case "round_robin":
            return RoundRobin(), False
        case "random":
            return Random(random.randrange), False
        case "sticky":
            return Sticky(random.randrange), False
    if found := _FIXED.fullmatch(text):
        return Fixed(int(found[1])), True
    raise ValueError(f'should be {_NAMES}, not "{text}"')
