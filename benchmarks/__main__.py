"""Every target with this machine's figures, as ``make bench`` prints it; plots and JSON beside it.

``make bench BENCH_ARGS='--parts cold,warm --runs 3'`` takes less time. ``docs/performance.md`` says how each figure
was got.
"""

from __future__ import annotations

import argparse
import datetime
import importlib.util
import itertools
import json
import signal
import sys
import time
import traceback
from collections.abc import Callable, Mapping
from pathlib import Path
from tempfile import TemporaryDirectory

from benchmarks import codecs, cold_start, hotspots, lambda_start, memory, sizing, throughput, warm
from benchmarks.forms import PROTOCOLS
from benchmarks.machine import let_python_keep_what_it_compiles, machine, noting_others
from benchmarks.report import Findings, as_json, say, verdicts
from benchmarks.tasks import TASKS
from tests.servers import ROOT
from tests.servers.seaweedfs import SeaweedFS, seaweedfs


class Bench:
    """What the command line asks for, and what all parts share."""

    def __init__(self, options: argparse.Namespace, directory: Path) -> None:
        self._options = options
        self._directory = directory
        self._out: Path = options.out
        self._tasks = [TASKS[model](directory / model) for model in options.models]
        self.parts: Mapping[str, Callable[[], Findings]] = {
            "cold": self._cold,
            "lambda": self._lambda,
            "warm": self._warm,
            "throughput": self._throughput,
            "memory": self._memory,
            "hotspots": self._hotspots,
            "sizing": self._sizing,
            "codecs": codecs.findings,
        }

    def _cold(self) -> Findings:
        return self._with_s3(
            lambda s3: cold_start.findings(self._tasks, s3, self._directory, self._options.runs, self._out)
        )

    def _lambda(self) -> Findings:
        return self._with_s3(lambda s3: lambda_start.findings(self._tasks, s3, self._options.runs))

    def _warm(self) -> Findings:
        return warm.findings(self._tasks, self._directory, self._options.rounds, self._options.protocols)

    def _throughput(self) -> Findings:
        options = self._options
        found, cells = throughput.findings(
            self._tasks, self._directory, options.callers, options.hurry, options.protocols
        )
        if importlib.util.find_spec("matplotlib") is None:
            found.notes.append("no plots: matplotlib is missing")
            return found
        from benchmarks.plots import draw_throughput

        for task, protocol in itertools.product(self._tasks, options.protocols):
            path = self._out / f"throughput-{'' if protocol == 'tfs' else f'{protocol}-'}{task.model}.svg"
            draw_throughput(cells, task.model, protocol, f"{task.model}, {datetime.date.today()}", path)
        return found

    def _memory(self) -> Findings:
        return memory.findings(self._tasks, self._directory)

    def _hotspots(self) -> Findings:
        return hotspots.findings(TASKS["digits"](self._directory / "digits"), self._directory, self._options.protocols)

    def _sizing(self) -> Findings:
        return sizing.findings(self._directory, sizing.Plan(seconds=sizing.Plan().seconds / self._options.hurry))

    def _with_s3(self, measure: Callable[[SeaweedFS], Findings]) -> Findings:
        with TemporaryDirectory(prefix="s3-", dir=self._directory) as home, seaweedfs(Path(home)) as s3:
            for task in self._tasks:
                cold_start.upload(task, s3)
            return measure(s3)


def main() -> int:
    options = _arguments()
    # So that whoever is told to stop leaves no child and no temporary file behind.
    for number in (signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, lambda signum, frame: sys.exit(128 + signum))
    let_python_keep_what_it_compiles()
    options.out.mkdir(parents=True, exist_ok=True)
    facts, found, failed = machine(), [], []
    began = time.monotonic()
    with noting_others(facts), TemporaryDirectory(prefix="bench-") as directory:
        bench = Bench(options, Path(directory))
        for name in options.parts:
            say(f"--- {name}")
            busy: dict[str, str] = {}
            try:
                with noting_others(busy):
                    findings = bench.parts[name]()
            # Minutes of other parts' figures are not to be lost; the exit code tells.
            except Exception:  # noqa: BLE001
                failed.append(name)
                traceback.print_exc()
            else:
                findings.notes += [f"{what}: {value}" for what, value in busy.items()]
                found.append(findings)
    facts["took"] = f"{time.monotonic() - began:.0f} s"
    _print(facts, found, failed)
    (options.out / "bench.json").write_text(json.dumps(as_json(facts, found), indent=1) + "\n")
    return 1 if failed else 0


def _print(facts: Mapping[str, str], found: list[Findings], failed: list[str]) -> None:
    print("\n".join(f"{fact}: {value}" for fact, value in facts.items()))
    for findings in found:
        print(f"\n## {findings.title}\n")
        print("\n\n".join(findings.tables))
        print("\n".join(["", *(f"- {note}" for note in findings.notes)]))
    print("\n## Targets\n")
    print(verdicts(verdict for findings in found for verdict in findings.verdicts))
    if failed:
        print(f"\nFAILED, see above: {', '.join(failed)}")


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m benchmarks", description=__doc__)
    parts = ["cold", "lambda", "warm", "throughput", "memory", "hotspots", "sizing", "codecs"]
    parser.add_argument(
        "--parts",
        type=_some_of(parts),
        default=parts[:-2],
        help=f"some of {','.join(parts)}; all but the last two by default",
    )
    parser.add_argument("--models", type=_some_of(TASKS), default=list(TASKS), help=f"some of {','.join(TASKS)}")
    parser.add_argument(
        "--protocols",
        type=_some_of(list(PROTOCOLS)),
        default=list(PROTOCOLS),
        help=f"some of {','.join(PROTOCOLS)}, in the parts warm, throughput and hotspots",
    )
    parser.add_argument("--runs", type=_positive, default=7, help="starts of each contender that count (default: 7)")
    parser.add_argument("--rounds", type=_positive, default=warm.ROUNDS, help="turns of each warm contender")
    parser.add_argument("--callers", type=_numbers, default=throughput.CALLERS, help="concurrencies, comma-separated")
    parser.add_argument("--hurry", type=float, default=1, help="by how much to shorten each turn under load")
    parser.add_argument("--out", type=Path, default=ROOT / "build" / "bench", help="where plots and JSON go")
    return parser.parse_args()


def _some_of(known: Mapping[str, object] | list[str]) -> Callable[[str], list[str]]:
    def names(text: str) -> list[str]:
        given = text.split(",")
        if unknown := sorted(set(given) - set(known)):
            raise argparse.ArgumentTypeError(f"unknown: {', '.join(unknown)}; want some of {', '.join(known)}")
        return given

    return names


def _positive(text: str) -> int:
    number = int(text)
    if number < 1:
        raise argparse.ArgumentTypeError(f"{text} is below 1")
    return number


def _numbers(text: str) -> list[int]:
    return [_positive(part) for part in text.split(",")]


if __name__ == "__main__":
    sys.exit(main())
