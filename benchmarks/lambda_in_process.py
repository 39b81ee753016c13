"""Decant's Lambda handler, called as Lambda's runtime calls it, in this process: no HTTP, no emulator.

A script that ``benchmarks.children.Script`` talks to. Run as ``python benchmarks/lambda_in_process.py EVENT.json``;
``{"count": 100}`` is answered with the seconds of each call and the last answer.
"""

from __future__ import annotations

import json
import os
import sys
import time
from pathlib import Path
from types import SimpleNamespace

# A function prints its metrics, which here would be taken for an answer.
answers = os.fdopen(os.dup(sys.stdout.fileno()), "w")
os.dup2(sys.stderr.fileno(), sys.stdout.fileno())

from handlers.aws_lambda import handler  # noqa: E402


def main() -> None:
    event = json.loads(Path(sys.argv[1]).read_bytes())
    context = SimpleNamespace(aws_request_id="benchmark", get_remaining_time_in_millis=lambda: 30_000)
    for line in sys.stdin:
        seconds = []
        for _ in range(json.loads(line)["count"]):
            began = time.perf_counter()
            answer = handler(event, context)
            seconds.append(time.perf_counter() - began)
        print(json.dumps({"seconds": seconds, "answer": answer}), file=answers, flush=True)


if __name__ == "__main__":
    main()
