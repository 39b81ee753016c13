"""The OpenAPI document's part on the Open Inference Protocol: ``/v2``, but for health."""

from __future__ import annotations

from typing import Any

from runtime.answers import JSON_SIZE
from runtime.codecs.open_inference import datatypes
from runtime.codecs.open_inference.reports import DURATIONS
from runtime.openapi_parts import (
    BOOL,
    BYTES,
    NUMBER,
    STRING,
    Schema,
    answered,
    array_of,
    fields,
    parameter_refs,
    refusals,
    schema_ref,
)

_TAG = "open inference protocol"
# By what stands in the path: how operations are called, which version it means, and its parameters.
_WHICH: dict[str, tuple[str, str, tuple[str, ...]]] = {
    "": ("", "the version that serves", ()),
    "/versions/{version}": ("ByVersion", "one version", ("Version",)),
}
_LOOK_ERRORS = {
    "400": "The URL makes no sense",
    "404": "There is no such model or version",
    "500": "The model cannot be told of, or there is a bug",
    "503": "Not now: the model is loading or cannot be loaded",
    "507": "The model is larger than the memory or the disk for models",
}
_BODY_ERRORS = {
    "408": "The body stopped coming",
    "413": "The body is larger than --max_body_size, as sent or inflated",
    "499": "The client left before its body was complete; nobody sees this",
}
_REPOSITORY_ERRORS = {
    **_LOOK_ERRORS,
    **_BODY_ERRORS,
    "400": "The body makes no sense, or clients may not",
    "413": "The body is larger than 64 KiB, or than --max_body_size, as sent or inflated",
    "501": "It is not supported",
}
_INFERENCE_ERRORS = {
    **_LOOK_ERRORS,
    **_BODY_ERRORS,
    "400": "The URL or the body makes no sense, its sizes do not go together, or the inputs are not the model's",
    "404": "There is no such model, version or sequence",
    "409": "There is a sequence of this id already",
    "412": "The model cannot be run in this shape",
    "500": "The engine could not run the model, or there is a bug",
    "501": "The model's tensors cannot be served this way",
    "503": "Not now: the model is loading or cannot be loaded, or too many requests, batches or sequences wait",
    "504": "It took longer than --rest_api_timeout_in_ms, or than the request's timeout",
}


def paths() -> Schema:
    found: Schema = {
        "/v2": _get("server", "What the server is, and which extensions it has", [], "ServerMetadata"),
        "/v2/models/stats": _get("allStats", "Statistics of all models", [], "Statistics"),
        "/v2/repository/index": _post("repositoryIndex", "All versions of all models", (), "IndexRequest", "Index"),
    }
    for which, (suffix, subject, more) in _WHICH.items():
        path, given = f"/v2/models/{{name}}{which}", parameter_refs("Name", *more)
        found[path] = _get(f"model{suffix}", f"Inputs and outputs of {subject}", given, "ModelMetadata")
        found[f"{path}/ready"] = _get(f"ready{suffix}", f"Whether {subject} would answer", given, "ModelReady")
        found[f"{path}/config"] = _get(f"config{suffix}", f"Triton's configuration of {subject}", given, "ModelConfig")
        found[f"{path}/stats"] = _get(
            f"stats{suffix}", f"Statistics of {subject if more else 'a model'}", given, "Statistics"
        )
        found[f"{path}/infer"] = {"post": _inference(f"infer{suffix}", f"Run {subject} on tensors", more)}
    for verb, summary in _CONTROLS.items():
        path = f"/v2/repository/models/{{name}}/{verb}"
        found[path] = _post(f"{verb}Model", summary, ("Name",), "ControlRequest", verb.capitalize())
    return found


_CONTROLS = {
    "load": "List a model anew and load what is to serve",
    "unload": "Have a model leave the memory, until the next request wants it",
}


def _get(operation: str, summary: str, given: list[Schema], response: str) -> Schema:
    return {
        "get": {
            "operationId": f"v2.{operation}",
            "tags": [_TAG],
            "summary": summary,
            "parameters": given,
            "responses": {**answered(summary, response), **refusals(_LOOK_ERRORS)},
        }
    }


