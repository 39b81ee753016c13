"""What the OpenAPI document is written with: references, answers, schemas."""

from __future__ import annotations

from typing import Any

Schema = dict[str, Any]

STRING: Schema = {"type": "string"}
BOOL: Schema = {"type": "boolean"}
NUMBER: Schema = {"type": "number"}
BYTES: Schema = {"type": "integer", "minimum": 0}


def parameter_refs(*names: str) -> list[Schema]:
    return [{"$ref": f"#/components/parameters/{name}"} for name in names]


def schema_ref(name: str) -> Schema:
    return {"$ref": f"#/components/schemas/{name}"}


def answered(description: str, schema: str) -> Schema:
    headers = {name: {"$ref": f"#/components/headers/{name}"} for name in ("Content-Encoding", "Vary")}
    content = {"application/json": {"schema": schema_ref(schema)}}
    return {"200": {"description": description, "headers": headers, "content": content}}


def refusals(errors: dict[str, str]) -> Schema:
    responses: Schema = {}
    for status, description in errors.items():
        responses[status] = {
            "description": description,
            "content": {"application/json": {"schema": schema_ref("Error")}},
        }
    responses["503"]["headers"] = {"Retry-After": {"$ref": "#/components/headers/Retry-After"}}
    return responses


def fields(required: Schema, **optional: Schema) -> Schema:
    return {
        "type": "object",
        "properties": {**required, **optional},
        "required": list(required),
        "additionalProperties": False,
    }


def array_of(items: Schema, **more: Any) -> Schema:
    return {"type": "array", "items": items, **more}


def map_of(values: Schema) -> Schema:
    return {"type": "object", "additionalProperties": values}
