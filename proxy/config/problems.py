"""What is said of a setting that cannot be used: not here yet, misspelt, or out of bounds; and what is never shown."""

import difflib
import json
import re
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, Final, get_args, get_origin

from pydantic import ValidationError
from pydantic_core import ErrorDetails

import proxy
from proxy.config.settings import Settings
from proxy.errors import ConfigError

#: Settings that have a name, so that nobody else takes it, and no feature yet. What is under one of them is absent too.
ABSENT_KEYS: Final = frozenset(
    {
        # Kerberos takes a system library and a ticket that another program keeps fresh.
        "kafka.client.sasl_kerberos_service_name",
        "kafka.client.sasl_kerberos_domain_name",
        "listeners.tls",
        "limits.connections_per_source_max",
        "limits.publishes_per_second_per_client",
        "limits.bytes_per_second_per_client",
        "events",
    }
)
#: Values of settings that are there, of which the same is true.
ABSENT_VALUES: Final[Mapping[str, tuple[str, ...]]] = {
    "kafka.client.sasl_mechanism": ("GSSAPI",),
    "listeners.transport": ("websocket",),
    "auth.chain.type": ("http", "jwt", "certificate", "device_signature"),
}

#: What is said of a setting of `[kafka]` is true of the same one of a further cluster.
_FURTHER_CLUSTER: Final = re.compile(r"^kafka\.clusters\.[^.]+(?=\.)")
_SECRET: Final = re.compile(r"password|secret|token(?!_endpoint)|credential|private")


#: Where pydantic says that a name is wrong, not what has that name.
_KEY: Final = "[key]"


class ConfigErrors(ConfigError):
    """Everything that is wrong with a configuration, one line each."""

    def __init__(self, problems: Sequence[ConfigError]) -> None:
        super().__init__(problems[0].setting, problems[0].message)
        self.problems = tuple(problems)

    def __str__(self) -> str:
        return "\n".join(str(problem) for problem in self.problems)


def mask(key: str, value: object) -> object:
    """`value`, unless the name of the setting says that it is nobody's business."""
    return "********" if value and _SECRET.search(key.rpartition(".")[2]) else value


def explain(error: ValidationError, origin: Mapping[str, str]) -> list[ConfigError]:
    """What pydantic found, in our words: the key, what is wrong with it, and in brackets who said it."""
    details = error.errors()
    # What belongs to an authenticator that is absent is not unknown; its type says enough.
    absent = {detail["loc"][:-1] for detail in details if detail["loc"][-1] == "type" and _is_absent(detail)}
    problems = []
    for detail in details:
        if detail["loc"][:-1] in absent and detail["loc"][-1] != "type":
            continue
        key = _dotted(detail["loc"])
        said = _origin(key, origin)
        problems.append(ConfigError(key, _wording(detail) + (f" [{said}]" if said else "")))
    return problems


def _wording(detail: ErrorDetails) -> str:
    given = json.dumps(mask(_dotted(detail["loc"]), detail["input"]), default=str)
    if _is_absent(detail):
        what = "" if detail["type"] == "extra_forbidden" else f"{given} is "
        return f"{what}not in this version ({proxy.__version__})"
    if detail["type"] == "extra_forbidden":
        return f"unknown setting{_suggestion(_name(detail['loc']))}"
    if detail["type"] == "value_error":
        return f"{detail['ctx']['error']}" + (f", not {given}" if isinstance(detail["input"], str) else "")
    if detail["type"] == "not_together":
        return detail["msg"]
    if detail["type"] == "missing":
        return "has no default and must be given"
    if detail["type"] == "string_pattern_mismatch":
        return f"should be made of letters, digits, dots, underscores and hyphens, not {given}"
    if detail["type"] == "model_type":
        return f"should be a table, not {given}"
    text = detail["msg"].removeprefix("Input ")
    return f"{text[0].lower()}{text[1:]}" + ("" if detail["type"] == "too_short" else f", not {given}")


def _is_absent(detail: ErrorDetails) -> bool:
    name = _FURTHER_CLUSTER.sub("kafka", _name(detail["loc"]))
    if detail["type"] == "extra_forbidden":
        return any(is_under(name, key) for key in ABSENT_KEYS)
    return detail["type"] == "literal_error" and detail["input"] in ABSENT_VALUES.get(name, ())


def _suggestion(name: str) -> str:
    further = _FURTHER_CLUSTER.match(name)
    known = [*_names(Settings), *sorted(ABSENT_KEYS)]
    name = _FURTHER_CLUSTER.sub("kafka", name)
    if name in known:
        return "; it stands in [kafka], for all clusters"
    nearest = difflib.get_close_matches(name, known, 1)
    if further and nearest:
        nearest[0] = nearest[0].replace("kafka", further[0], 1)
    return f"; did you mean {nearest[0]}?" if nearest else ""


def _names(model: Any, above: str = "") -> Iterator[str]:
    for name, field in model.model_fields.items():
        yield above + name
        inner = get_args(field.annotation)[0] if get_origin(field.annotation) is list else field.annotation
        if hasattr(inner, "model_fields"):
            yield from _names(inner, f"{above}{name}.")


def _name(loc: tuple[int | str, ...]) -> str:
    """`listeners.bind`: which setting it is."""
    return ".".join(part for part in loc if isinstance(part, str) and part != _KEY)


def _dotted(loc: tuple[int | str, ...]) -> str:
    """`listeners[0].bind`: which value it is."""
    parts = (f"[{part}]" if isinstance(part, int) else f".{part}" for part in loc if part != _KEY)
    return "".join(parts).removeprefix(".")


def is_under(key: str, above: str) -> bool:
    """Whether `key` is `above`, or stands in that table or list."""
    return key == above or key.startswith((f"{above}.", f"{above}["))


def _origin(key: str, origin: Mapping[str, str]) -> str | None:
    """Who said it: this key, else something under it, else the list that it stands in."""
    inner = (said for other, said in origin.items() if is_under(other, key))
    return origin.get(key) or next(inner, None) or (_origin(key.rpartition("[")[0], origin) if "[" in key else None)