def _post(operation: str, summary: str, given: tuple[str, ...], request: str, response: str) -> Schema:
    return {
        "post": {
            "operationId": f"v2.{operation}",
            "tags": [_TAG],
            "summary": summary,
            "parameters": parameter_refs(*given, "ContentEncoding"),
            "requestBody": {
                "description": "May be empty.",
                "content": {"application/json": {"schema": schema_ref(request), "examples": _EXAMPLES[request]}},
            },
            "responses": {**answered(summary, response), **refusals(_REPOSITORY_ERRORS)},
        }
    }


def _inference(operation: str, summary: str, more: tuple[str, ...]) -> Schema:
    answer = answered("The outputs: JSON, and behind it those that are binary, in their order", "InferResponse")
    answer["200"]["headers"][JSON_SIZE] = {"$ref": f"#/components/headers/{JSON_SIZE}"}
    answer["200"]["content"]["application/octet-stream"] = {}
    return {
        "operationId": f"v2.{operation}",
        "tags": [_TAG],
        "summary": summary,
        "parameters": parameter_refs("Name", *more, "JsonSize", "ContentEncoding"),
        # Whatever its type, it is read as the header says.
        "requestBody": {
            "required": True,
            "content": {
                "application/json": {"schema": schema_ref("InferRequest"), "examples": _EXAMPLES["InferRequest"]},
                "application/octet-stream": {},
            },
        },
        "responses": {**answer, **refusals(_INFERENCE_ERRORS)},
    }


_SIZE = "How many bytes of the body, not compressed, are JSON; those of the binary tensors follow."
PARAMETERS: Schema = {
    "JsonSize": {
        "name": JSON_SIZE,
        "in": "header",
        "description": f"{_SIZE} All are if it is missing; if it is 0, all are the one input's.",
        "schema": {"type": "integer", "minimum": 0},
    }
}
HEADERS: Schema = {
    JSON_SIZE: {
        "description": _SIZE,
        "schema": {"type": "string", "pattern": "^[0-9]+$"},
    }
}


def _object(required: Schema, **optional: Schema) -> Schema:
    """Return the schema of an object in a request, which may have more."""
    return {"type": "object", "properties": {**required, **optional}, "required": list(required)}


def _parameters(description: str, **known: Schema) -> Schema:
    return {
        "type": "object",
        "description": f"{description} Others are ignored.",
        "properties": known,
        "additionalProperties": {"anyOf": [STRING, BOOL, NUMBER]},
    }


_DATATYPE: Schema = {"type": "string", "enum": datatypes.known().split(", ")}
_SHAPE: Schema = array_of({"type": "integer", "minimum": 0})
_TOLD_SHAPE: Schema = array_of({"type": "integer", "minimum": -1}, description="-1 where any size will do.")
_TENSORS: Schema = array_of(fields({"name": STRING, "datatype": _DATATYPE, "shape": _TOLD_SHAPE}))
_CONFIGURED: Schema = array_of(fields({"name": STRING, "data_type": STRING, "dims": _TOLD_SHAPE}))
_GIVEN: Schema = {"type": "object", "additionalProperties": {"anyOf": [STRING, BOOL, NUMBER]}}
_COUNT = BYTES
_DURATION: Schema = fields({"count": _COUNT, "ns": _COUNT})
_SEQUENCE: dict[str, Any] = {
    "sequence_id": {**BYTES, "description": "Of a stateful model."},
    "sequence_start": BOOL,
    "sequence_end": BOOL,
}

