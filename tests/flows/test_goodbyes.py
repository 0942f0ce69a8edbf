"""Goodbyes: in order, once each, and not faster than those can take to whom the devices turn."""

import pytest

from proxy import limits
from proxy.flows.goodbyes import Goodbyes
from tests.support.fakes import Clock, VirtualTime, turn, until


class Guest:
    def __init__(self, clock: Clock, told: list["Guest"]) -> None:
        self._clock = clock
        self._told = told
        self.heard: list[tuple[float, int, str]] = []
        self.raises = False

    def disconnect(self, reason_code: int, detail: str) -> None:
        self.heard.append((self._clock.now, reason_code, detail))
        self._told.append(self)
        if self.raises:
            raise ValueError("a bug")


class Party:
    def __init__(self, guests: int, clock: Clock) -> None:
        self.told: list[Guest] = []
        self.guests = [Guest(clock, self.told) for _ in range(guests)]


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    clock = Clock()
    monkeypatch.setattr("proxy.flows.goodbyes.asyncio", VirtualTime(clock))
    return clock


async def test_everybody_is_told_in_order_and_at_the_pace(clock: Clock) -> None:
    party = Party(1000, clock)
    goodbyes = Goodbyes(per_second=100)
    began = clock.now
    for number, guest in enumerate(party.guests):
        goodbyes.say(guest, 0x89, f"goodbye {number}")
    assert len(goodbyes) == 1000
    await until(lambda: not len(goodbyes), "all are told")
    assert party.told == party.guests
    assert [guest.heard[0][1:] for guest in party.guests[:2]] == [(0x89, "goodbye 0"), (0x89, "goodbye 1")]
    times = [guest.heard[0][0] - began for guest in party.guests]
    assert times[-1] == pytest.approx(10.0, abs=2 * limits.GOODBYE_TICK_SECONDS)
    for second in range(10):
        assert sum(second <= time < second + 1 for time in times) <= 105


async def test_the_default_pace(clock: Clock) -> None:
    party = Party(2000, clock)
    goodbyes = Goodbyes()
    began = clock.now
    for guest in party.guests:
        goodbyes.say(guest, 0x89, "")
    await until(lambda: not len(goodbyes), "all are told")
    assert clock.now - began == pytest.approx(2000 / limits.GOODBYES_PER_SECOND, rel=0.05)


async def test_who_waits_already_is_told_once(clock: Clock) -> None:
    party = Party(2, clock)
    goodbyes = Goodbyes()
    goodbyes.say(party.guests[0], 0x89, "first")
    goodbyes.say(party.guests[1], 0x89, "")
    goodbyes.say(party.guests[0], 0x8B, "second")
    assert len(goodbyes) == 2
    await until(lambda: not len(goodbyes), "all are told")
    assert party.told == party.guests
    assert party.guests[0].heard[0][1:] == (0x89, "first")


async def test_a_later_goodbye_is_said_too(clock: Clock) -> None:
    (guest,) = Party(1, clock).guests
    goodbyes = Goodbyes()
    for number in range(3):
        goodbyes.say(guest, 0x89, str(number))
        await until(lambda: not len(goodbyes), "it is said")
        for _ in range(3):
            await turn()
    assert [detail for _, _, detail in guest.heard] == ["0", "1", "2"]


async def test_nothing_is_said_within_the_call(clock: Clock) -> None:
    (guest,) = Party(1, clock).guests
    Goodbyes().say(guest, 0x89, "")
    assert guest.heard == []
    await turn()
    assert len(guest.heard) == 1


async def test_a_bug_in_one_goodbye_does_not_silence_later_ones(clock: Clock) -> None:
    party = Party(3, clock)
    first, second, third = party.guests
    first.raises = True
    goodbyes = Goodbyes()
    goodbyes.say(first, 0x89, "")
    goodbyes.say(second, 0x89, "")
    await turn()
    await turn()
    assert party.told == [first]
    goodbyes.say(third, 0x89, "")
    await until(lambda: not len(goodbyes), "the others are told")
    assert party.told == [first, second, third]
