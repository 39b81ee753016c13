"""The OpenAPI document of the REST API: what `rest` answers, in words for people and for tools.

Written by hand, as handlers have no types that it could be made of. A test sends what it allows and compares answers.
"""

from __future__ import annotations

from functools import cache
from importlib.metadata import version

from runtime import openapi_open_inference as open_inference
from runtime.openapi_parts import (
    BOOL,
    BYTES,
    NUMBER,
    STRING,
    Schema,
    answered,
    array_of,
    fields,
    map_of,
    parameter_refs,
    refusals,
    schema_ref,
)

_VERBS = {
    "predict": ("Run a signature on tensors", "PredictRequest", "PredictResponse"),
    "classify": ("Classify examples", "ExamplesRequest", "ClassifyResponse"),
    "regress": ("Regress examples", "ExamplesRequest", "RegressResponse"),
}
# By what stands in the path: how operations are called, which version it means, and its parameters.
_WHICH: dict[str, tuple[str, str, tuple[str, ...]]] = {
    "": ("", "the version that serves", ()),
    "/versions/{version}": ("ByVersion", "one version", ("Version",)),
    "/labels/{label}": ("ByLabel", "the version that has a label", ("Label",)),
}
_STATES = {
    "": "all versions",
    "/versions/{version}": "one version",
    "/labels/{label}": "all versions, whatever the label",
}
_INFERENCE_ERRORS = {
    "400": "The URL, the body, the label or the signature's name makes no sense, or the inputs are not the signature's",
    "404": "There is no such model or version",
    "408": "The body stopped coming",
    "413": "The body is larger than --max_body_size, as sent or inflated",
    "499": "The client left before its body was complete; nobody sees this",
    "500": "The engine could not run the model, or there is a bug",
    "501": "The model's signature, or its dtypes, cannot be served this way",
    "503": "Not now: the model is loading or cannot be loaded, or too many requests or batches of them wait",
    "504": "It took longer than --rest_api_timeout_in_ms",
    "507": "The model is larger than the memory or the disk for models",
}
_NO_RELOAD = "There is no configuration to look at"
_LOOK_ERRORS = {status: _INFERENCE_ERRORS[status] for status in ("400", "404", "500", "503", "507")}


@cache
def document() -> Schema:
    """Return the document. It is the same at each call, and not to be changed."""
    return {
        "openapi": "3.1.0",
        "info": {
            "title": "Decant",
            "version": version("decant"),
            "description": "OpenVINO models over TensorFlow Serving's REST API and the Open Inference Protocol. What "
            "is no number in JSON is a bare token, both ways: `NaN`, `Infinity`, `-Infinity`. Names and labels are "
            "percent-encoded, slashes and colons too. Below `/v1/` paths are not case-sensitive, verbs are, and a URL "
            "that is none of these is 400. Below `/v2` all are, and such a URL is 404, or 405 for another method; "
            "HEAD does as GET.",
        },
        "paths": {**_inferences(), **_looks(), **open_inference.paths(), **_ours()},
        "components": {
            "schemas": {**_SCHEMAS, **open_inference.SCHEMAS},
            "parameters": {**_PARAMETERS, **open_inference.PARAMETERS},
            "headers": {**_HEADERS, **open_inference.HEADERS},
        },
    }


def _inferences() -> Schema:
    return {
        f"/v1/models/{{name}}{which}:{verb}": {"post": _inference(verb, which)} for verb in _VERBS for which in _WHICH
    }


def _inference(verb: str, which: str) -> Schema:
    summary, request, response = _VERBS[verb]
    suffix, subject, parameters = _WHICH[which]
    return {
        "operationId": verb + suffix,
        "tags": ["inference"],
        "summary": f"{summary}, with {subject}",
        "parameters": parameter_refs("Name", *parameters, "ContentEncoding"),
        # Whatever its type, it is read as JSON.
        "requestBody": {
            "required": True,
            "content": {"application/json": {"schema": schema_ref(request), "examples": _EXAMPLES[request]}},
        },
        "responses": {**answered("The answer", response), **refusals(_INFERENCE_ERRORS)},
    }


