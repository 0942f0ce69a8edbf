"""Topic filters of rules: what they take, what their named levels are, and that the trie agrees with each alone."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from proxy.limits import TOPIC_LEVELS_NAMED_MAX
from proxy.policy.filters import FilterTrie, parse_filter


@pytest.mark.parametrize(
    ("topic_filter", "taken", "left"),
    [
        ("a/b", ["a/b"], ["a", "a/b/", "a/b/c", "/a/b", "A/b", ""]),
        ("+", ["a", ""], ["a/b", "/", "$a"]),
        ("a/+/c", ["a/b/c", "a//c"], ["a/c", "a/b/c/d", "a/b/d"]),
        ("#", ["a", "", "/", "a/b/c"], ["$SYS", "$SYS/a"]),
        ("+/b", ["a/b", "/b"], ["$SYS/b", "a/b/c"]),
        # `a/#` takes its parent level too (4.7.1.2).
        ("a/#", ["a", "a/", "a/b", "a/b/c/d"], ["ab", "b", "", "aa/b"]),
        ("a/{x}/#", ["a/b", "a/", "a/b/c"], ["a", "b/a/c"]),
        ("/", ["/"], ["", "//", "a/"]),
        ("tlink/{pk}/{dn}/ota/#", ["tlink/p/d/ota", "tlink/p/d/ota/x/y"], ["tlink/p/ota", "tlink/p/d/e/ota"]),
    ],
)
def test_what_a_filter_takes(topic_filter: str, taken: list[str], left: list[str]) -> None:
    parsed = parse_filter(topic_filter)
    assert [name for name in (*taken, *left) if parsed.matches(name)] == taken


def test_named_levels() -> None:
    parsed = parse_filter("tlink/{product_key}/+/{device}/#")
    assert parsed.captures("tlink/pk//d/a/b") == {"product_key": "pk", "device": "d"}
    assert parsed.captures("tlink/pk/x/") == {"product_key": "pk", "device": ""}
    assert parse_filter("tlink/+/#").captures("tlink/a") == {}


@pytest.mark.parametrize(
    ("topic_filter", "complaint"),
    [
        ("", "empty"),
        ("a/#/b", "wildcard where none may stand"),
        ("a+/b", "wildcard where none may stand"),
        ("a/b#", "wildcard where none may stand"),
        ("a/x{b}", "stands alone in its level"),
        ("a/{b", "stands alone in its level"),
        ("a/{}", "stands alone in its level"),
        ("a/{b c}", "stands alone in its level"),
        ("{a}/{a}", "twice"),
        ("$SYS/#", "the server's own"),
        ("$share/g/a", "the server's own"),
        ("a/\0", "U\\+0000"),
        ("a/\ud800", "utf-8|surrogates"),
        ("/".join("a" * (TOPIC_LEVELS_NAMED_MAX + 1)), f"at most {TOPIC_LEVELS_NAMED_MAX}"),
    ],
)
def test_a_filter_that_is_none(topic_filter: str, complaint: str) -> None:
    with pytest.raises(ValueError, match=complaint):
        parse_filter(topic_filter)


def test_the_most_levels_that_a_filter_may_have() -> None:
    longest = "/".join("a" * TOPIC_LEVELS_NAMED_MAX)
    trie = FilterTrie()
    trie.add(parse_filter(longest).levels, 7)
    assert trie.find(longest) == [7]
    assert trie.find(longest + "/a") == []


@pytest.mark.parametrize(
    ("topic_filter", "head", "is_exact"),
    [("a/b", "a/b", True), ("a/+/b", "a/", False), ("a/#", "a", False), ("#", "", False), ("+/a", "", False),
     ("a/b/+/#", "a/b/", False)],
)  # fmt: skip
def test_what_every_name_begins_with(topic_filter: str, head: str, is_exact: bool) -> None:
    parsed = parse_filter(topic_filter)
    assert (parsed.head, parsed.is_exact) == (head, is_exact)


LEVELS = st.sampled_from(["a", "b", ""])
NAMES = st.lists(LEVELS, min_size=1, max_size=5).map("/".join)
FILTERS = st.tuples(st.lists(st.one_of(LEVELS, st.just("+")), min_size=0, max_size=4), st.sampled_from(["", "#"])).map(
    lambda parts: "/".join([*parts[0], *([parts[1]] if parts[1] else [])]) or "#"
)


@given(st.lists(FILTERS, max_size=12), NAMES)
def test_the_trie_finds_what_each_filter_takes(filters: list[str], name: str) -> None:
    parsed = [parse_filter(each) for each in filters]
    trie = FilterTrie()
    for number, each in enumerate(parsed):
        trie.add(each.levels, number)
    assert sorted(trie.find(name)) == [number for number, each in enumerate(parsed) if each.matches(name)]


@given(FILTERS, FILTERS, st.lists(NAMES, max_size=20))
def test_who_covers_takes_everything_that_the_covered_takes(wide: str, narrow: str, names: list[str]) -> None:
    trie = FilterTrie()
    trie.add(parse_filter(wide).levels, 0)
    if trie.covering(parse_filter(narrow).levels):
        taken = [name for name in names if parse_filter(narrow).matches(name)]
        assert [name for name in taken if not parse_filter(wide).matches(name)] == []


@pytest.mark.parametrize(
    ("wide", "narrow", "covers"),
    [("a/#", "a/b", True), ("a/#", "a", True), ("a/+", "a/b", True), ("+/+", "a/+", True), ("#", "a/+/#", True),
     ("a/+", "a/#", False), ("a/+/#", "a/#", False), ("a/b", "a/+", False), ("a/+", "b/+", False)],
)  # fmt: skip
def test_who_covers_whom(wide: str, narrow: str, covers: bool) -> None:
    trie = FilterTrie()
    trie.add(parse_filter(wide).levels, 0)
    assert trie.covering(parse_filter(narrow).levels) == ([0] if covers else [])
