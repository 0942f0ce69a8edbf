"""Text with `${variables}`, compiled once when the rules are loaded. Pure.

What is known at load becomes part of the text there; the rest is looked up in a `Scope` when a message is routed.
"""

import re
from collections.abc import Callable, Collection, Mapping, Sequence
from functools import partial
from typing import Final

from proxy.limits import TOPIC_LEVELS_NAMED_MAX

#: A template that uses no variable of a message has one value for all messages of a client under one topic name.
PER_TOPIC_NAME: Final = ("topic", "clientid", "username", "peer", "cert.cn")
PER_MESSAGE: Final = ("qos", "retain", "ts")
#: Known when the rules are loaded.
PER_LOAD: Final = ("prefix", "node")
RESERVED: Final = frozenset((*PER_TOPIC_NAME, *PER_MESSAGE, *PER_LOAD, "prop", "cert"))

_VARIABLE: Final = re.compile(r"\$\$\{|\$\{([^}]*)\}?")
_LEVEL: Final = re.compile(r"topic\.([1-9][0-9]{0,2})", re.ASCII)


class Scope:
    """What a template may speak of: a message, its topic name and the device behind it. `ts` is in milliseconds."""

    __slots__ = (
        "captures", "cert_cn", "client_id", "peer", "qos", "retain", "topic", "ts", "user_properties", "username"
    )  # fmt: skip

    def __init__(
        self,
        topic: str,
        client_id: str,
        username: str | None = None,
        peer: str = "",
        cert_cn: str | None = None,
        qos: int = 0,
        retain: bool = False,
        ts: int = 0,
        user_properties: Sequence[tuple[str, str]] = (),
    ) -> None:
        self.topic = topic
        self.client_id = client_id
        self.username = username
        self.peer = peer
        self.cert_cn = cert_cn
        self.qos = qos
        self.retain = retain
        self.ts = ts
        self.user_properties = user_properties
        #: Named levels and groups of the rule that matched.
        self.captures: Mapping[str, str] = {}


Part = Callable[[Scope], str]


class Template:
    """`parts` are texts and what to ask of a scope. A variable without a value is the empty text."""

    __slots__ = ("constant", "parts", "per_message", "text")

    def __init__(self, text: str, parts: list[str | Part], per_message: bool) -> None:
        self.text = text
        self.parts = parts
        #: Its value is another for each message.
        self.per_message = per_message
        #: Its value when it has only one.
        self.constant = "".join(map(str, parts)) if all(isinstance(part, str) for part in parts) else None

    def render(self, scope: Scope) -> str:
        if self.constant is not None:
            return self.constant
        return "".join([part if isinstance(part, str) else part(scope) for part in self.parts])


def compile_template(text: str, constants: Mapping[str, str], captures: Collection[str] = ()) -> Template:
    """`constants` are the variables of PER_LOAD, `captures` the names of levels and groups. `$${` stands for `${`.

    Raises ValueError that says which variable is unknown.
    """
    parts: list[str | Part] = []
    per_message = False
    end = 0
    for found in _VARIABLE.finditer(text):
        parts.append(text[end : found.start()])
        end = found.end()
        name = found[1]
        if name is None:
            parts.append("${")
            continue
        if not found[0].endswith("}"):
            raise ValueError(f"${{{name} has no closing brace")
        parts.append(constants[name] if name in constants else _variable(name, captures))
        per_message |= name in PER_MESSAGE or name.startswith("prop.")
    parts.append(text[end:])
    return Template(text, [part for part in parts if part != ""], per_message)


def _variable(name: str, captures: Collection[str]) -> Part:
    if name in captures:
        return partial(_capture, name)
    if name in _PARTS:
        return _PARTS[name]
    if level := _LEVEL.fullmatch(name):
        number = int(level[1])
        if number > TOPIC_LEVELS_NAMED_MAX:
            raise ValueError(f"${{{name}}} is beyond the last level that has a name, {TOPIC_LEVELS_NAMED_MAX}")
        return partial(_topic_level, number)
    if name.startswith("prop.") and name != "prop.":
        return partial(_user_property, name.removeprefix("prop."))
    known = [*PER_LOAD, *_PARTS, "topic.1, topic.2 …", "prop.NAME", *captures]
    raise ValueError(f"unknown variable ${{{name}}}; there are {', '.join(known)}")


def _capture(name: str, scope: Scope) -> str:
    return scope.captures[name]


def _topic_level(number: int, scope: Scope) -> str:
    """The first level is 1; a level that is not there is empty."""
    levels = scope.topic.split("/", number)
    return levels[number - 1] if number <= len(levels) else ""


def _user_property(name: str, scope: Scope) -> str:
    """The first user property of that name."""
    return next((value for each, value in scope.user_properties if each == name), "")


_PARTS: Final[Mapping[str, Part]] = {
    "topic": lambda scope: scope.topic,
    "clientid": lambda scope: scope.client_id,
    "username": lambda scope: scope.username or "",
    "peer": lambda scope: scope.peer,
    "cert.cn": lambda scope: scope.cert_cn or "",
    "qos": lambda scope: str(scope.qos),
    "retain": lambda scope: "1" if scope.retain else "0",
    "ts": lambda scope: str(scope.ts),
}
