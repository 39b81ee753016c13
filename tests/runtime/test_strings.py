"""String tensors through OpenVINO, byte for byte."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from runtime import strings
from runtime.signature import DEFAULT_SIGNATURE, TensorSpec
from tests.alone import alone
from tests.runtime import measured, models


def array_of(items: Sequence[bytes], *shape: int) -> NDArray[Any]:
    array = np.empty(len(items), object)
    array[:] = items
    return array.reshape(shape or (len(items),))


def same(left: NDArray[Any], right: NDArray[Any]) -> bool:
    return left.dtype == right.dtype and left.shape == right.shape and left.ravel().tolist() == right.ravel().tolist()


@pytest.mark.parametrize(
    "array",
    [
        array_of([b"a"]),
        array_of([b""]),
        array_of([b"", b""]),
        array_of([]),
        array_of([], 2, 0),
        array_of([b"zeros at the end\0\0", b"\0", b"\0before", b"\xff\xfe no text"]),
        array_of(["tränë".encode(), b"long" * 10_000, b"", b"x"], 2, 2),
        array_of([b"a scalar"]).reshape(()),
        array_of([b"x"] * 24, 2, 3, 4),
    ],
    ids=repr,
)
def test_strings_come_back_as_they_went(array: NDArray[Any]) -> None:
    tensor, _kept = strings.pack(array)
    assert same(strings.unpack(tensor), array)


@given(st.lists(st.binary(max_size=40), max_size=20))
@settings(deadline=None)
def test_any_strings_come_back_as_they_went(items: list[bytes]) -> None:
    tensor, _kept = strings.pack(array_of(items))
    assert same(strings.unpack(tensor), array_of(items))


def test_nothing_is_left_of_the_strings_before() -> None:
    for items in ([b"first", b"second"], [], [b""], [b"third"]):
        tensor, _kept = strings.pack(array_of(items))
        assert same(strings.unpack(tensor), array_of(items))


def test_one_long_string_among_many_costs_no_more_than_itself() -> None:
    """At the length of the longest for each this would be 3 TiB."""
    program = (
        "import resource; import numpy as np; from runtime import strings\n"
        "array = np.empty(100_000, object); array[:] = [b'x' * (1 << 25), *[b''] * 99_999]\n"
        "strings.unpack(strings.pack(array[:2])[0]); before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss\n"
        "assert (strings.unpack(strings.pack(array)[0]) == array).all()\n"
        "print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before)"
    )
    grown = subprocess.run([sys.executable, "-c", program], check=True, capture_output=True, text=True).stdout
    assert int(grown) << 10 < 8 * (1 << 25)


@pytest.mark.parametrize("rank", [0, 1, 2, 3])
def test_a_model_takes_and_gives_strings(rank: int, tmp_path: Path) -> None:
    x = array_of(
        [b"", b"\xff\0", "née".encode(), b"d"][: 4 if rank else 1], *(1,) * max(0, rank - 1), *(-1,) * (rank > 0)
    )
    x = x if rank else x.reshape(())
    with models.serving(models.speller(rank), tmp_path) as servable:
        signature = servable.signatures[DEFAULT_SIGNATURE]
        assert signature.inputs["x"] == TensorSpec("x", np.dtype(object), (-1,) * rank)
        assert signature.outputs["y"].dtype == np.dtype(object)
        outputs = servable.predict(DEFAULT_SIGNATURE, {"x": x})
    assert same(outputs["y"], x)
    assert outputs["length"].ravel().tolist() == [len(item) for item in x.ravel()]


def test_many_strings_leave_little_of_their_memory_behind(tmp_path: Path) -> None:
    """Else a request of a few megabytes would take hundreds for as long as the model is loaded."""
    models.save(models.speller(), tmp_path)
    count = 2_000_000
    # OpenVINO keeps 40 bytes for each within the compiled model; all together were 200.
    assert alone(measured.strings, tmp_path, count) < 80 * count
