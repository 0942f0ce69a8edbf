"""Requests that schemathesis makes of the OpenAPI document, right ones and wrong ones, sent to a real replica."""

from typing import Any, Final

import schemathesis
from hypothesis import HealthCheck, Phase, given, settings
from schemathesis import GenerationMode
from schemathesis.checks import CheckFunction, not_a_server_error
from schemathesis.specs.openapi import checks

from proxy.admin.openapi import document
from proxy.admin.routes import ENDPOINTS

#: What each answer is held to: no bug, and nothing that the document does not say.
CHECKS: Final[list[CheckFunction]] = [
    not_a_server_error,
    checks.status_code_conformance,
    checks.content_type_conformance,
    checks.response_headers_conformance,
    checks.response_schema_conformance,
    checks.ignored_auth,
    checks.unsupported_method,
    checks.allow_header_conformance,
]
OPERATIONS: Final = {
    f"{operation.method.upper()} {operation.path}": operation
    for operation in (
        result.ok() for result in schemathesis.openapi.from_dict(document(ENDPOINTS)).get_all_operations()
    )
}


def shake(name: str, url: str, token: str, examples: int, *, anew: bool = False) -> int:
    """Sends so many requests of one operation, as often right ones as wrong ones. Returns how many were sent. Raises
    what schemathesis found, with a curl command that shows it. They are the same in every run, unless `anew`.
    """
    operation = OPERATIONS[name]
    sent = 0
    for mode in (GenerationMode.POSITIVE, GenerationMode.NEGATIVE):

        @settings(
            max_examples=examples // 2,
            phases=(Phase.explicit, Phase.generate),
            suppress_health_check=list(HealthCheck),
            database=None,
            derandomize=not anew,
        )
        @given(case=operation.as_strategy(generation_mode=mode))
        def send(case: Any) -> None:
            nonlocal sent
            sent += 1
            case.call_and_validate(base_url=url, headers={"Authorization": f"Bearer {token}"}, checks=CHECKS)

        send()
    return sent
