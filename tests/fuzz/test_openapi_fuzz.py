"""Whatever our OpenAPI allows, and much that it does not, is answered as it says."""

from typing import Any

import msgpack
import schemathesis
from hypothesis import HealthCheck, given, reject, settings
from schemathesis import checks

from tests.fuzz.live import EXAMPLES, Answer, Live, check

CHECKS = [
    checks.status_code_conformance,
    checks.content_type_conformance,
    checks.response_headers_conformance,
    checks.response_schema_conformance,
]
often = settings(
    max_examples=max(5, EXAMPLES // 4), deadline=None, suppress_health_check=list(HealthCheck)
)


@schemathesis.serializer("application/msgpack")
def packed(_: Any, value: Any) -> bytes | None:
    try:
        data: bytes = msgpack.packb(value)
    except OverflowError:  # of an integer of more than 64 bits
        reject()
    return data


@schemathesis.serializer("application/x-npy")
def as_it_is(_: Any, value: Any) -> bytes | None:
    data: bytes = value.data
    return data


def test_the_openapi_document_holds(server: Live):
    schema = schemathesis.openapi.from_url(f"{server.base}/openapi.json")
    results: Any = schema.get_all_operations()
    operations = [found.ok() for found in results]
    assert len(operations) > 10
    for operation in operations:
        hold(operation)


def hold(operation: Any) -> None:
    @often
    @given(case=operation.as_strategy())
    def run(case: Any) -> None:
        response = case.call()
        case.validate_response(response, checks=CHECKS)
        headers = {name.lower(): values[0] for name, values in response.headers.items()}
        check(Answer(response.status_code, headers, response.content))

    run()
