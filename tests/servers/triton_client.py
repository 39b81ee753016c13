"""NVIDIA's tritonclient, over HTTP and over gRPC, in a process of its own: see `client_process`."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from types import MappingProxyType
from typing import Any, Literal, NamedTuple

from numpy.typing import NDArray

from tests.servers import tool
from tests.servers.client_process import ClientError, ClientProcess

Transport = Literal["http", "grpc"]
_SCRIPT = Path(__file__).with_name("triton_client_script.py")


class Wanted(NamedTuple):
    """Its InferRequestedOutput. ``is_binary`` is of HTTP alone."""

    name: str
    is_binary: bool = True
    classes: int = 0


class Answer(NamedTuple):
    response: dict[str, Any]
    """As the client has it; of gRPC, without the tensors' bytes."""
    arrays: dict[str, NDArray[Any]]
    """As its ``as_numpy`` gives them."""


class Request(NamedTuple):
    """What its ``infer`` takes."""

    model: str
    inputs: dict[str, NDArray[Any]]
    is_binary: bool = True
    """Whether inputs are, of HTTP."""
    outputs: Sequence[Wanted] | None = None
    options: Mapping[str, Any] = MappingProxyType({})
    """Keyword arguments by its names."""


class TritonClient(NamedTuple):
    process: ClientProcess
    transport: Transport
    address: str

    def call(self, method: str, *args: Any, **options: Any) -> Any:
        """Return what one of its methods does; its messages as dictionaries.

        Raises:
            ClientError: what it raised.
        """
        return self._ask(method=method, args=args, options=options)

    def infer(self, model: str, inputs: dict[str, NDArray[Any]], **more: Any) -> Answer:
        """Args: see `Request`, and what its options may be."""
        own = {name: more.pop(name) for name in ("is_binary", "outputs") if name in more}
        (answer,) = self.infer_many([Request(model, inputs, options=more, **own)], by="infer")
        return _answered(answer)

    def infer_many(
        self, requests: Sequence[Request], by: Literal["infer", "async_infer", "stream_infer"]
    ) -> list[Answer | ClientError]:
        """Return what came of each: one after the other, all at the same time, or over one stream."""
        told = self._ask(method=by, requests=[_plain(request) for request in requests])
        return [Answer(*answer) if is_done else ClientError(*answer) for is_done, answer in told]

    def _ask(self, **call: Any) -> Any:
        return self.process.ask(transport=self.transport, address=self.address, **call)


def triton_process(directory: Path) -> ClientProcess:
    return ClientProcess(_SCRIPT, tool("openinference"), directory)


def _plain(request: Request) -> dict[str, Any]:
    outputs = None if request.outputs is None else [tuple(wanted) for wanted in request.outputs]
    return request._asdict() | {"outputs": outputs, "options": dict(request.options)}


def _answered(answer: Answer | ClientError) -> Answer:
    if isinstance(answer, ClientError):
        raise answer
    return answer
