"""The rate: its average, its burst, and that a pause buys no more than one second's worth."""

import pytest

from proxy.policy.quotas import Rate


def allowed(rate: Rate, now: float, attempts: int) -> int:
    return sum(rate.allows(now) for _ in range(attempts))


def test_one_seconds_worth_may_come_at_once() -> None:
    rate = Rate(8)
    assert allowed(rate, 100.0, 20) == 8


def test_afterwards_each_waits_for_its_place() -> None:
    rate = Rate(8)
    allowed(rate, 100.0, 8)
    assert allowed(rate, 100.124, 1) == 0
    assert allowed(rate, 100.125, 2) == 1
    assert allowed(rate, 100.5, 10) == 3


def test_a_pause_buys_one_seconds_worth_and_no_more() -> None:
    rate = Rate(8)
    allowed(rate, 100.0, 8)
    assert allowed(rate, 3700.0, 100) == 8


@pytest.mark.parametrize("per_second", [1, 3, 1000])
def test_the_average_over_a_minute(per_second: int) -> None:
    rate = Rate(per_second)
    attempts_per_second = 2 * per_second
    taken = sum(rate.allows(5.0 + number / attempts_per_second) for number in range(60 * attempts_per_second))
    assert 59 * per_second <= taken <= 61 * per_second


def test_a_refusal_is_not_counted() -> None:
    rate = Rate(1)
    assert rate.allows(10.0)
    assert allowed(rate, 10.5, 50) == 0
    assert rate.allows(11.0)


def test_less_than_one_a_second() -> None:
    rate = Rate(0.5)
    assert [rate.allows(10.0 + seconds) for seconds in range(6)] == [True, False, True, False, True, False]


def test_the_first_is_allowed_at_any_time() -> None:
    assert Rate(1).allows(0.0)
    assert Rate(1).allows(-1e9)
