"""Run as a process of its own, as OpenVINO may not be there, crash or never return: prints what it finds, as JSON."""

from __future__ import annotations

import json
import sys


def main() -> None:
    from runtime.openvino_core import DEVICE, NOTHING, core, in_package, openvino

    binding = openvino()
    made = core()
    model = made.read_model(NOTHING, b"")
    compiled = made.compile_model(model, DEVICE, {"PERFORMANCE_HINT": "LATENCY"})
    in_package(model)
    found = {
        "version": binding.get_version(),
        "devices": list(made.available_devices),
        "processor": made.get_property(DEVICE, "FULL_DEVICE_NAME"),
        "precision": compiled.get_property("INFERENCE_PRECISION_HINT").get_type_name(),
        "requirements": _requirements(compiled),
        "frontends": sorted(binding.FrontEndManager().get_available_front_ends()),
        "calls_home": "openvino_telemetry" in sys.modules,
    }
    sys.stdout.write(json.dumps(found))


def _requirements(compiled: object) -> str:
    try:
        return str(compiled.get_property("RUNTIME_REQUIREMENTS"))  # type: ignore[attr-defined]
    # OpenVINO's only error class; releases before 2026.1 have no such property.
    except RuntimeError:
        return ""


if __name__ == "__main__":
    main()
