"""Which partition: the same as Java clients, by turns, by chance, or always one."""

import random
import subprocess
from collections import Counter
from pathlib import Path

import pytest

from proxy.limits import STICKY_RECORDS
from proxy.policy.partitioners import Sticky, murmur2, murmur2_partition, parse_partitioner
from tests.support.kafka_broker import JARS, VERSIONS

#: Keys of every length up to 70, of every byte, and many that devices have.
KEYS = [
    *(random.Random(length).randbytes(length) for length in range(71)),
    *(bytes([byte]) for byte in range(256)),
    *(f"tlink/pk{number % 7}/device-{number}/up".encode() for number in range(900)),
    "größe/温度/😀".encode(),
    bytes(65_535),
    b"\xff" * 4_099,
]


@pytest.mark.kafka
def test_murmur2_is_that_of_the_java_client() -> None:
    assert len(KEYS) >= 1_000
    jars = JARS / f"kafka-{VERSIONS[0]}"
    program = Path(__file__).parent / "java" / "Murmur2.java"
    said = subprocess.run(
        ["java", "-cp", f"{jars}/*", program],
        input="".join(f"{key.hex()}\n" for key in KEYS), capture_output=True, text=True, check=True, timeout=120,
    ).stdout  # fmt: skip
    ours = [f"{murmur2(key)} {murmur2_partition(key, number)}" for number, key in enumerate(KEYS, 1)]
    assert ours == said.splitlines()


@pytest.mark.parametrize(
    ("key", "unsigned"),
    # From the Java client's own unit test, which has them as signed numbers.
    [(b"21", -973932308), (b"foobar", -790332482), (b"a-little-bit-long-string", -985981536),
     (b"a-little-bit-longer-string", -1486304829), (b"lkjh234lh9fiuh90y23oiuhsafujhadof229phr9h19h89h8", -58897971),
     (b"abc", 479470107)],
)  # fmt: skip
def test_murmur2_of_known_keys(key: bytes, unsigned: int) -> None:
    assert murmur2(key) == unsigned % 2**32


def test_md5_is_the_gateways_own() -> None:
    assert parse_partitioner("md5") == (None, True)
    assert parse_partitioner("murmur2") == (murmur2_partition, True)


def test_round_robin_takes_them_in_turns() -> None:
    partitioner, by_key = parse_partitioner("round_robin")
    assert partitioner is not None
    assert not by_key
    assert [partitioner(b"k", 3) for _ in range(7)] == [0, 1, 2, 0, 1, 2, 0]
    # The topic grew: nobody is left out.
    assert [partitioner(b"k", 5) for _ in range(5)] == [1, 2, 3, 4, 0]


def test_each_rule_has_turns_of_its_own() -> None:
    one, two = parse_partitioner("round_robin")[0], parse_partitioner("round_robin")[0]
    assert one is not None
    assert two is not None
    assert [one(b"", 3), one(b"", 3), two(b"", 3)] == [0, 1, 0]


def test_random_reaches_all() -> None:
    partitioner, by_key = parse_partitioner("random")
    assert partitioner is not None
    assert not by_key
    drawn = Counter(partitioner(b"k", 4) for _ in range(4_000))
    assert set(drawn) == {0, 1, 2, 3}
    # Ten standard deviations around 1 000.
    assert all(720 < count < 1_280 for count in drawn.values())


def test_sticky_stays_for_a_while() -> None:
    chosen = iter([2, 0, 1])
    partitioner = Sticky(lambda _count: next(chosen))
    drawn = [partitioner(b"k", 3) for _ in range(2 * STICKY_RECORDS + 1)]
    assert drawn == [2] * STICKY_RECORDS + [0] * STICKY_RECORDS + [1]


def test_sticky_leaves_a_partition_that_is_gone() -> None:
    chosen = iter([3, 0])
    partitioner = Sticky(lambda _count: next(chosen))
    assert [partitioner(b"k", 4), partitioner(b"k", 4), partitioner(b"k", 2)] == [3, 3, 0]


@pytest.mark.parametrize("number", [0, 7, 999_999])
def test_fixed_is_what_it_says(number: int) -> None:
    partitioner, by_key = parse_partitioner(f"fixed:{number}")
    assert partitioner is not None
    assert (partitioner(b"k", 4), by_key) == (number, True)


@pytest.mark.parametrize(
    "text", ["", "MD5", "fixed", "fixed:", "fixed:-1", "fixed:01", "fixed:1.0", "fixed:٣", "murmur3"]
)
def test_a_partitioner_that_is_none(text: str) -> None:
    with pytest.raises(ValueError, match="should be md5, murmur2, round_robin, random, sticky or fixed:N"):
        parse_partitioner(text)
