"""Who has more than its share, when something may be done about it, and that a whole cluster comes to rest by it."""

import random
from collections import Counter

import pytest

from proxy import limits
from proxy.cluster.balance import Balance, is_calm
from proxy.cluster.nodes import Node

STEADY = limits.REBALANCE_STEADY_SECONDS


def nodes(*connections: int, since: float = 0.0, state: str = "serving") -> list[Node]:
    """Replicas a, b, c …; all have been there since that time."""
    return [Node(name, 1, 0.0, state, "", count, since) for name, count in zip("abcdef", connections, strict=False)]


def test_who_is_far_above_the_mean_lets_go_down_to_it() -> None:
    balance, there = Balance("a"), nodes(200, 100, 0)
    assert balance.decide(there, 100.0) is None
    assert balance.decide(there, 100.0 + STEADY - 0.1) is None
    share = balance.decide(there, 100.0 + STEADY)
    assert share is not None
    assert share.devices == 100
    # Those that came within the first seconds after the last change may not be at home either.
    assert share.seconds == 100.0 + STEADY - limits.REBALANCE_NOTICE_SECONDS
    assert balance.decide(there, 100.1 + STEADY) is None, "once, then it looks how it went"
    assert balance.decide(there, 100.0 + 2 * STEADY) is not None


@pytest.mark.parametrize(
    "connections",
    [(110, 95, 95), (100, 200, 0), (24, 16, 8), (0, 0, 0), (100,), ()],
    ids=["little", "another", "few", "none", "alone", "nobody"],
)
def test_what_is_no_reason(connections: tuple[int, ...]) -> None:
    balance, there = Balance("a"), nodes(*connections)
    assert [balance.decide(there, now) for now in (0.0, STEADY, 5 * STEADY)] == [None] * 3


@pytest.mark.parametrize("state", ["draining", "joining"])
def test_nobody_is_moved_while_a_replica_takes_no_devices(state: str) -> None:
    balance, there = Balance("a"), nodes(200, 100, 0)
    there[2].state = state
    assert not is_calm(there)
    assert [balance.decide(there, now) for now in (0.0, STEADY, 5 * STEADY)] == [None] * 3


@pytest.mark.parametrize("change", ["incarnation", "name", "connections", "one more"])
def test_any_change_begins_the_wait_anew(change: str) -> None:
    balance, there = Balance("a"), nodes(200, 100, 0)
    assert balance.decide(there, 0.0) is None
    if change == "one more":
        there.append(Node("z", 1, 0.0, "serving", "", 0, 0.0))
    elif change == "name":
        there[1].name = "z"
    else:
        setattr(there[1], change, getattr(there[1], change) + 50)
    assert balance.decide(there, STEADY) is None
    assert balance.decide(there, 2 * STEADY - 0.1) is None
    assert balance.decide(there, 2 * STEADY) is not None


def test_devices_that_come_and_go_are_no_change() -> None:
    balance = Balance("a")
    decided = [
        balance.decide(nodes(1000 + second % 9, 500 - second % 7, 3 + second % 2), float(second))
        for second in range(11)
    ]
    assert decided[:10] == [None] * 10
    assert decided[10] is not None


class Fleet:
    """Devices at replicas as a consistent hash places them: each has an order of replicas, and the first one that takes
    devices is where it connects.
    """

    def __init__(self, devices: int, weights: list[int], seed: int) -> None:
        self.random = random.Random(seed)
        self.now = 60.0
        self.names = "abcdef"[: len(weights)]
        self.orders = [self._order(weights) for _ in range(devices)]
        self.nodes = nodes(*weights)
        self.balances = {name: Balance(name) for name in self.names}
        self.at: dict[int, tuple[str, float]] = {}
        self.told: Counter[int] = Counter()
        for device in range(devices):
            self.connect(device)

    def _order(self, weights: list[int]) -> list[str]:
        return sorted(self.names, key=lambda name: -(self.random.random() ** (1 / weights[self.names.index(name)])))

    def connect(self, device: int) -> None:
        takes = {node.name for node in self.nodes if node.state == "serving"}
        self.at[device] = (next(name for name in self.orders[device] if name in takes), self.now)

    def count(self) -> dict[str, int]:
        counts = Counter(name for name, _ in self.at.values())
        return {name: counts[name] for name in self.names}

    def restart(self, node: Node) -> None:
        self.tell(node, "draining")
        for device, (name, _) in self.at.items():
            if name == node.name:
                self.connect(device)
        self.wait(15)
        node.incarnation += 1
        self.tell(node, "serving")
        self.wait(5)

    def tell(self, node: Node, state: str) -> None:
        node.state, node.since = state, self.now

    def wait(self, seconds: int) -> None:
        for _ in range(seconds):
            self.now += 1.0
            for node, count in zip(self.nodes, self.count().values(), strict=True):
                node.connections = count
            for name, balance in self.balances.items():
                share = balance.decide(self.nodes, self.now)
                if share is not None:
                    here = [each for each, (at, since) in self.at.items() if at == name]
                    here = [each for each in here if self.at[each][1] < self.now - share.seconds]
                    for device in here[: share.devices]:
                        self.told[device] += 1
                        self.connect(device)


@pytest.mark.parametrize("seed", range(3))
def test_a_rolling_restart_ends_where_it_began(seed: int) -> None:
    fleet = Fleet(1_500, [1, 1, 1], seed)
    before = fleet.count()
    for node in fleet.nodes:
        fleet.restart(node)
    uneven = fleet.count()
    assert uneven["c"] == 0
    assert max(uneven.values()) > 1.5 * 500
    fleet.wait(300)
    after = fleet.count()
    assert max(after.values()) <= 1.2 * 500, (before, uneven, after)
    assert max(fleet.told.values()) == 1
    told = fleet.told.total()
    fleet.wait(600)
    assert fleet.told.total() == told, "it is at rest"


@pytest.mark.parametrize("seed", range(3))
def test_where_the_hash_is_uneven_there_is_an_end_to_it(seed: int) -> None:
    """Nobody is told twice, though the first replica stays far above the mean for ever."""
    fleet = Fleet(500, [6, 2, 2], seed)
    fleet.restart(fleet.nodes[1])
    fleet.wait(600)
    assert fleet.count()["a"] > 1.4 * 166
    assert max(fleet.told.values()) == 1
    told = fleet.told.total()
    fleet.wait(600)
    assert fleet.told.total() == told


def test_a_cluster_that_nobody_touches_stays_as_it_is() -> None:
    fleet = Fleet(500, [6, 2, 2], 1)
    fleet.wait(600)
    assert not fleet.told
