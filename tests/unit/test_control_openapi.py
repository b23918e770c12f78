"""openapi.json says what the router does."""

from typing import Any, cast

from msgspec.structs import fields

from castrayd.control.access import AccessPolicy
from castrayd.control.app import make_app
from castrayd.control.gate import Gate
from castrayd.control.openapi import document
from castrayd.control.routes import Control
from castrayd.errors import ErrorType
from castrayd.supervisor.documents import Status


def _routes() -> set[tuple[str, str]]:
    nothing = cast("Any", None)
    control = Control(nothing, nothing, AccessPolicy(), nothing, nothing, nothing, nothing, nothing)
    router = make_app(control, Gate(control.access)).router
    return {
        (route.method.lower(), route.resource.canonical)
        for route in router.routes()
        if route.resource is not None and route.method != "*"
    }


def test_paths_are_those_of_the_router() -> None:
    """No route is hidden, none is made up."""
    described = {(method, path) for path, item in document()["paths"].items() for method in item}

    assert _routes() == described


def test_every_reference_leads_somewhere() -> None:
    """A schema that is named is there."""
    schemas = document()["components"]["schemas"]

    def walk(part: Any) -> None:
        if isinstance(part, dict):
            if "$ref" in part:
                assert part["$ref"].removeprefix("#/components/schemas/") in schemas
            for value in part.values():
                walk(value)
        elif isinstance(part, list):
            for value in part:
                walk(value)

    walk(document())


def test_every_operation_documents_its_refusals() -> None:
    """Bad requests and strangers everywhere, size where there is a body, 503 where it can be."""
    for path, item in document()["paths"].items():
        for method, operation in item.items():
            codes = operation["responses"].keys()
            assert {"400", "403"} <= codes, (method, path)
            assert ("413" in codes) == ("requestBody" in operation), (method, path)
    ready = document()["paths"]["/api/health/ready"]["get"]["responses"]
    assert ready["503"]["content"] == ready["200"]["content"]


def test_status_is_described_to_the_last_field() -> None:
    """The fields are those of the document, all always there but those with a default."""
    schemas = document()["components"]["schemas"]

    assert {field.name for field in fields(Status)} == schemas["Status"]["properties"].keys()
    assert set(ErrorType) == set(schemas["ErrorType"]["enum"])
