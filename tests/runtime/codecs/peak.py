"""Run as a process: decode the TensorProto on standard input, and tell what that took as JSON."""

from __future__ import annotations

import json
import re
import sys
import time
from pathlib import Path

from runtime.codecs import schema, tensor_proto
from runtime.codecs.dtypes import bfloat16
from runtime.errors import InvalidRequest


def kibibytes(name: str) -> int:
    """A line of proc(5)'s status. Not getrusage's, which knows of the parent's memory too."""
    (value,) = re.findall(rf"{name}:\s+(\d+) kB", Path("/proc/self/status").read_text())
    return int(value)


def main() -> None:
    wire = sys.stdin.buffer.read()
    # What comes with the first request is not its own.
    bfloat16()
    tensor_proto.decode("x", schema.TensorProto(dtype=9))
    before, began = kibibytes("VmRSS"), time.process_time()
    try:
        outcome = str(tensor_proto.decode("x", schema.TensorProto.FromString(wire)).shape)
    except InvalidRequest as exc:
        outcome = str(exc)
    seconds = time.process_time() - began
    json.dump({"bytes": (kibibytes("VmHWM") - before) * 1024, "seconds": seconds, "outcome": outcome}, sys.stdout)


if __name__ == "__main__":
    main()