def _looks() -> Schema:
    paths = {}
    for which, (suffix, subject, parameters) in _WHICH.items():
        path, given = f"/v1/models/{{name}}{which}", parameter_refs("Name", *parameters)
        paths[path] = _get(f"status{suffix}", f"State of {_STATES[which]}", given, "Status")
        paths[f"{path}/metadata"] = _get(f"metadata{suffix}", f"Signatures of {subject}", given, "Metadata")
    return paths


def _get(operation: str, summary: str, parameters: list[Schema], response: str) -> Schema:
    return {
        "get": {
            "operationId": operation,
            "tags": ["models"],
            "summary": summary,
            "parameters": parameters,
            "responses": {**answered(summary, response), **refusals(_LOOK_ERRORS)},
        }
    }


def _ours() -> Schema:
    busy = {status: _LOOK_ERRORS[status] for status in ("500", "503")}
    return {
        "/v1/config": _get("config", "State of all versions of all models", [], "Config"),
        "/v1/config/reload": {
            "post": {
                "operationId": "reload",
                "tags": ["models"],
                "summary": "Look anew at the configuration file and at what is stored, and load what is new",
                "responses": {
                    **answered("Nothing has changed", "Config"),
                    "201": answered("Something has", "Config")["200"],
                    **refusals({**_LOOK_ERRORS, "412": "What the file says cannot be served", "501": _NO_RELOAD}),
                },
            }
        },
        "/metrics": {
            "get": {
                "operationId": "metrics",
                "tags": ["health"],
                "summary": "What Prometheus scrapes",
                "responses": {
                    "200": {"description": "All series", "content": {"text/plain": {"schema": STRING}}},
                    "404": refusals({"404": "Metrics are off", "503": ""})["404"],
                },
            }
        },
        "/v1/cache": {
            "get": {
                "operationId": "cache",
                "tags": ["models"],
                "summary": "Where every version is, and what it occupies",
                "responses": {**answered("All models", "Cache"), **refusals(busy)},
            }
        },
        "/v1/coldstart": _get("coldstart", "What the process has spent its start on", [], "ColdStart"),
        "/v1/coldstart.svg": {
            "get": {
                "operationId": "coldstart.svg",
                "tags": ["models"],
                "summary": "The same as a picture",
                "responses": {
                    "200": {"description": "A waterfall", "content": {"image/svg+xml": {"schema": STRING}}},
                    **refusals(busy),
                },
            }
        },
        "/v2/health/live": _health("live", "Whether the process answers", {"200": "It does"}),
        "/v2/health/ready": _health(
            "ready", "Whether what must be loaded is, and every port listens", {"200": "They are", "503": "Not yet"}
        ),
    }


def _health(operation: str, summary: str, answers: dict[str, str]) -> Schema:
    shared = {"tags": ["health"], "summary": summary}
    heads: Schema = {}
    told: Schema = {}
    for status, text in answers.items():
        schema = fields({operation: {"type": "boolean", "const": status == "200"}})
        heads[status] = {"description": text}
        told[status] = {"description": text, "content": {"application/json": {"schema": schema}}}
    return {
        "get": {"operationId": operation, **shared, "responses": told},
        "head": {"operationId": f"{operation}Head", **shared, "responses": heads},
    }


_SECONDS: Schema = {"type": "number", "minimum": 0}
_SECONDS_OR_NULL: Schema = {"type": ["number", "null"], "minimum": 0}
_SPANS: Schema = array_of(
    {
        "type": "object",
        "properties": {"name": STRING, "thread": STRING, "start": _SECONDS, "end": _SECONDS_OR_NULL},
        "required": ["name", "thread", "start", "end", "facts"],
    }
)
_INT64: Schema = {"type": "string", "pattern": "^-?[0-9]+$", "description": "An integer of 64 bits."}

