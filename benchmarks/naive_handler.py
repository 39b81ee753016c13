"""What Decant is compared with: the server a competent engineer writes in an hour.

It downloads every object under a prefix (boto3 fetches large ones in parallel parts), compiles the model and
serves, in that order. Nothing in it is slow on purpose, and nothing comes from Decant.
Run as ``MODEL_URI=s3://bucket/model/1 PORT=8080 python benchmarks/naive_handler.py``.
"""

import os
import tempfile
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import boto3
import numpy as np
import openvino as ov
import uvicorn
from fastapi import FastAPI
from pydantic import BaseModel

state: dict[str, Any] = {}


class PredictRequest(BaseModel):
    instances: list[Any]


def download(uri: str) -> Path:
    bucket, _, prefix = uri.removeprefix("s3://").partition("/")
    prefix = prefix.rstrip("/") + "/"
    target = Path(tempfile.mkdtemp(prefix="model-"))
    s3 = boto3.client("s3")
    for page in s3.get_paginator("list_objects_v2").paginate(Bucket=bucket, Prefix=prefix):
        for item in page.get("Contents", []):
            path = target / item["Key"].removeprefix(prefix)
            path.parent.mkdir(parents=True, exist_ok=True)
            s3.download_file(bucket, item["Key"], str(path))
    return target


@asynccontextmanager
async def lifespan(app: FastAPI) -> AsyncIterator[None]:
    uri = os.environ["MODEL_URI"]
    directory = download(uri) if uri.startswith("s3://") else Path(uri)
    state["model"] = ov.Core().compile_model(directory / "model.xml", "CPU")
    yield


app = FastAPI(lifespan=lifespan)


@app.post("/predict")
def predict(request: PredictRequest) -> dict[str, Any]:
    array = np.array(request.instances, dtype=np.float32)
    results = state["model"].create_infer_request().infer([array])
    return {"outputs": {output.any_name: values.tolist() for output, values in results.items()}}


if __name__ == "__main__":
    uvicorn.run(app, host="0.0.0.0", port=int(os.environ.get("PORT", "8080")), log_level="warning")
