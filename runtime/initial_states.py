"""States that a model makes of what the first request of a sequence brings, such as zeros for each of its rows.

They are made by a model of their own and then set, as OpenVINO 2026.4's CPU plugin makes them wrong: once an infer
request of the stream has begun with a state that was set, an initial one of the sizes that the last initial one had
gets the sizes, and in what it lacks the values, of the one that was set.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NamedTuple

from runtime.openvino_core import core, openvino


class InitialStates(NamedTuple):
    names: tuple[str, ...]
    """Of the variables, in the order of the outputs."""
    compiled: Any
    """OpenVINO's CompiledModel, whose inputs are the model's."""


def initial_states(model: Any, device: str, config: Mapping[str, str]) -> InitialStates | None:
    """Compile what makes a model's initial states of its inputs; None if they are the same for all requests.

    Raises:
        RuntimeError: OpenVINO cannot.
    """
    made = {
        node.get_attributes()["variable_id"]: node.input_value(0)
        for node in model.get_ordered_ops()
        if node.get_type_name() == "ReadValue" and _is_of_inputs(node)
    }
    if not made:
        return None
    results = [openvino().op.Result(value) for value in made.values()]
    compiled = core().compile_model(openvino().Model(results, model.get_parameters(), "initial"), device, dict(config))
    return InitialStates(tuple(made), compiled)


def _is_of_inputs(node: Any) -> bool:
    seen = set()
    above = [node]
    while above:
        node = above.pop()
        if node.get_type_name() == "Parameter":
            return True
        # A graph has many ways to a node.
        if node.get_name() not in seen:
            seen.add(node.get_name())
            above += [value.get_node() for value in node.input_values()]
    return False
