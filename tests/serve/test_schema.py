"""Anything that the OpenAPI document allows, and much that it does not: never a server error."""

from __future__ import annotations

from contextlib import suppress
from pathlib import Path

import schemathesis
from fake_service import FakeService
from harness import running
from hypothesis import HealthCheck, given, settings
from hypothesis.errors import Unsatisfiable
from schemathesis import GenerationMode

QUICK = settings(
    max_examples=3, deadline=None, derandomize=True, suppress_health_check=list(HealthCheck), database=None
)
"""`schemathesis run http://127.0.0.1:8000/openapi.json --checks not_a_server_error` takes many more."""


def test_no_server_error(tiny_model: Path, home: Path) -> None:
    asked: set[str] = set()
    with running(tiny_model, FakeService(max_streams=64)) as server:
        schema = schemathesis.openapi.from_url(f"{server.url}/openapi.json")
        for result in schema.get_all_operations():
            operation = result.ok()
            for mode in (GenerationMode.POSITIVE, GenerationMode.NEGATIVE):

                @QUICK
                @given(case=operation.as_strategy(generation_mode=mode))
                def ask(case: schemathesis.Case) -> None:
                    response = case.call(timeout=20)
                    assert response.status_code < 500, f"{case.as_curl_command()}: {response.text[:300]}"
                    asked.add(case.operation.label)

                with suppress(Unsatisfiable):  # an operation without any input has no wrong one
                    ask()
    assert len(asked) == len(list(schema.get_all_operations())) > 20
