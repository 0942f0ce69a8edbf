"""Who is alive: heartbeats, silences, and silences of the one who listens."""

import pytest

from proxy import limits
from proxy.cluster.nodes import NodeRegistry
from proxy.kafka.records import NodeRecord

SILENCE = limits.NODE_SILENCE_SECONDS_MAX


@pytest.fixture
def registry() -> NodeRegistry:
    return NodeRegistry(now=100.0)


def heartbeat(incarnation: int, connections: int = 0) -> NodeRecord:
    return NodeRecord("a", False, 1, incarnation, "serving", "10.0.0.1:8080", connections)


def test_who_is_heard_is_alive(registry: NodeRegistry) -> None:
    registry.read("a", heartbeat(5, 17), 100.0)
    (node,) = registry.alive(100.0 + SILENCE)
    assert (node.name, node.incarnation, node.state, node.connections) == ("a", 5, "serving", 17)
    assert not registry.is_dead("a", 5, 100.0 + SILENCE)


def test_since_when_it_is_as_it_is(registry: NodeRegistry) -> None:
    def since(record: NodeRecord, now: float) -> float:
        registry.read("a", record, now)
        return registry.nodes["a"].since

    assert since(heartbeat(5), 100.0) == 100.0
    assert since(heartbeat(5, connections=9), 102.0) == 100.0
    draining = NodeRecord("a", False, 1, 5, "draining", "10.0.0.1:8080", 9)
    assert [since(draining, 104.0), since(draining, 106.0)] == [104.0, 104.0]
    assert since(heartbeat(5), 108.0) == 108.0
    assert since(heartbeat(7), 110.0) == 110.0


def test_who_is_silent_is_dead_until_it_is_heard_again(registry: NodeRegistry) -> None:
    registry.read("a", heartbeat(5), 100.0)
    assert registry.is_dead("a", 5, 100.1 + SILENCE)
    assert registry.alive(100.1 + SILENCE) == []
    registry.read("a", heartbeat(5), 111.0)
    assert not registry.is_dead("a", 5, 111.0)


def test_older_incarnations_are_dead(registry: NodeRegistry) -> None:
    """Rule 8, and what arrives of an older one changes nothing."""
    registry.read("a", heartbeat(5), 100.0)
    registry.read("a", heartbeat(9), 101.0)
    registry.read("a", heartbeat(5), 109.0)
    assert registry.is_dead("a", 5, 109.0)
    assert not registry.is_dead("a", 9, 101.0 + SILENCE)
    assert registry.is_dead("a", 9, 101.1 + SILENCE)


def test_whose_own_reading_was_interrupted_counts_anew(registry: NodeRegistry) -> None:
    registry.read("a", heartbeat(5), 100.0)
    registry.interrupted(108.0)
    assert not registry.is_dead("a", 5, 108.0 + SILENCE)
    assert registry.is_dead("a", 5, 108.1 + SILENCE)


def test_a_name_that_was_never_heard_is_dead_after_the_same_time(registry: NodeRegistry) -> None:
    assert not registry.is_dead("b", 1, 100.0 + SILENCE)
    assert registry.is_dead("b", 1, 100.1 + SILENCE)
    registry.interrupted(110.0)
    assert not registry.is_dead("b", 1, 110.1)


def test_who_has_left_is_dead_at_once(registry: NodeRegistry) -> None:
    """After a while of its own: one that came back under the name may not have been read yet."""
    registry.read("a", heartbeat(5), 100.0)
    registry.read("a", None, 105.0)
    assert registry.alive(105.0) == []
    assert registry.is_dead("a", 5, 100.1 + SILENCE)


def test_the_generation_moves_when_somebody_may_have_died(registry: NodeRegistry) -> None:
    def moved(before: int) -> bool:
        return registry.generation != before

    seen = registry.generation
    registry.read("a", heartbeat(5), 100.0)
    assert moved(seen)
    seen = registry.generation
    registry.read("a", heartbeat(5), 101.0)
    registry.look(102.0)
    registry.read("b", None, 102.0)
    assert not moved(seen)
    registry.look(101.1 + SILENCE)
    assert moved(seen)
    seen = registry.generation
    registry.look(101.2 + SILENCE)
    assert not moved(seen)
    registry.read("a", heartbeat(5), 112.0)
    registry.look(112.0)
    assert moved(seen)
    seen = registry.generation
    registry.read("a", heartbeat(7), 112.0)
    assert moved(seen)
    seen = registry.generation
    registry.read("a", None, 113.0)
    assert moved(seen)
