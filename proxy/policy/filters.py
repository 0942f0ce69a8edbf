"""Topic filters of rules: MQTT's wildcards, levels with a name, and a trie that finds all that match at once. Pure."""

import re
from typing import Final

from proxy.errors import MqttError
from proxy.limits import TOPIC_LEVELS_NAMED_MAX
from proxy.mqtt.topics import parse_topic_filter

_NAMED: Final = re.compile(r"\{([A-Za-z_][A-Za-z0-9_]*)\}", re.ASCII)


class Filter:
    """`levels` without their names: a named one is `+` there."""

    __slots__ = ("head", "is_exact", "levels", "names", "text")

    def __init__(self, text: str, levels: list[str], names: dict[str, int]) -> None:
        self.text = text
        self.levels = levels
        #: Which level has which name.
        self.names = names
        several, rest = "+" in levels, levels[-1] == "#"
        #: It takes one name only.
        self.is_exact = not several and not rest
        #: The text that every name it matches begins with, up to the first wildcard; without one the name itself.
        self.head = (
            "/".join([*levels[: levels.index("+")], ""]) if several else "/".join(levels[:-1] if rest else levels)
        )

    def matches(self, topic_name: str) -> bool:
        levels = topic_name.split("/", len(self.levels))
        if topic_name.startswith("$") and self.levels[0] in {"+", "#"}:
            return False  # [MQTT-4.7.2-1]
        if self.levels[-1] == "#":
            fixed = self.levels[:-1]
            return len(levels) >= len(fixed) and _same(fixed, levels)
        return len(levels) == len(self.levels) and _same(self.levels, levels)

    def captures(self, topic_name: str) -> dict[str, str]:
        """What the named levels are in a name that matches."""
        if not self.names:
            return {}
        levels = topic_name.split("/", len(self.levels))
        return {name: levels[index] for name, index in self.names.items()}


def _same(wanted: list[str], levels: list[str]) -> bool:
    return all(each in {"+", level} for each, level in zip(wanted, levels, strict=False))


def parse_filter(text: str) -> Filter:
    """Raises ValueError that says what is wrong with it."""
    levels: list[str] = []
    names: dict[str, int] = {}
    for index, level in enumerate(text.split("/")):
        named = _NAMED.fullmatch(level)
        if named is None and ("{" in level or "}" in level):
            raise ValueError(f'level "{level}" of {text}: a name stands alone in its level, as in {{device_name}}')
        if named is not None and named[1] in names:
            raise ValueError(f"{{{named[1]}}} stands in {text} twice")
        if named is not None:
            names[named[1]] = index
        levels.append("+" if named is not None else level)
    try:
        parse_topic_filter("/".join(levels).encode())
    except (MqttError, UnicodeEncodeError) as error:
        raise ValueError(f"{text}: {error}") from None
    if text.startswith("$"):
        raise ValueError(f"{text}: a topic that begins with $ is the server's own, nothing there is forwarded")
    if len(levels) > TOPIC_LEVELS_NAMED_MAX:
        raise ValueError(f"{len(levels)} levels, at most {TOPIC_LEVELS_NAMED_MAX}")
    return Filter(text, levels, names)


class _Node:
    __slots__ = ("children", "here", "rest", "wild")

    def __init__(self) -> None:
        self.children: dict[str, _Node] = {}
        #: The child for `+`.
        self.wild: _Node | None = None
        #: Numbers of the filters that end here, and of those that end here with a `#`.
        self.here: list[int] = []
        self.rest: list[int] = []


class FilterTrie:
    """Many filters, each under a number. A look-up visits only branches that match so far."""

    def __init__(self) -> None:
        self._root = _Node()
        self._depth = 0

    def add(self, levels: list[str], number: int) -> None:
        self._depth = max(self._depth, len(levels))
        node = self._root
        for level in levels:
            if level == "#":
                node.rest.append(number)
                return
            if level == "+":
                node.wild = node.wild or _Node()
                node = node.wild
            else:
                node = node.children.setdefault(level, _Node())
        node.here.append(number)

    def find(self, topic_name: str) -> list[int]:
        """The numbers of all filters that match a name which does not begin with `$`, in no order."""
        found: list[int] = []
        # What lies deeper than every filter stays together in one last piece: a name may have 32 768 levels.
        self._collect(self._root, topic_name.split("/", self._depth), 0, found)
        return found

    def covering(self, levels: list[str]) -> list[int]:
        """The numbers of all filters that take every name which this filter takes."""
        found: list[int] = []
        self._collect(self._root, levels, 0, found)
        return found

    def _collect(self, node: _Node, levels: list[str], index: int, found: list[int]) -> None:
        """`+` and `#` are never the text of a level, so as levels of a filter only wildcards match them."""
        found += node.rest
        if index == len(levels):
            found += node.here
            return
        level = levels[index]
        child = node.children.get(level)
        if child is not None:
            self._collect(child, levels, index + 1, found)
        if node.wild is not None and level != "#":
            self._collect(node.wild, levels, index + 1, found)
