"""How OpenVINO comes into a process; each in one of its own, as it comes but once."""

from __future__ import annotations

import subprocess
import sys

from tests.conftest import DIGITS
from tests.servers.processes import clean_environment

MODEL = DIGITS / "1" / "model.xml"

THEN_ALL_OF_IT = """
import sys
from runtime.openvino_core import core, openvino

slim = openvino()
assert "openvino" not in sys.modules
request = core().compile_model(sys.argv[1], "CPU", {}).create_infer_request()

import numpy as np
import openvino as ov
from openvino import _pyopenvino, opset13

assert ov.Tensor is slim.Tensor and _pyopenvino is slim
x = opset13.parameter([1], ov.Type.f32)
compiled = ov.Core().compile_model(ov.Model([opset13.add(x, x)], [x], "double"), "CPU")
assert compiled({0: np.ones(1, np.float32)})[0][0] == 2.0
request.start_async({}, None)
request.wait()
assert "openvino.tools" not in [name for name, module in sys.modules.items() if module is not None]
"""

AFTER_ALL_OF_IT = """
import sys
import openvino as ov
from runtime.openvino_core import core, openvino

assert openvino().Tensor is ov.Tensor
core().compile_model(sys.argv[1], "CPU", {})
assert sys.modules["openvino"] is ov
"""

AT_ONCE = """
import sys, threading
from runtime.openvino_core import core, openvino

sys.setswitchinterval(1e-6)
barrier = threading.Barrier(8)
found = []

def look():
    barrier.wait()
    slim = openvino()
    barrier.wait()
    found.append((slim, core()))

threads = [threading.Thread(target=look) for _ in range(8)]
for thread in threads:
    thread.start()
for thread in threads:
    thread.join()
assert len(found) == 8 and len(set(found)) == 1, found
"""


def run_python(script: str) -> None:
    argv = [sys.executable, "-c", script, str(MODEL)]
    done = subprocess.run(argv, capture_output=True, timeout=60, check=False, env=clean_environment())
    assert done.returncode == 0, done.stderr.decode()


def test_whoever_wants_all_of_openvino_can_import_it_later() -> None:
    run_python(THEN_ALL_OF_IT)


def test_it_does_not_matter_if_all_of_it_was_imported_before() -> None:
    run_python(AFTER_ALL_OF_IT)


def test_threads_that_come_at_once_get_the_same_core() -> None:
    run_python(AT_ONCE)
