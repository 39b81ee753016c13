"""OpenVINO, imported when it is first needed and not before, and the one core of the process.

Nobody else imports it. What `openvino` returns is its binding alone, ``openvino._pyopenvino``: the package around it
wraps the binding's classes in Python and brings opsets, frontends and helpers, none of which it takes to serve. Its
wrappers fill in what the binding wants said: ``request.start_async({}, None)``, ``compile_model(model, DEVICE, {})``.
"""

from __future__ import annotations

import importlib
import re
import sys
import threading
from collections.abc import Mapping
from functools import cache
from importlib.util import find_spec, module_from_spec
from pathlib import Path
from typing import Any

from model_cache.timeline import span
from runtime.memory import keep_little

DEVICE = "CPU"
NOTHING = b"""<?xml version="1.0"?><net name="nothing" version="11"><layers>
<layer id="0" name="x" type="Parameter" version="opset1"><data shape="1" element_type="f32"/>
<output><port id="0" precision="FP32"><dim>1</dim></port></output></layer>
<layer id="1" name="y" type="Result" version="opset1">
<input><port id="0" precision="FP32"><dim>1</dim></port></input></layer>
</layers><edges><edge from-layer="0" from-port="0" to-layer="1" to-port="0"/></edges></net>"""

# Properties that OpenVINO looks at itself, whatever the device.
_OF_THE_CORE = frozenset(
    {"ALLOW_AUTO_BATCHING", "AUTO_BATCH_TIMEOUT", "CACHE_DIR", "CACHE_MODE", "DEVICE_PROPERTIES", "ENABLE_MMAP"}
)
_PACKAGE = "openvino"
_BINDING = "openvino._pyopenvino"
# Held while the binding is imported and while the core is made, so that threads that come at once get the same.
_lock = threading.RLock()


@cache
def openvino() -> Any:
    """Import OpenVINO's binding, in half the time of ``import openvino``, which may follow at any time."""
    with _lock:
        # Whoever imports the package later does so without converters nobody here calls, 0.1 s, and a call home.
        sys.modules.setdefault("openvino.tools", None)  # type: ignore[arg-type]
        with span("imports.openvino"):
            if _PACKAGE in sys.modules:
                importlib.import_module(_BINDING)
            else:
                _import_binding()
        return sys.modules[_BINDING]


@cache
def core() -> Any:
    with _lock:
        return _core()


# Twice, as the cache alone would let two threads at once make one each.
@cache
def _core() -> Any:
    # Before the first weights are.
    keep_little()
    return openvino().Core()


def check_properties(properties: Mapping[str, str]) -> None:
    """Compile a model of nothing with these, as OpenVINO looks at most of them only then.

    Raises:
        ValueError: they are not OpenVINO's, with its reason.
    """
    try:
        core().compile_model(core().read_model(NOTHING, b""), DEVICE, dict(properties))
    # OpenVINO's only error class.
    except RuntimeError as exc:
        raise ValueError(reason(exc)) from exc


def unsupported(device: str, properties: Mapping[str, str]) -> list[str]:
    """Return which of these properties nobody behind the device's name has; those it has for others say nothing of it.

    Raises:
        RuntimeError: there is no such device.
    """
    first, _, behind = device.partition(":")
    # AUTO:GPU(2),-CPU has priorities, or leaves some out. It is made of all that there are if none is named.
    named = [name.partition("(")[0].strip() for name in behind.split(",") if not name.strip().startswith("-")]
    devices = [first, *(filter(None, named) if any(named) else core().available_devices)]
    known = {name for each in devices for name in core().get_property(each, "SUPPORTED_PROPERTIES")}
    return sorted(properties.keys() - known - _OF_THE_CORE)


@cache
def add_extension(path: str) -> None:
    """Add a library of operations to the core, once.

    Raises:
        ValueError: it is none, or cannot be loaded, with OpenVINO's reason.
    """
    try:
        core().add_extension(path)
    # OpenVINO's only error class.
    except RuntimeError as exc:
        raise ValueError(reason(exc)) from exc


def in_package(model: Any) -> Any:
    """Return the binding's model as the package around it has it, which is all that the binding preprocesses."""
    openvino()
    return importlib.import_module(_PACKAGE).Model(model)


def from_package(model: Any) -> Any:
    """Return the binding's model of the package's."""
    return model._Model__model


def reason(exc: Exception, directory: Path | None = None) -> str:
    """Return what OpenVINO says, less where in its sources it says so and less the directory, which is our own."""
    text = str(exc).replace(f"{directory}/", "") if directory else str(exc)
    # Where a library of OpenVINO's lies is nobody's concern either.
    text = re.sub(r"/[^\s\"]*/([^/\s\"]+\.so\b)", r"\1", text.replace("Caught exception: ", ""))
    lines = [line.strip() for line in text.splitlines()]
    telling = [line for line in lines if line and not line.startswith(("Exception from ", "Check '"))]
    return re.sub(r" (failed )?at src/\S+", r" \1", " ".join(telling or lines))[:500].strip()


def _import_binding() -> None:
    """Import the binding with the package around it found, but not run."""
    spec = find_spec(_PACKAGE)
    if spec is None:
        raise ModuleNotFoundError(f"No module named {_PACKAGE!r}", name=_PACKAGE)
    sys.modules[_PACKAGE] = module_from_spec(spec)
    try:
        importlib.import_module(_BINDING)
    finally:
        # So that the next to import the package gets all of it.
        del sys.modules[_PACKAGE]
