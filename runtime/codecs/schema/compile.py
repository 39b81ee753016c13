"""Compile the schemas beside this file; needs grpcio-tools. Run as ``python -m runtime.codecs.schema.compile``."""

from __future__ import annotations

import sys
import tempfile
from importlib.resources import files
from pathlib import Path

SOURCES = tuple(Path(__file__).with_name(f"{name}.proto") for name in ("tensorflow_serving", "open_inference"))


def compile_schema(source: Path) -> bytes:
    """Return a schema's serialized FileDescriptorProto."""
    from google.protobuf.descriptor_pb2 import FileDescriptorSet
    from grpc_tools import protoc

    with tempfile.TemporaryDirectory() as directory:
        out = Path(directory) / "set.binpb"
        includes = [f"-I{source.parent}", f"-I{files('grpc_tools') / '_proto'}"]
        if protoc.main(["protoc", *includes, f"--descriptor_set_out={out}", source.name]):
            raise SystemExit(f"protoc cannot compile {source}")
        (compiled,) = FileDescriptorSet.FromString(out.read_bytes()).file
        return compiled.SerializeToString(deterministic=True)


if __name__ == "__main__":
    for source in SOURCES:
        target = source.with_suffix(".binpb")
        target.write_bytes(compile_schema(source))
        sys.stdout.write(f"wrote {target.name}, {target.stat().st_size} bytes\n")
