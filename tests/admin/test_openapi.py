"""The document says what the code does: every request is in it, and every reference leads somewhere."""

import json
import re
from typing import Any

from pydantic.json_schema import GenerateJsonSchema

from proxy.admin.openapi import document
from proxy.admin.routes import ENDPOINTS
from tests.admin.parts import READ, Door

DOCUMENT = document(ENDPOINTS)


def test_every_request_is_in_it() -> None:
    described = {(method.upper(), path) for path, methods in DOCUMENT["paths"].items() for method in methods}
    assert described == {(each.method, each.path) for each in ENDPOINTS}
    assert len(described) == len(ENDPOINTS)


def test_every_operation_has_a_name_of_its_own() -> None:
    names = [operation["operationId"] for methods in DOCUMENT["paths"].values() for operation in methods.values()]
    assert len(set(names)) == len(names)


def test_every_reference_leads_somewhere_and_every_schema_is_used() -> None:
    references = set(re.findall(r'"#/components/schemas/(\w+)"', json.dumps(DOCUMENT)))
    assert references == DOCUMENT["components"]["schemas"].keys()


def test_schemas_are_those_of_the_dialect_of_openapi_3_1() -> None:
    assert DOCUMENT["openapi"].startswith("3.1")
    assert GenerateJsonSchema.schema_dialect == "https://json-schema.org/draft/2020-12/schema"


def test_paths_name_their_parts() -> None:
    for path, methods in DOCUMENT["paths"].items():
        for operation in methods.values():
            said = [each["name"] for each in operation["parameters"] if each["in"] == "path"]
            assert said == re.findall(r"{(\w+)}", path)


async def test_it_is_served(door: Door) -> None:
    answer: Any = await door.ask("GET", "/v1/openapi.json", token=READ)
    assert answer.json() == json.loads(json.dumps(DOCUMENT))