_PARAMETERS: Schema = {
    "Name": {
        "name": "name",
        "in": "path",
        "required": True,
        "description": "The model's name. Sent, it matches `[^/:]+`: other characters are percent-encoded.",
        "schema": {"type": "string", "minLength": 1},
    },
    "Version": {
        "name": "version",
        "in": "path",
        "required": True,
        "description": "Digits, `[0-9]+`.",
        "schema": {"type": "integer", "format": "int64", "minimum": 0, "maximum": (1 << 63) - 1},
    },
    "Label": {
        "name": "label",
        "in": "path",
        "required": True,
        "description": "A name for a version. Sent, it matches `[^/:]+`.",
        "schema": {"type": "string", "minLength": 1},
    },
    "ContentEncoding": {
        "name": "Content-Encoding",
        "in": "header",
        "description": "How the body is compressed.",
        "schema": {"type": "string", "enum": ["gzip", "deflate", "zstd", "identity"]},
    },
}

_HEADERS: Schema = {
    "Content-Encoding": {
        "description": "Of a large answer, for who sends an Accept-Encoding that has it.",
        "schema": {"type": "string", "enum": ["gzip", "zstd"]},
    },
    "Vary": {"schema": STRING},
    "Retry-After": {"description": "In seconds.", "schema": {"type": "string", "pattern": "^[0-9]+$"}},
}

