"""OpenVINO: whether it starts here, which release, for which processor and formats, and that it does not call home."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Mapping, Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import NamedTuple

from handlers.doctor.finding import Finding, Findings, Site, ok, problem, warning

TIMEOUT = 25.0
PROBE = ("-P", "-m", "handlers.doctor.engine_probe")
FRONT_ENDS = {
    ".xml": "ir",
    ".onnx": "onnx",
    ".pdmodel": "paddle",
    ".json": "paddle",
    "saved_model.pb": "tf",
    ".pb": "tf",
    ".tflite": "tflite",
}
"""Which of OpenVINO's front ends reads what."""


class Engine(NamedTuple):
    version: str
    devices: Sequence[str]
    processor: str
    precision: str
    requirements: str
    frontends: Sequence[str]
    calls_home: bool


class EngineFailed(Exception):
    pass


def probe(timeout: float = TIMEOUT, argv: Sequence[str] = PROBE) -> Engine:
    """Ask OpenVINO in a process of its own.

    Raises:
        EngineFailed: it does not start, crashes, or does not answer in time.
    """
    try:
        done = subprocess.run(
            [sys.executable, *argv], check=False, capture_output=True, timeout=timeout, stdin=subprocess.DEVNULL
        )
    except subprocess.TimeoutExpired:
        raise EngineFailed(f"it has not started after {timeout:.0f} s") from None
    except OSError as exc:
        raise EngineFailed(f"no process can be started to ask it: {exc.strerror}") from exc
    if done.returncode < 0:
        raise EngineFailed(f"it was ended by signal {-done.returncode}{_SIGNALS.get(-done.returncode, '')}")
    try:
        if done.returncode:
            raise ValueError
        return Engine(**json.loads(done.stdout))
    except (ValueError, TypeError):
        lines = done.stderr.decode(errors="replace").strip().splitlines()
        last = lines[-1] if lines else f"exit code {done.returncode}"
        raise EngineFailed(f"it does not start: {last[:300]}") from None


_SIGNALS = {4: ", an instruction that this processor has not", 9: ", as it does where memory is used up", 11: ""}


def describe(site: Site, engine: Engine) -> Findings:
    detail = f"{engine.version}, {', '.join(engine.devices)}: {engine.processor.strip()}, {engine.precision}"
    if "CPU" in engine.devices:
        yield ok("openvino", "OpenVINO", detail)
    else:
        advice = "install openvino as a whole: libopenvino_intel_cpu_plugin.so is missing"
        yield problem("openvino", "OpenVINO", f"{detail}; want CPU among its devices", advice)
    yield _devices(site, engine)
    yield ok("openvino.formats", "formats of models", ", ".join(engine.frontends))
    yield _telemetry(site, engine)


def failed(site: Site, reason: str) -> Finding:
    if any((site.root / name / "self").exists() or (site.root / name / "devices").exists() for name in ("proc", "sys")):
        advice = "pip install openvino again, for this architecture, or give the container more memory and time"
    else:
        advice = "mount /proc or /sys, without which OpenVINO looks for processors for ever"
    return problem("openvino", "OpenVINO", f"{reason}; want a model of nothing compiled", advice)


def _devices(site: Site, engine: Engine) -> Finding:
    wanted = site.settings.target_device or "CPU"
    first = wanted.partition(":")[0].partition(".")[0]
    if first in ("AUTO", "MULTI", "HETERO", "BATCH") or first in engine.devices:
        return ok("openvino.device", "device", f"{wanted} for models")
    detail = f"target_device is {wanted}; want one of {', '.join(engine.devices)}"
    return problem("openvino.device", "device", detail, "set target_device to CPU, or install the device's driver")


def _telemetry(site: Site, engine: Engine) -> Finding:
    if engine.calls_home:
        detail = "openvino_telemetry is loaded with OpenVINO, which sends what is used to Google Analytics"
        return warning("telemetry", "telemetry", detail, "pip uninstall openvino-telemetry")
    if find_spec("openvino_telemetry") is None:
        return ok("telemetry", "telemetry", "openvino-telemetry is not installed")
    if _has_opted_out(site.environ):
        return ok("telemetry", "telemetry", "openvino-telemetry is installed, opted out of, and not loaded by Decant")
    detail = "openvino-telemetry is installed, and not loaded by Decant; a plain import openvino would call home"
    return ok("telemetry", "telemetry", detail, "pip uninstall openvino-telemetry, if others use this Python")


def _has_opted_out(environ: Mapping[str, str]) -> bool:
    try:
        return Path(environ.get("HOME", ""), "intel", "openvino_telemetry").read_text().strip() == "0"
    except OSError:
        return False
