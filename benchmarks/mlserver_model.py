"""OpenVINO in MLServer, as its documentation writes custom runtimes; it runs in an environment of its own."""

import numpy as np
import openvino as ov
from mlserver import MLModel
from mlserver.codecs import NumpyCodec
from mlserver.types import InferenceRequest, InferenceResponse


class OpenVino(MLModel):  # type: ignore[misc]
    async def load(self) -> bool:
        self._compiled = ov.Core().compile_model(self.settings.parameters.uri, "CPU", {"PERFORMANCE_HINT": "LATENCY"})
        return True

    async def predict(self, payload: InferenceRequest) -> InferenceResponse:
        array = self.decode(payload.inputs[0], default_codec=NumpyCodec)
        results = self._compiled(np.asarray(array, np.float32))
        outputs = [NumpyCodec.encode_output(output.any_name, values) for output, values in results.items()]
        return InferenceResponse(model_name=self.name, outputs=outputs)
