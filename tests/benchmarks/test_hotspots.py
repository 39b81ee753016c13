"""What perf 6.1 and strace 6.1 print, recorded, is read."""

from __future__ import annotations

from benchmarks.hotspots import parse_perf, parse_strace

PERF = """\
# To display the perf.data header info, please use --header/--header-only options.
#
# Samples: 2K of event 'cpu-clock:ppp'
# Event count (approx.): 2599599597
#
# Overhead  Shared Object
# ........  .................................................
#
    29.50%  [kernel.kallsyms]
    25.49%  libpython3.11.so.1.0
     1.27%  [JIT] tid 25977

#
# (Tip: To show IPC for sampling periods use perf record -e '{cycles,instructions}:S' and then browse context)
"""
STRACE = """\
% time     seconds  usecs/call     calls    errors syscall
------ ----------- ----------- --------- --------- ------------------
 91.32    6.060604         415     14578      1858 futex
  4.10    0.271821       22651        12           epoll_wait
  2.09    0.138413          20     26870           sched_yield
------ ----------- ----------- --------- --------- ------------------
100.00    6.636415         258     41460      1858 total
"""


def test_perf_tells_whose_code_runs() -> None:
    assert parse_perf(PERF) == {"[kernel.kallsyms]": 29.5, "libpython3.11.so.1.0": 25.49, "[JIT]": 1.27}


def test_strace_tells_which_calls_are_made_most() -> None:
    assert list(parse_strace(STRACE).items()) == [("sched_yield", 26870), ("futex", 14578), ("epoll_wait", 12)]
