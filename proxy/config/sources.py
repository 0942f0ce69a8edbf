"""How the settings come together: the TOML file, the environment and the flags laid over each other."""

import json
import re
import tomllib
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Final, NamedTuple, get_args, get_origin

from pydantic import TypeAdapter, ValidationError

from proxy.config.problems import ConfigErrors, explain, is_under, mask
from proxy.config.settings import Settings
from proxy.errors import ConfigError

_ENVIRONMENT_PREFIX: Final = "MQK_"
#: What the commands that ask a running replica take from the environment.
_NO_SETTINGS: Final = frozenset({"MQK_ADMIN_TOKEN"})
#: What Kubernetes puts into every pod for a service named mqk or mqk-something: not settings, and not the user's doing.
_SERVICE_LINK: Final = re.compile(
    r"MQK_([A-Z0-9]+_)*(SERVICE_HOST|SERVICE_PORT(_[A-Z0-9]+)*|PORT(_\d+_[A-Z]+(_[A-Z]+)?)?)"
)


class Loaded(NamedTuple):
    """The settings in force, and for each of them where it came from."""

    settings: Settings
    origin: dict[str, str]

    def effective(self) -> list[tuple[str, object, str]]:
        """Key, value and origin of every setting, secrets masked."""
        return [(key, value, self.origin[key]) for key, value in masked(self.settings)]


def masked(settings: Settings) -> list[tuple[str, object]]:
    """Key and value of every setting, secrets masked."""
    return [(key, mask(key, value)) for key, value in _leaves(settings.model_dump(mode="json"))]


def load(
    path: Path | None,
    overrides: Sequence[str] = (),
    environ: Mapping[str, str] | None = None,
    base: Mapping[str, Any] | None = None,
) -> Loaded:
    """Settings from `overrides` (`key=value`), before `environ`, before the TOML file, before `base`.

    `base` is what a command assumes. Raises ConfigErrors with every problem, not only the first.
    """
    layers = _Layers()
    layers.add_table(base or {}, "command")
    if path:
        layers.add_table(_read_toml(path), f"file {path}")
    layers.add_environment(environ or {})
    layers.add_flags(overrides)
    directory = path.parent if path else Path()
    try:
        settings = Settings.model_validate(layers.data, context={"directory": directory})
    except ValidationError as error:
        raise ConfigErrors(layers.problems + explain(error, layers.origin)) from error
    if layers.problems:
        raise ConfigErrors(layers.problems)
    keys = (key for key, _ in _leaves(settings.model_dump(mode="json")))
    return Loaded(settings, {key: layers.origin.get(key, "default") for key in keys})


class _Layers:
    """The sources laid over each other: nested data for the models, and who said what."""

    def __init__(self) -> None:
        self.data: dict[str, Any] = {}
        self.origin: dict[str, str] = {}
        self.problems: list[ConfigError] = []

    def add_table(self, table: Mapping[str, Any], origin: str, above: tuple[str, ...] = ()) -> None:
        for name, value in table.items():
            if isinstance(value, dict):
                self.add_table(value, origin, (*above, name))
            else:
                self._put((*above, name), value, origin)

    def add_environment(self, environ: Mapping[str, str]) -> None:
        for name, text in sorted(environ.items()):
            ours = name.startswith(_ENVIRONMENT_PREFIX) and name not in _NO_SETTINGS
            if ours and not _SERVICE_LINK.fullmatch(name):
                keys = name.removeprefix(_ENVIRONMENT_PREFIX).lower().split("__")
                self._put_text(keys, text, f"environment {name}")

    def add_flags(self, overrides: Sequence[str]) -> None:
        for override in overrides:
            key, equals, text = override.partition("=")
            if equals and key:
                self._put_text(key.strip().split("."), text, "flag")
            else:
                self.problems.append(ConfigError("--set", f"write key=value, not {override!r}"))

    def _put_text(self, keys: Sequence[str], text: str, origin: str) -> None:
        try:
            self._put(keys, _from_text(_annotation(keys), text), origin)
        except ValueError as error:
            self.problems.append(ConfigError(".".join(keys), f"{error} [{origin}]"))

    def _put(self, keys: Sequence[str], value: object, origin: str) -> None:
        table = self.data
        for name in keys[:-1]:
            if not isinstance(table.get(name), dict):
                table[name] = {}
            table = table[name]
        key = ".".join(keys)
        if keys[-1] in table:
            # A list is replaced as a whole, so nothing of the lower layers' list is left.
            self.origin = {other: said for other, said in self.origin.items() if not is_under(other, key)}
        table[keys[-1]] = value
        self.origin |= {leaf: origin for leaf, _ in _leaves({key: value})} | {key: origin}


def _read_toml(path: Path) -> dict[str, Any]:
    try:
        return tomllib.loads(path.read_bytes().decode())
    except OSError as error:
        raise ConfigErrors([ConfigError(str(path), f"cannot be read: {error.strerror}")]) from error
    except ValueError as error:
        raise ConfigErrors([ConfigError(str(path), f"is not TOML: {error}")]) from error


def _annotation(keys: Sequence[str]) -> Any:
    """The type of the setting of that name; Any when there is none, which the models will say."""
    model: Any = Settings
    for name in keys:
        if get_origin(model) is dict:
            model = get_args(model)[1]
            continue
        field = getattr(model, "model_fields", {}).get(name)
        if not field:
            return Any
        model = field.annotation
    return model


def _from_text(annotation: Any, text: str) -> object:
    """What a flag or an environment variable means: lists as JSON or with commas, the rest as the type reads it."""
    if get_origin(annotation) is list:
        if text.lstrip().startswith("["):
            return _from_json(text)
        if hasattr(get_args(annotation)[0], "model_fields"):
            raise ValueError('should be a list of tables in JSON: [{"key": "value"}]')
        return [part.strip() for part in text.split(",") if part.strip()]
    try:
        return TypeAdapter(annotation).validate_python(text)
    except ValidationError:
        # The models refuse the text too, with the name of the setting and together with every other problem.
        return text


def _from_json(text: str) -> object:
    try:
        return json.loads(text)
    except ValueError as error:
        raise ValueError(f"begins like a list in JSON, and is none: {error}") from error


def _leaves(table: Mapping[str, Any], above: str = "") -> Iterator[tuple[str, Any]]:
    """Dotted keys and values; a list of tables is walked into, any other list is a value."""
    for name, value in table.items():
        key = f"{above}{name}"
        if isinstance(value, dict):
            yield from _leaves(value, f"{key}.")
        elif isinstance(value, list) and any(isinstance(item, dict) for item in value):
            for index, item in enumerate(value):
                yield from _leaves({f"{key}[{index}]": item})
        else:
            yield key, value
