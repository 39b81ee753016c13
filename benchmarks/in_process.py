"""OpenVINO with nothing around it: what an inference takes, and how many a second there can be.

A script that ``benchmarks.children.Script`` talks to, so that each figure can be taken in turn with those of servers
while this process is idle otherwise. Run as ``python benchmarks/in_process.py MODEL.xml INPUT.npy``; commands are

    {"do": "one_by_one", "count": 100}                                  -> seconds of each inference
    {"do": "press", "setting": "...", "callers": 4, "seconds": 2.0}      -> {"seconds": ..., "latencies": [...]}
"""

from __future__ import annotations

import gc
import json
import sys
import threading
import time
from collections.abc import Callable
from typing import Any

sys.modules["openvino.tools"] = None  # type: ignore[assignment]

import numpy as np  # noqa: E402
import openvino as ov  # noqa: E402

BARE = "latency, threads"
SETTINGS: dict[str, dict[str, Any]] = {
    BARE: {"PERFORMANCE_HINT": "LATENCY"},
    "throughput, threads": {"PERFORMANCE_HINT": "THROUGHPUT"},
    "throughput, queue": {"PERFORMANCE_HINT": "THROUGHPUT"},
}


class Model:
    def __init__(self, model: str, image: str) -> None:
        self._core = ov.Core()
        self._path = model
        self._image = np.load(image)
        self._compiled: dict[str, Any] = {}

    def call(self, setting: str) -> Callable[[], object]:
        """What a caller does: its own infer request, input set, run, outputs copied out."""
        request = self._compile(setting).create_infer_request()
        tensor = ov.Tensor(self._image, shared_memory=True)
        outputs = range(len(request.model_outputs))

        def infer() -> object:
            request.set_input_tensor(0, tensor)
            request.infer()
            return [request.get_output_tensor(index).data.copy() for index in outputs]

        return infer

    def one_by_one(self, count: int) -> list[float]:
        infer = self.call(BARE)
        infer()
        latencies = []
        for _ in range(count):
            began = time.perf_counter()
            infer()
            latencies.append(time.perf_counter() - began)
        return latencies

    def press(self, setting: str, callers: int, seconds: float) -> dict[str, Any]:
        """Callers in a closed loop: each starts its next inference when it has its answer."""
        self._compile(setting)
        way = self._queue if setting.endswith("queue") else self._threads
        latencies, elapsed = way(setting, callers, seconds)
        return {"seconds": elapsed, "latencies": latencies}

    def _compile(self, setting: str) -> Any:
        if setting not in self._compiled:
            self._compiled[setting] = self._core.compile_model(self._path, "CPU", SETTINGS[setting])
        return self._compiled[setting]

    def _threads(self, setting: str, callers: int, seconds: float) -> tuple[list[float], float]:
        calls = [self.call(setting) for _ in range(callers)]
        of_callers: list[list[float]] = [[] for _ in calls]
        barrier = threading.Barrier(callers + 1)
        over = threading.Event()

        def go_on(infer: Callable[[], object], latencies: list[float]) -> None:
            infer()
            barrier.wait()
            while not over.is_set():
                began = time.perf_counter()
                infer()
                latencies.append(time.perf_counter() - began)

        threads = [threading.Thread(target=go_on, args=pair) for pair in zip(calls, of_callers, strict=True)]
        for thread in threads:
            thread.start()
        barrier.wait()
        began = time.perf_counter()
        over.wait(seconds)
        over.set()
        for thread in threads:
            thread.join()
        return [latency for latencies in of_callers for latency in latencies], time.perf_counter() - began

    def _queue(self, setting: str, callers: int, seconds: float) -> tuple[list[float], float]:
        queue = ov.AsyncInferQueue(self._compile(setting), callers)
        latencies: list[float] = []

        def done(request: Any, began: float) -> None:
            for index in range(len(request.model_outputs)):
                request.get_output_tensor(index).data.copy()
            latencies.append(time.perf_counter() - began)

        queue.set_callback(done)
        tensor = ov.Tensor(self._image, shared_memory=True)
        began = time.perf_counter()
        while time.perf_counter() < began + seconds:
            # Waits until there is one, which is no part of an inference's latency.
            queue.get_idle_request_id()
            queue.start_async({0: tensor}, time.perf_counter(), share_inputs=True)
        queue.wait_all()
        return latencies, time.perf_counter() - began


def main() -> None:
    model = Model(*sys.argv[1:])
    gc.freeze()
    for line in sys.stdin:
        command = json.loads(line)
        print(json.dumps(getattr(model, command.pop("do"))(**command)), flush=True)


if __name__ == "__main__":
    main()
