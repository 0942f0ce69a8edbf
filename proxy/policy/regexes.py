"""Regular expressions of rules, by RE2: its time is linear in the text, so no device can send a name that stops us."""

from collections.abc import Mapping, Sequence
from typing import Any

from proxy.limits import REGEX_MEMORY_BYTES_MAX


class MissingExtraError(Exception):
    """The optional dependency is not installed."""


def _re2() -> Any:
    try:
        import re2  # noqa: PLC0415 - an extra, needed by rules with a regex alone
    except ImportError:
        raise MissingExtraError("needs an extra: pip install 'mqtt-kafka-proxy[regex]'") from None
    return re2


class Regex:
    """One expression, found anywhere in a name unless it says `^`."""

    __slots__ = ("_compiled", "names", "text")

    def __init__(self, text: str) -> None:
        """Raises ValueError: it is none, and MissingExtraError."""
        re2 = _re2()
        options = re2.Options()
        options.log_errors = False
        try:
            self._compiled = re2.compile(text, options)
        except re2.error as error:
            complaint = error.args[0]
            said = complaint.decode(errors="replace") if isinstance(complaint, bytes) else complaint
            raise ValueError(f"no regular expression of RE2: {said}") from None
        self.text = text
        self.names: Mapping[str, int] = self._compiled.groupindex

    def matches(self, topic_name: str) -> bool:
        return self._compiled.search(topic_name) is not None

    def captures(self, topic_name: str) -> dict[str, str]:
        """What the named groups are in a name that matches; one that took no part is empty."""
        if not self.names:
            return {}
        found = self._compiled.search(topic_name)
        return {name: found[name] or "" for name in self.names}


class RegexSet:
    """Many expressions, tried in one pass over a name."""

    __slots__ = ("_regexes", "_set")

    def __init__(self, regexes: Mapping[int, Regex]) -> None:
        """`regexes` under the numbers that `find` answers with."""
        self._regexes = dict(regexes)
        self._set: Any = _compiled_set(list(self._regexes.values())) if len(self._regexes) > 1 else None

    def find(self, topic_name: str) -> set[int]:
        """The numbers of all that match."""
        numbers = list(self._regexes)
        found = self._set.Match(topic_name) if self._set is not None else []
        if found:
            return {numbers[index] for index in found if index < len(numbers)}
        return {number for number, regex in self._regexes.items() if regex.matches(topic_name)}


def _compiled_set(regexes: Sequence[Regex]) -> Any:
    """None when there is not enough memory for all of them together."""
    re2 = _re2()
    options = re2.Options()
    options.log_errors = False
    options.max_mem = REGEX_MEMORY_BYTES_MAX
    together = re2.Set.SearchSet(options)
    for regex in regexes:
        together.Add(regex.text)
    # Matches everything, so that silence means that the set has run out of memory.
    together.Add("")
    try:
        together.Compile()
    except re2.error:
        return None
    return together
