"""Regular expressions of rules: RE2's language, several at once, and what is said where the extra is missing."""

import sys
import time

import pytest

from proxy.policy import regexes
from proxy.policy.regexes import MissingExtraError, Regex, RegexSet


def test_it_is_found_anywhere_unless_it_says_otherwise() -> None:
    assert Regex("b+").matches("a/bb/c")
    assert not Regex("^b+").matches("a/bb/c")
    assert Regex("größe").matches("a/größe/c")


def test_named_groups() -> None:
    regex = Regex("^plants/(?P<plant>[^/]+)/(.*)(?P<kind>alarm)?")
    assert set(regex.names) == {"plant", "kind"}
    assert regex.captures("plants/berlin/x") == {"plant": "berlin", "kind": ""}
    assert Regex("a").captures("a") == {}


@pytest.mark.parametrize("text", ["(a", r"(a)\1", "a(?=b)", "*"])
def test_what_re2_does_not_know(capfd: pytest.CaptureFixture[str], text: str) -> None:
    with pytest.raises(ValueError, match="no regular expression of RE2"):
        Regex(text)
    assert capfd.readouterr().err == ""


def test_time_is_linear() -> None:
    regex = Regex("^(a+)+$")
    began = time.process_time()
    assert not regex.matches("a" * 65_000 + "b")
    # Backtracking would take longer than the universe has.
    assert time.process_time() - began < 5


@pytest.mark.parametrize("count", [0, 1, 2, 50])
def test_a_set_finds_what_each_finds(count: int) -> None:
    each = {number * 10: Regex(f"^a/{number}(/|$)") for number in range(count)} | {999: Regex("b$")}
    for name in ("a/1", "a/1/b", "b", "c", "", "a/49/x/b"):
        assert RegexSet(each).find(name) == {number for number, regex in each.items() if regex.matches(name)}


def test_a_set_that_does_not_fit_asks_each_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(regexes, "REGEX_MEMORY_BYTES_MAX", 1)
    together = RegexSet({1: Regex("^a"), 2: Regex("b$")})
    assert (together.find("ab"), together.find("x")) == ({1, 2}, set())


def test_a_set_that_runs_out_of_memory_asks_each_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    class Exhausted:
        """What RE2 does then: nothing matches, not even the empty expression."""

        def Match(self, _text: str) -> list[int]:
            return []

    monkeypatch.setattr(regexes, "_compiled_set", lambda _regexes: Exhausted())
    together = RegexSet({1: Regex("^a"), 2: Regex("b$")})
    assert (together.find("ab"), together.find("x")) == ({1, 2}, set())


def test_without_the_extra(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "re2", None)
    with pytest.raises(MissingExtraError, match=r"pip install 'mqtt-kafka-proxy\[regex\]'"):
        Regex("a")
    assert RegexSet({}).find("a") == set()