_SCHEMAS: Schema = {
    "Error": fields({"error": {"type": "string", "description": "What was given and what was wanted."}}),
    "Bytes": fields({"b64": {"type": "string", "contentEncoding": "base64"}}),
    "Value": {
        "description": "A scalar, bytes, or lists of them, nested to the tensor's rank.",
        "anyOf": [NUMBER, BOOL, STRING, schema_ref("Bytes"), array_of(schema_ref("Value"))],
    },
    "PredictRequest": {
        "type": "object",
        "description": "Other keys are ignored.",
        "properties": {
            "signature_name": {"type": "string", "default": "serving_default"},
            "instances": {
                "type": "array",
                "minItems": 1,
                "description": "Rows: element i is slice i of every input. With one input it is the value or an object "
                "of its name, with several an object of exactly their names.",
                "items": {"anyOf": [schema_ref("Value"), map_of(schema_ref("Value"))]},
            },
            "inputs": {
                "description": "Columns: whole tensors by name; with one input the name may be left out.",
                "anyOf": [schema_ref("Value"), map_of(schema_ref("Value"))],
            },
        },
        "oneOf": [{"required": ["instances"]}, {"required": ["inputs"]}],
    },
    "PredictResponse": {
        "description": "One output is not named; of several, rows and columns are objects.",
        "oneOf": [
            fields({"predictions": array_of({"anyOf": [schema_ref("Value"), map_of(schema_ref("Value"))]})}),
            fields({"outputs": {"anyOf": [schema_ref("Value"), map_of(schema_ref("Value"))]}}),
        ],
    },
    "Feature": {
        "description": "Integers and booleans, or numbers with a point, or strings and bytes: of one kind.",
        "anyOf": [
            NUMBER,
            BOOL,
            STRING,
            schema_ref("Bytes"),
            array_of({"anyOf": [NUMBER, BOOL, STRING, schema_ref("Bytes")]}),
        ],
    },
    "ExamplesRequest": {
        "type": "object",
        "description": "tf.Example as JSON. Other keys are ignored.",
        "properties": {
            "signature_name": {"type": "string", "default": "serving_default"},
            "context": {**map_of(schema_ref("Feature")), "description": "Features that all examples have."},
            "examples": array_of(map_of(schema_ref("Feature")), minItems=1),
        },
        "required": ["examples"],
    },
    "ClassifyResponse": fields(
        {
            "results": array_of(
                array_of(
                    {
                        "type": "array",
                        "description": "A label, empty if the model has none, and its score.",
                        "prefixItems": [STRING, NUMBER],
                        "minItems": 2,
                        "maxItems": 2,
                    }
                )
            )
        }
    ),
    "RegressResponse": fields({"results": array_of(NUMBER)}),
    "Status": fields(
        {
            "model_version_status": array_of(
                fields(
                    {
                        "version": _INT64,
                        "state": {"type": "string", "enum": ["START", "LOADING", "AVAILABLE", "UNLOADING", "END"]},
                        "status": fields({"error_code": STRING, "error_message": STRING}),
                    }
                )
            )
        }
    ),
    "Config": map_of(schema_ref("Status")),
    "TensorInfo": fields(
        {
            "dtype": {"type": "string", "pattern": "^DT_"},
            "tensor_shape": fields(
                {
                    "dim": array_of(fields({"size": {**_INT64, "description": "-1 if any."}, "name": STRING})),
                    "unknown_rank": BOOL,
                }
            ),
            "name": STRING,
        }
    ),
    "SignatureDef": fields(
        {
            "inputs": map_of(schema_ref("TensorInfo")),
            "outputs": map_of(schema_ref("TensorInfo")),
            "method_name": STRING,
            "defaults": {"type": "object"},
        }
    ),
    "Metadata": fields(
        {
            "model_spec": fields({"name": STRING, "signature_name": STRING, "version": _INT64}),
            "metadata": fields(
                {"signature_def": fields({"@type": STRING, "signature_def": map_of(schema_ref("SignatureDef"))})}
            ),
        }
    ),
    # Keys are always there; some more may come.
    "ColdStart": fields(
        {
            "started_at": {"type": "string", "format": "date-time"},
            "seconds": _SECONDS,
            "ready": _SECONDS_OR_NULL,
            "first_predict": _SECONDS_OR_NULL,
            "is_over": BOOL,
            "phases": map_of({"type": "object", "required": ["count", "seconds"]}),
            "critical_path": array_of(
                {
                    "type": "object",
                    "properties": {"name": STRING, "thread": STRING, "start": _SECONDS, "end": _SECONDS},
                    "required": ["name", "start", "end"],
                }
            ),
            "spans": _SPANS,
            "dropped": BYTES,
            "loads": array_of({"type": "object", "properties": {"spans": _SPANS}, "required": ["model", "spans"]}),
        }
    ),
    "Cache": {
        "type": "object",
        "properties": {
            "memory": {"type": "object", "properties": {"budget": BYTES, "used": BYTES}},
            "disk": {"type": "object", "properties": {"budget": BYTES, "used": BYTES, "free": BYTES}},
            "models": map_of(
                {
                    "type": "object",
                    "properties": {
                        "error": {"type": ["string", "null"]},
                        "versions": array_of(
                            {
                                "type": "object",
                                "properties": {
                                    "version": _INT64,
                                    "state": STRING,
                                    "where": fields({"bucket": BOOL, "disk": BOOL, "memory": BOOL}),
                                    "leases": BYTES,
                                    "last_used": {"type": ["string", "null"], "format": "date-time"},
                                    "load": {"type": ["object", "null"]},
                                },
                                "required": ["version", "state", "where", "bytes", "leases", "last_used", "load"],
                            }
                        ),
                    },
                    "required": ["error", "versions"],
                }
            ),
        },
        "required": ["memory", "disk", "models"],
    },
}

_EXAMPLES: Schema = {
    "PredictRequest": {
        "rows": {"value": {"instances": [1.0, 2.0, 5.0]}},
        "rows of several inputs": {"value": {"instances": [{"x": [1, 2], "key": {"b64": "aGk="}}]}},
        "columns": {"value": {"inputs": {"x": [1.0, 2.0, 5.0]}}},
        "another signature": {"value": {"signature_name": "only_y", "inputs": [1.0]}},
    },
    "ExamplesRequest": {
        "examples": {"value": {"context": {"query": "cheese"}, "examples": [{"x": 1.0}, {"x": [2.5]}]}},
    },
}
