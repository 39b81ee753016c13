"""Runs a function in a process of its own, where no other test has left anything."""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from typing import ParamSpec, TypeVar

P = ParamSpec("P")
T = TypeVar("T")


def alone(function: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
    """Return what the function returns there, or raise what it raises.

    What measures the process's memory is run so: what others have left free in this one would be used first, and what
    they have left in cycles be given back meanwhile.

    Args:
        function: of a module that takes little time to import.
    """
    # Not forked, as that would be this process once more.
    with ProcessPoolExecutor(1, mp_context=get_context("spawn")) as process:
        return process.submit(function, *args, **kwargs).result()
