"""The order of what a client is sent, while it moves."""

from proxy.cluster.inbox import Address
from proxy.cluster.lanes import Errand, Lanes, Owner

A, B = (Owner(Address(name, 1), epoch) for epoch, name in enumerate("ab", 1))


class Road:
    """Lanes, and what became of what was put on them."""

    def __init__(self, length_max: int = 10) -> None:
        self.owner: Owner | None = A
        self.sent: list[tuple[int, Owner | None]] = []
        self.absent: list[int] = []
        #: Over as soon as it is sent.
        self.at_once = False
        self.lanes = Lanes(lambda client_id: self.owner, self._send, self._absent, length_max)

    def _send(self, errand: Errand) -> None:
        self.sent.append((errand.number, errand.target))
        if self.at_once:
            self.lanes.done(errand)

    def _absent(self, errand: Errand) -> None:
        self.absent.append(errand.number)

    def add(self, *numbers: int) -> list[Errand]:
        errands = [Errand("client", number, None) for number in numbers]
        assert [self.lanes.add(errand) for errand in errands] == [True] * len(numbers)
        return errands


def test_what_goes_to_one_connection_does_not_wait() -> None:
    road = Road()
    errands = road.add(1, 2, 3)
    assert road.sent == [(1, A), (2, A), (3, A)]
    for errand in reversed(errands):
        road.lanes.done(errand)
    assert len(road.lanes) == 0


def test_what_is_over_at_once_leaves_nothing() -> None:
    road = Road()
    road.at_once = True
    road.add(1, 2)
    assert road.sent == [(1, A), (2, A)]
    assert len(road.lanes) == 0


def test_a_client_that_is_nowhere_gets_nothing() -> None:
    road = Road()
    road.owner = None
    [errand] = road.add(1)
    assert (road.absent, road.sent, errand.open, len(road.lanes)) == ([1], [], False, 0)
    road.lanes.done(errand)


def test_the_old_connection_is_awaited_before_the_new_one_is_sent_anything() -> None:
    road = Road()
    one, two = road.add(1, 2)
    road.owner = B
    three, four = road.add(3, 4)
    assert road.sent == [(1, A), (2, A)]
    road.lanes.again(one)
    assert len(road.sent) == 2, "the second may still come back"
    road.lanes.done(two)
    assert road.sent[2:] == [(1, B), (3, B), (4, B)]
    assert (one.tries, three.tries) == (2, 1)
    for errand in (one, three, four):
        road.lanes.done(errand)
    assert len(road.lanes) == 0


def test_nothing_younger_passes_what_may_be_sent_again() -> None:
    road = Road()
    one, two = road.add(1, 2)
    road.lanes.look(two)
    [three] = road.add(3)
    assert road.sent == [(1, A), (2, A)]
    road.lanes.look(one)
    road.owner = B
    road.lanes.again(one)
    assert road.sent[2:] == [(1, B)]
    road.lanes.again(two)
    assert road.sent[3:] == [(2, B), (3, B)]
    for errand in (one, two, three):
        road.lanes.done(errand)
        road.lanes.done(errand)
    assert len(road.lanes) == 0


def test_what_is_given_up_makes_way() -> None:
    road = Road()
    one, two = road.add(1, 2)
    road.owner = B
    three, four = road.add(3, 4)
    road.lanes.look(one)
    road.lanes.done(three)
    road.lanes.done(one)
    assert road.sent == [(1, A), (2, A)]
    road.lanes.done(two)
    assert road.sent[2:] == [(4, B)]
    assert four.open
    assert not three.open


def test_a_lane_is_bounded() -> None:
    road = Road(length_max=3)
    one, two, _ = road.add(1, 2, 3)
    road.lanes.look(two)
    assert not road.lanes.add(Errand("client", 4, None))
    assert road.lanes.add(Errand("another", 5, None))
    road.lanes.done(one)
    assert road.lanes.add(Errand("client", 6, None))
