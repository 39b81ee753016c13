"""The kserve package's inference clients, over HTTP and over gRPC, in a process of its own: see `client_process`."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal, NamedTuple

from numpy.typing import NDArray

from tests.servers import tool
from tests.servers.client_process import ClientProcess

_SCRIPT = Path(__file__).with_name("kserve_client_script.py")


class Answer(NamedTuple):
    """What its InferResponse has."""

    id: str
    model_name: str
    model_version: str
    parameters: dict[str, Any]
    arrays: dict[str, NDArray[Any]]
    """As its ``as_numpy`` gives them."""
    binary: dict[str, bool]
    """Whether each came as bytes."""


class KServeClient(NamedTuple):
    process: ClientProcess
    transport: Literal["http", "grpc"]
    address: str
    """A URL, of HTTP; else a host and a port."""

    def call(self, method: str, *args: Any) -> Any:
        """Return what one of its methods does.

        Raises:
            ClientError: what it raised.
        """
        return self._ask(method=method, args=args)

    def infer(
        self,
        model: str,
        inputs: dict[str, NDArray[Any]],
        *,
        is_binary: bool = True,
        outputs: Mapping[str, dict[str, Any] | None] | None = None,
        **options: Any,
    ) -> Answer:
        """Return what came of its InferRequest.

        Args:
            is_binary: whether inputs are bytes: behind the JSON, or in raw_input_contents; else in what is typed.
            outputs: their parameters by name, None for no parameters; None for all.
            options: keyword arguments of InferRequest, by its names.
        """
        told = self._ask(
            method="infer",
            model=model,
            inputs=inputs,
            is_binary=is_binary,
            outputs=dict(outputs or {}),
            options=options,
        )
        return Answer(*told)

    def _ask(self, **call: Any) -> Any:
        return self.process.ask(transport=self.transport, address=self.address, **call)


def kserve_process(directory: Path) -> ClientProcess:
    return ClientProcess(_SCRIPT, tool("openinference"), directory)
