"""What gRPC tells tools of itself."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import grpc
import pytest
from google.protobuf.descriptor_pool import DescriptorPool
from google.protobuf.message_factory import GetMessageClass
from grpc_reflection.v1alpha.proto_reflection_descriptor_database import ProtoReflectionDescriptorDatabase

from tests.fakes import PATIENCE
from tests.handlers.grpc_front import PREDICT, X, Y, listening, outcome
from tests.runtime import oracle
from tests.runtime.servables import NAME, Stage, stage


@pytest.fixture
def s() -> Iterator[Stage]:
    with stage(1, 2) as made:
        yield made


@pytest.fixture
def path(tmp_path: Path) -> str:
    return str(tmp_path / "grpc.sock")


def test_tools_build_messages_from_what_reflection_tells_them(s: Stage, path: str) -> None:
    with (
        listening(s.server, socket_path=path, has_reflection=True),
        grpc.insecure_channel(f"unix:{path}") as channel,
    ):
        database = ProtoReflectionDescriptorDatabase(channel)
        assert set(database.get_services()) == {
            "tensorflow.serving.PredictionService",
            "tensorflow.serving.ModelService",
            "inference.GRPCInferenceService",
            "grpc.health.v1.Health",
            "grpc.reflection.v1alpha.ServerReflection",
        }
        pool: Any = DescriptorPool(database)
        for name in database.get_services():
            assert pool.FindServiceByName(name).methods
        method = pool.FindServiceByName("tensorflow.serving.PredictionService").methods_by_name["Predict"]
        request: Any = GetMessageClass(method.input_type)(model_spec={"name": NAME})
        request.inputs["x"].dtype = 1
        request.inputs["x"].tensor_shape.dim.add(size=3)
        request.inputs["x"].float_val.extend(X.tolist())
        send: Any = channel.unary_unary(PREDICT, response_deserializer=GetMessageClass(method.output_type).FromString)
        response = send(request.SerializeToString(), timeout=PATIENCE)
        assert list(response.outputs["y"].float_val) == Y
        assert response.model_spec.version.value == 2


def test_reflection_tells_the_types_on_the_wire() -> None:
    from runtime.codecs.schema.reflection import wire_pool

    told: Any = wire_pool().FindFileByName("tensorflow_serving.proto")
    true: Any = oracle.PredictRequest.DESCRIPTOR.file
    assert "UnpackedTensorProto" not in told.message_types_by_name
    compared = 0
    for name, message in told.message_types_by_name.items():
        for field in message.fields if name in true.message_types_by_name else ():
            original = true.message_types_by_name[name].fields_by_name.get(field.name)
            if original is None:
                continue
            assert (field.number, wire_type(field)) == (original.number, wire_type(original)), field.full_name
            compared += 1
    assert compared > 40


def wire_type(field: Any) -> tuple[int, bool, bool]:
    """Enums travel as int32."""
    is_enum = field.type == field.TYPE_ENUM
    return field.TYPE_INT32 if is_enum else field.type, field.is_repeated, field.is_packed


def test_it_does_not_tell_unless_it_is_told_to(s: Stage, path: str) -> None:
    with listening(s.server, socket_path=path), grpc.insecure_channel(f"unix:{path}") as channel:
        database = ProtoReflectionDescriptorDatabase(channel)
        assert outcome(database.get_services) is grpc.StatusCode.UNIMPLEMENTED
