"""Status and metadata of models as TensorFlow Serving's REST writes them: protobuf's JSON, defaults included. And what
is in the cache, which is our own.

Integers of 64 bits are strings in the former. ``@type`` is what OpenVINO Model Server's clients need to read the
metadata as strict protobuf JSON; TensorFlow Serving's do not look at it.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from datetime import UTC, datetime
from typing import Any

import orjson

from runtime.codecs.dtypes import tf_name
from runtime.inventory import Inventory, Whereabouts
from runtime.servable import LoadPhases
from runtime.signature import SIGNATURE_DEF_MAP, Signature, TensorSpec


def encode_status(versions: Iterable[tuple[int, str, str, str]]) -> bytes:
    """Write the states of versions, each given as (version, state, name of the error code, message)."""
    return orjson.dumps(
        {
            "model_version_status": [
                {"version": str(version), "state": state, "status": {"error_code": code, "error_message": message}}
                for version, state, code, message in versions
            ]
        }
    )


def encode_config(models: Mapping[str, Iterable[tuple[int, str, str, str]]]) -> bytes:
    """Write what `encode_status` writes of each model, by its name."""
    return orjson.dumps({name: orjson.Fragment(encode_status(versions)) for name, versions in models.items()})


def encode_metadata(name: str, version: int, signatures: Mapping[str, Signature]) -> bytes:
    return orjson.dumps(
        {
            "model_spec": {"name": name, "signature_name": "", "version": str(version)},
            "metadata": {
                "signature_def": {
                    "@type": SIGNATURE_DEF_MAP,
                    "signature_def": {key: _signature(signature) for key, signature in signatures.items()},
                }
            },
        }
    )


def encode_inventory(inventory: Inventory) -> bytes:
    """Write where models are::

        {
          "memory": {"budget": bytes, "used": bytes, "rss": bytes or null},
          "disk": {"budget": bytes, "used": bytes, "free": bytes},
          "models": {
            NAME: {
              "error": why the versions are not known, or null,
              "versions": [                                       newest first
                {
                  "version": a string, as in the status,
                  "state": as in the status,
                  "where": {"bucket": bool, "disk": bool, "memory": bool},
                  "bytes": {"storage": bytes or null, "memory": bytes, 0 if not there, estimated while it loads},
                  "leases": how many requests use it or wait for it,
                  "last_used": ISO 8601 in UTC, or null if it is not in memory,
                  "load": null unless it is loaded, else {
                    "fetch": null if its files were there, else {"seconds": s, "bytes": n, "mb_per_second": n},
                    "compile": {"seconds": s},
                    "warm_up": {"seconds": s},
                    "total": {"seconds": s}
                  }
                }
              ]
            }
          }
        }

    A model that is read in place is on disk. Keys are always there; some more may come.
    """
    return orjson.dumps(
        {
            "memory": inventory.memory._asdict(),
            "disk": inventory.disk._asdict(),
            "models": {
                name: {"error": model.error or None, "versions": [_whereabouts(version) for version in model.versions]}
                for name, model in inventory.models.items()
            },
        }
    )


def _whereabouts(version: Whereabouts) -> dict[str, Any]:
    return {
        "version": str(version.version),
        "state": version.state,
        "where": {"bucket": version.is_stored, "disk": version.is_on_disk, "memory": version.is_in_memory},
        "bytes": {"storage": version.stored_size, "memory": version.memory_size},
        "leases": version.leases,
        "last_used": None if version.leased_at is None else _timestamp(version.leased_at),
        "load": _phases(version.phases) if version.phases else None,
    }


def _timestamp(seconds: float) -> str:
    return datetime.fromtimestamp(seconds, UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")


def _phases(phases: LoadPhases) -> dict[str, Any]:
    fetch = None
    if phases.fetched:
        size, seconds = phases.fetched
        speed = round(size / 1e6 / seconds, 1) if seconds else None
        fetch = {"seconds": round(seconds, 6), "bytes": size, "mb_per_second": speed}
    return {
        "fetch": fetch,
        "compile": {"seconds": round(phases.compile, 6)},
        "warm_up": {"seconds": round(phases.warm_up, 6)},
        "total": {"seconds": round(phases.total, 6)},
    }


def _signature(signature: Signature) -> dict[str, Any]:
    return {
        "inputs": {name: _tensor_info(spec) for name, spec in signature.inputs.items()},
        "outputs": {name: _tensor_info(spec) for name, spec in signature.outputs.items()},
        "method_name": signature.method_name,
        "defaults": {},
    }


def _tensor_info(spec: TensorSpec) -> dict[str, Any]:
    return {
        "dtype": tf_name(spec.dtype),
        "tensor_shape": {
            "dim": [{"size": str(size), "name": ""} for size in spec.told_shape or ()],
            "unknown_rank": spec.told_shape is None,
        },
        "name": spec.name,
    }
