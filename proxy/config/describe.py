"""The documentation of the settings, read off the models."""

import json
from collections.abc import Iterator, Mapping
from typing import Any, NamedTuple

from proxy.config.settings import Settings


class Row(NamedTuple):
    """One setting as it is documented."""

    key: str
    type: str
    default: str
    unit: str
    meaning: str


def describe() -> list[Row]:
    """Every setting, in the order of the models."""
    schema = Settings.model_json_schema()
    return list(_rows(schema, schema["$defs"], ""))


def _rows(table: Mapping[str, Any], tables: Mapping[str, Any], above: str) -> Iterator[Row]:
    for name, field in table["properties"].items():
        key = above + name
        if "$ref" in field:
            yield from _rows(_resolve(field, tables), tables, f"{key}.")
            continue
        if "additionalProperties" in field:
            yield Row(key, "tables by name", "none", "", field["description"])
            yield from _rows(_resolve(field["additionalProperties"], tables), tables, f"{key}.NAME.")
            continue
        default = json.dumps(field["default"]) if field.get("default") is not None else _no_default(name, table)
        yield Row(key, _type(field), default, _unit(name), field.get("description", ""))
        if "$ref" in field.get("items", {}):
            yield from _rows(_resolve(field["items"], tables), tables, f"{key}[].")


def _resolve(field: Mapping[str, Any], tables: Mapping[str, Any]) -> Mapping[str, Any]:
    table: Mapping[str, Any] = tables[field["$ref"].rpartition("/")[2]]
    return table


def _no_default(name: str, table: Mapping[str, Any]) -> str:
    return "required" if name in table.get("required", ()) else "unset"


def _type(field: Mapping[str, Any]) -> str:
    if "anyOf" in field:
        return next(_type(choice) for choice in field["anyOf"] if choice["type"] != "null")
    if "const" in field or "enum" in field:
        return " | ".join(field.get("enum", [field.get("const")]))
    if field["type"] == "array":
        return "list of tables" if "$ref" in field["items"] else f"list of {_type(field['items'])}"
    if field["type"] == "integer":
        return f"integer {field['minimum']}..{field.get('maximum', '')}"
    return "true | false" if field["type"] == "boolean" else str(field.get("format", "text"))


def _unit(name: str) -> str:
    for ending, unit in (("_seconds", "seconds"), ("_bytes_max", "bytes"), ("_per_second_max", "per second")):
        if name.endswith(ending):
            return unit
    return ""