SCHEMAS: Schema = {
    "Data": array_of(
        {"anyOf": [NUMBER, BOOL, STRING, schema_ref("Data")]},
        description="Elements row by row, flat or nested to the tensor's shape.",
    ),
    "InferRequest": _object(
        {
            "inputs": array_of(
                _object(
                    {"name": STRING, "shape": _SHAPE, "datatype": _DATATYPE},
                    data=schema_ref("Data"),
                    parameters=_parameters(
                        "With binary_data_size there is no data.",
                        binary_data_size={**BYTES, "description": "Bytes of the tensor behind the JSON."},
                    ),
                )
            )
        },
        id={"type": "string", "description": "Comes back with the answer."},
        outputs=array_of(
            _object(
                {"name": STRING},
                parameters=_parameters(
                    "How the output is to come.",
                    binary_data=BOOL,
                    classification={
                        "type": "integer",
                        "minimum": 1,
                        "description": "So many of the largest values of each row, as strings `value:index`.",
                    },
                ),
            ),
            description="Those that are wanted, in this order; all if there are none.",
        ),
        parameters=_parameters(
            "Of the request as a whole.",
            binary_data_output={"type": "boolean", "description": "Of outputs that do not say it themselves."},
            timeout={**BYTES, "description": "Microseconds that the answer is waited for; 0 for no such end."},
            **_SEQUENCE,
        ),
    ),
    "InferResponse": fields(
        {
            "model_name": STRING,
            "model_version": STRING,
            "outputs": array_of(
                fields(
                    {"name": STRING, "shape": _SHAPE, "datatype": _DATATYPE},
                    data=array_of({"anyOf": [NUMBER, BOOL, STRING]}, description="Flat, row by row."),
                    parameters=_GIVEN,
                )
            ),
        },
        id=STRING,
        parameters=_GIVEN,
    ),
    "ModelReady": fields({"name": STRING, "ready": {"type": "boolean", "const": True}}),
    "ServerMetadata": fields({"name": STRING, "version": STRING, "extensions": array_of(STRING)}),
    "ModelMetadata": fields(
        {
            "name": STRING,
            "versions": array_of({**STRING, "description": "That would be answered now."}),
            "platform": STRING,
            "inputs": _TENSORS,
            "outputs": _TENSORS,
        }
    ),
    "ModelConfig": fields(
        {
            "name": STRING,
            "platform": STRING,
            "backend": STRING,
            "max_batch_size": {**_COUNT, "description": "0, as shapes are told whole."},
            "input": _CONFIGURED,
            "output": _CONFIGURED,
        }
    ),
    "IndexRequest": _object(
        {},
        ready={"type": "boolean", "description": "Only those that are."},
        repository_name={"type": "string", "maxLength": 0, "description": "There is one; any other is 501."},
    ),
    "Index": array_of(
        fields(
            {
                "name": STRING,
                "state": {"type": "string", "enum": ["READY", "LOADING", "UNLOADING", "UNAVAILABLE", "UNKNOWN"]},
                "reason": STRING,
            },
            version=STRING,
        )
    ),
    "ControlRequest": _object({}, parameters=_parameters("Of models as files none are taken.", unload_dependents=BOOL)),
    "Load": fields({"name": STRING, "load": BOOL}),
    "Unload": fields({"name": STRING, "unload": BOOL}),
    "Statistics": fields(
        {
            "model_stats": array_of(
                fields(
                    {
                        "name": STRING,
                        "version": STRING,
                        "last_inference": {
                            **BYTES,
                            "description": "Milliseconds since the epoch; 0 if there was none.",
                        },
                        "inference_count": {**_COUNT, "description": "Rows."},
                        "execution_count": _COUNT,
                        "inference_stats": fields(dict.fromkeys(DURATIONS, _DURATION)),
                        "batch_stats": array_of({"type": "object"}),
                    }
                )
            )
        }
    ),
}

_EXAMPLES: Schema = {
    "InferRequest": {
        "one output of several": {
            "value": {
                "id": "42",
                "inputs": [{"name": "x", "shape": [3], "datatype": "FP32", "data": [1.0, 2.0, 5.0]}],
                "outputs": [{"name": "y"}],
            },
        },
        "binary outputs": {
            "value": {
                "inputs": [{"name": "x", "shape": [2], "datatype": "FP32", "data": [1.0, 2.0]}],
                "outputs": [{"name": "y", "parameters": {"binary_data": True}}],
            },
        },
        "the largest value": {
            "value": {
                "inputs": [{"name": "x", "shape": [2], "datatype": "FP32", "data": [1.0, 2.0]}],
                "outputs": [{"name": "y", "parameters": {"classification": 1}}],
            },
        },
    },
    "IndexRequest": {"those that are ready": {"value": {"ready": True}}},
    "ControlRequest": {"no parameters": {"value": {}}},
}
