"""Seconds from the start of a Lambda function's process to its first right answer: Decant and a naive handler.

AWS's own emulator runs AWS's own runtime client. The emulator is ready and starts the function's process when the
first event comes, which is when the clock starts; that process and nothing else is in a control group with what Lambda
gives a function of 1,769 MB: that memory and one processor.
"""

from __future__ import annotations

import shutil
import statistics
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import NamedTuple

from benchmarks import cold_start
from benchmarks.cgroup import cgroup, why_not
from benchmarks.children import HERE, QUIET, family, own_seconds
from benchmarks.cold_start import BUCKET, DECANT, NAIVE
from benchmarks.machine import count_as_ours
from benchmarks.report import Findings, Verdict, say, table
from benchmarks.tasks import BenchmarkFailed, Task
from tests.servers.lambda_emulator import lambda_emulator
from tests.servers.lambda_events import function_url, response_body
from tests.servers.processes import clean_environment
from tests.servers.seaweedfs import SeaweedFS

MEMORY = 1769
"""MB as Lambda counts them, which is MiB."""
CPUS = 1.0
BARE = "bare script, no Lambda"
AHEAD = f"{DECANT}, compiled ahead"
CONTENDERS = (BARE, NAIVE, DECANT, AHEAD)
AHEAD_PREFIX = "ahead"
TITLE = f"Cold start on Lambda: AWS's emulator, {MEMORY} MB, {CPUS:g} processor, model from S3"


class Function(NamedTuple):
    handler: str
    path: str
    env: Mapping[str, str]


def findings(tasks: Sequence[Task], s3: SeaweedFS, runs: int) -> Findings:
    if reason := why_not():
        return Findings(TITLE, notes=[f"skipped: {reason}"])
    for task in tasks:
        _compile_ahead(task, s3)
    seconds: dict[tuple[str, str], list[float]] = {(task.model, who): [] for task in tasks for who in CONTENDERS}
    for number in range(runs + 1):
        for task in tasks:
            for who in CONTENDERS:
                taken = _measure_bare(task, s3) if who == BARE else measure(who, task, s3)
                say(f"{f'run {number} of {runs}' if number else 'warm-up'}: {task.model}, {who}, Lambda: {taken:.3f} s")
                if number:
                    seconds[task.model, who].append(taken)
    medians = {key: statistics.median(values) for key, values in seconds.items()}
    rows = [
        (
            model,
            who,
            *(f"{s:.3f}" for s in (medians[model, who], min(values), max(values))),
            _ratio(model, who, medians),
        )
        for (model, who), values in seconds.items()
    ]
    return Findings(
        TITLE,
        [table((" model", " function", "median s", "min", "max", "/ naive"), rows)],
        [
            Verdict(
                f"Lambda, {task.model} from S3: {who}",
                medians[task.model, who] / medians[task.model, NAIVE],
                "x naive",
                0.5,
            )
            for task in tasks
            for who in (DECANT, AHEAD)
        ],
        figures={f"{model}, {who}": values for (model, who), values in seconds.items()},
    )


def measure(who: str, task: Task, s3: SeaweedFS) -> float:
    with TemporaryDirectory(prefix="lambda-start-") as scratch, cgroup(MEMORY << 20, CPUS) as enter:
        directory = Path(scratch)
        function = _function(who, task, directory)
        event = function_url("POST", function.path, {}, {"content-type": "application/json"}, task.request())
        env = {**s3.admin.env(), **QUIET, **function.env, "HOME": scratch, "TMPDIR": scratch}
        program = (*enter, sys.executable, "-m", "awslambdaric")
        with lambda_emulator(directory, function.handler, env, memory=MEMORY, program=program) as emulator:
            started = time.perf_counter()
            answer = emulator.invoke(event)
            seconds = time.perf_counter() - started
            # Its children are not ours, so nobody tells us what they have used once they are gone.
            count_as_ours(sum(map(own_seconds, family(emulator.process.pid)[1:])))
            if answer.get("statusCode") != 200:
                raise BenchmarkFailed(f"{who} answered {str(answer)[:500]}; its log ends with {emulator.log()[-2000:]}")
        task.check(f"{who} on Lambda", response_body(answer))
    return seconds


def _compile_ahead(task: Task, s3: SeaweedFS) -> None:
    """Do what whoever uploads a model may do: publish it once more, with a compiled model beside it."""
    cold_start.upload(task, s3, f"{AHEAD_PREFIX}/")
    argv = [sys.executable, "-m", "handlers.cli", "compile", f"s3://{BUCKET}/{AHEAD_PREFIX}/{task.model}", "--force"]
    with TemporaryDirectory(prefix="compile-") as scratch:
        env = clean_environment({**s3.admin.env(), **QUIET, "HOME": scratch, "TMPDIR": scratch})
        subprocess.run(argv, cwd=HERE.parent, env=env, check=True, stdout=subprocess.DEVNULL, timeout=300)


def _measure_bare(task: Task, s3: SeaweedFS) -> float:
    """What such a group leaves of the floor: no emulator, no runtime client, no event."""
    with cgroup(MEMORY << 20, CPUS) as enter:

        def launch(task: Task, place: cold_start.Place) -> cold_start.Launch:
            return cold_start.Launch([*enter, *cold_start.bare_s3(task, place).argv])

        return cold_start.measure(cold_start.Contender(BARE, cold_start.S3, launch), task, s3)


def _function(who: str, task: Task, directory: Path) -> Function:
    prefix = f"{AHEAD_PREFIX}/" if who == AHEAD else ""
    base = f"s3://{BUCKET}/{prefix}{task.model}"
    if who in (DECANT, AHEAD):
        env = {"DECANT_MODEL_NAME": task.model, "DECANT_MODEL_PATH": base, "DECANT_CACHE_DIR": str(directory / "cache")}
        return Function("handlers.aws_lambda.handler", f"/v1/models/{task.model}:predict", env)
    # Not as a module of this package, whose import would keep OpenVINO's converter away from it.
    shutil.copy(HERE / "naive_lambda.py", directory)
    return Function("naive_lambda.handler", "/predict", {"MODEL_URI": f"{base}/1"})


def _ratio(model: str, who: str, medians: Mapping[tuple[str, str], float]) -> str:
    return "" if who == NAIVE else f"{medians[model, who] / medians[model, NAIVE]:.2f}"
