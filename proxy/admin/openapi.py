"""The OpenAPI 3.1 document, made from the table of requests and the models that check them."""

import re
from collections.abc import Sequence
from typing import Any, Final

from pydantic import BaseModel
from pydantic.json_schema import models_json_schema

import proxy
from proxy.admin.api import Endpoint
from proxy.admin.models import ProblemOut
from proxy.admin.problems import MEDIA_TYPE

_REFERENCE: Final = "#/components/schemas/{model}"
_PROBLEMS: Final = {
    400: "The body is not JSON, or the path is not UTF-8.",
    401: "No token, or not one that is known.",
    403: "The token may only read.",
    404: "There is no such thing.",
    408: "The body did not arrive in time.",
    409: "There are as many as there may be.",
    412: "The connection is another one by now.",
    413: "The body is too large.",
    415: "The body is not application/json.",
    422: "A field is wrong.",
    500: "A bug of the proxy's.",
    503: "Not at the moment: Kafka does not answer, or too much is going on.",
}
_ALWAYS: Final = (401, 403, 500, 503)
_WITH_BODY: Final = (400, 408, 413, 415, 422)


def document(endpoints: Sequence[Endpoint]) -> dict[str, Any]:
    paths: dict[str, dict[str, Any]] = {}
    for endpoint in endpoints:
        paths.setdefault(endpoint.path, {})[endpoint.method.lower()] = _operation(endpoint)
    return {
        "openapi": "3.1.0",
        "info": {"title": "mqtt-kafka-proxy", "version": proxy.__version__, "license": {"name": "Apache-2.0"}},
        "paths": paths,
        "components": {
            "schemas": _schemas(endpoints),
            "securitySchemes": {"token": {"type": "http", "scheme": "bearer"}},
        },
        "security": [{"token": []}],
    }


def _schemas(endpoints: Sequence[Endpoint]) -> dict[str, Any]:
    taken = {model for each in endpoints for model in (each.body,) if model is not None}
    given = {model for each in endpoints for model in (each.answer,) if model is not None} | {ProblemOut}
    _, schemas = models_json_schema(
        [(model, "validation") for model in sorted(taken, key=_name)]
        + [(model, "serialization") for model in sorted(given, key=_name)],
        ref_template=_REFERENCE,
    )
    definitions: dict[str, Any] = schemas["$defs"]
    return definitions


def _name(model: type[BaseModel]) -> str:
    return model.__name__


def _operation(endpoint: Endpoint) -> dict[str, Any]:
    problems = {*_ALWAYS, *(_WITH_BODY if endpoint.body is not None else ()), *endpoint.problems}
    operation: dict[str, Any] = {
        "operationId": endpoint.handler.__name__,
        "summary": endpoint.summary,
        "description": f"Needs a token with the role `{endpoint.role}`.",
        "parameters": _parameters(endpoint),
        "responses": {
            str(endpoint.status): _success(endpoint),
            **{str(status): _problem(status) for status in sorted(problems)},
        },
    }
    if endpoint.body is not None:
        content = {"application/json": {"schema": _reference(endpoint.body)}}
        operation["requestBody"] = {"required": True, "content": content}
    return operation


def _parameters(endpoint: Endpoint) -> list[dict[str, Any]]:
    parameters: list[dict[str, Any]] = [
        {"name": name, "in": "path", "required": True, "schema": {"type": "string", "minLength": 1}}
        for name in re.findall(r"{(\w+)}", endpoint.path)
    ]
    if endpoint.query is not None:
        for name, schema in endpoint.query.model_json_schema()["properties"].items():
            shown = {key: value for key, value in schema.items() if key not in {"title", "description"}}
            parameters.append({"name": name, "in": "query", "description": schema["description"], "schema": shown})
    if endpoint.takes_if_match:
        said = 'The `ETag` of the client: `"epoch"`.'
        parameters.append({"name": "If-Match", "in": "header", "description": said, "schema": {"type": "string"}})
    return parameters


def _success(endpoint: Endpoint) -> dict[str, Any]:
    response: dict[str, Any] = {"description": endpoint.summary}
    if endpoint.answer is not None:
        response["content"] = {"application/json": {"schema": _reference(endpoint.answer)}}
    elif endpoint.status != 204:
        response["content"] = {"application/json": {"schema": {"type": "object"}}}
    return response


def _problem(status: int) -> dict[str, Any]:
    response: dict[str, Any] = {
        "description": _PROBLEMS[status],
        "content": {MEDIA_TYPE: {"schema": _reference(ProblemOut)}},
    }
    if status in {401, 403}:
        response["headers"] = {"WWW-Authenticate": {"schema": {"type": "string"}}}
    return response


def _reference(model: type[BaseModel]) -> dict[str, str]:
    return {"$ref": _REFERENCE.format(model=model.__name__)}
