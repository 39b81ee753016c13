"""Change what is in the corpora at random, for as long as you like, and keep what goes wrong.

``make fuzz`` runs this for ten minutes, or ``make fuzz MINUTES=60``. What is wrong ends it: the body or message is
written into its corpus, which the tests run ever after. They also run the same checks for some seconds each time, from
the same seed; here the seed is another each time, and is printed.
"""

from __future__ import annotations

import argparse
import hashlib
import random
import sys
import time
from collections.abc import Callable
from pathlib import Path

from tests.runtime.codecs import test_json_hostile as bodies
from tests.runtime.codecs import test_tensor_proto_hostile as messages
from tests.runtime.codecs.open_inference import test_infer_json_hostile as requests
from tests.runtime.codecs.open_inference import test_messages_hostile as calls

CORPUS = Path(__file__).with_name("corpus")
_TELL_EVERY = 10.0


def check_body(body: bytes) -> None:
    for wanted in bodies.WANTED:
        bodies.survive(body, wanted)
    bodies.survive_as_examples(body)


TARGETS: dict[str, Callable[[bytes], None]] = {
    "json": check_body,
    "tensor_proto": messages.check,
    "infer_json": requests.check,
    "infer_request": calls.check,
}


def change(seeds: list[bytes], dice: random.Random) -> bytes:
    """Return one of the seeds with some of it taken out, doubled, overwritten or exchanged for some of another."""
    data = bytearray(dice.choice(seeds))
    for _ in range(dice.randint(1, 6)):
        at, size = dice.randrange(len(data) + 1), dice.choice((0, 1, 1, 2, 4, 16))
        other = dice.choice(seeds)
        start = dice.randrange(len(other) + 1)
        data[at : at + size] = dice.choice(
            (
                b"",
                dice.randbytes(size),
                other[start : start + dice.choice((1, 4, 16, 64))],
                bytes(data[at : at + size]) * dice.randint(2, 40),
                dice.choice(bodies.PIECES + requests.PIECES),
            )
        )
    return bytes(data)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--minutes", type=float, default=10)
    parser.add_argument("--seed", type=int, default=random.SystemRandom().randrange(1 << 32))
    options = parser.parse_args()
    dice = random.Random(options.seed)
    seeds = {name: [path.read_bytes() for path in sorted((CORPUS / name).iterdir())] for name in TARGETS}
    print(f"seed {options.seed}", file=sys.stderr)
    began = told = time.monotonic()
    count = 0
    while time.monotonic() - began < options.minutes * 60:
        for name, check in TARGETS.items():
            data = change(seeds[name], dice)
            try:
                check(data)
            except BaseException:
                found = CORPUS / name / f"found-{hashlib.sha256(data).hexdigest()[:12]}.bin"
                found.write_bytes(data)
                print(f"after {count} tries this goes wrong, kept as {found}", file=sys.stderr)
                raise
            count += 1
        if time.monotonic() - told > _TELL_EVERY:
            told = time.monotonic()
            print(f"{count} tries in {told - began:.0f} s, nothing wrong", file=sys.stderr)
    print(f"{count} tries, nothing wrong")


if __name__ == "__main__":
    main()
