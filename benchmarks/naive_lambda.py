"""What Decant on Lambda is compared with: the handler a competent engineer writes in an hour.

It downloads and compiles the model while Lambda initializes it, and serves FastAPI through Mangum. Nothing in it is
slow on purpose, and nothing comes from Decant. Run as ``python -m awslambdaric naive_lambda.handler`` with MODEL_URI
in the environment.
"""

import os
import tempfile
from pathlib import Path
from typing import Any

import boto3
import numpy as np
import openvino as ov
from fastapi import FastAPI
from mangum import Mangum
from pydantic import BaseModel


class PredictRequest(BaseModel):
    instances: list[Any]


def download(uri: str) -> Path:
    bucket, _, prefix = uri.removeprefix("s3://").partition("/")
    target = Path(tempfile.mkdtemp(prefix="model-"))
    s3 = boto3.client("s3")
    for item in s3.list_objects_v2(Bucket=bucket, Prefix=f"{prefix}/")["Contents"]:
        s3.download_file(bucket, item["Key"], str(target / Path(item["Key"]).name))
    return target


model = ov.Core().compile_model(download(os.environ["MODEL_URI"]) / "model.xml", "CPU")
app = FastAPI()


@app.post("/predict")
def predict(request: PredictRequest) -> dict[str, Any]:
    results = model(np.array(request.instances, dtype=np.float32))
    return {"outputs": {output.any_name: values.tolist() for output, values in results.items()}}


handler = Mangum(app, lifespan="off")
