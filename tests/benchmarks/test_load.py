"""What wrk 4.1 and h2load 1.52 print, recorded from runs of theirs against Decant, is read."""

from __future__ import annotations

import pytest

from benchmarks.load import Load, grpc_frame, h2load_latencies, parse_h2load, parse_wrk
from benchmarks.tasks import BenchmarkFailed

WRK = """\
Running 1s test @ http://127.0.0.1:10761/v1/models/digits:predict
  1 threads and 4 connections
  Thread Stats   Avg      Stdev     Max   +/- Stdev
    Latency     2.65ms  767.53us   9.27ms   86.13%
    Req/Sec     1.45k   203.93     1.69k    80.00%
  1443 requests in 1.00s, 428.39KB read
Requests/sec:   1438.16
Transfer/sec:    426.95KB
result {"requests": 1443, "microseconds": 1003364, "errors": 0, "p50": 2546, "p99": 5987}
"""
WRK_REFUSED = """\
  5111 requests in 1.00s, 1.03MB read
  Non-2xx or 3xx responses: 5111
Requests/sec:   5109.51
Transfer/sec:      1.03MB
result {"requests": 5111, "microseconds": 1000292, "errors": 5111, "p50": 721, "p99": 1930}
"""
H2LOAD = """\
Main benchmark duration is over for thread #0. Stopping all clients.
Stopped all clients for thread #0

finished in 1.00s, 1125.00 req/s, 209.58KB/s
requests: 1125 total, 1129 started, 1125 done, 1125 succeeded, 0 failed, 0 errored, 0 timeout
status codes: 1125 2xx, 0 3xx, 0 4xx, 0 5xx
traffic: 209.58KB (214615) total, 3.59KB (3675) headers (space savings 95.97%), 143.92KB (147375) data
                     min         max         mean         sd        +/- sd
time for request:      780us     11.95ms      3.42ms      1.10ms    77.78%
time for connect:      110us       145us       131us        15us    75.00%
time to 1st byte:     8.80ms     12.17ms     10.70ms      1.42ms    50.00%
req/s           :     275.70      284.71      280.95        3.86    75.00%
"""
# Every answer was NOT_FOUND, which to HTTP is a 200 without data.
H2LOAD_REFUSED = """\
finished in 1.00s, 2592.00 req/s, 322.14KB/s
requests: 2592 total, 2596 started, 2592 done, 2592 succeeded, 0 failed, 0 errored, 0 timeout
status codes: 2592 2xx, 0 3xx, 0 4xx, 0 5xx
traffic: 322.14KB (329869) total, 265.95KB (272336) headers (space savings 29.48%), 0B (0) data
"""
H2LOAD_NOTHING = """\
finished in 1.50s, 0.00 req/s, 136B/s
requests: 0 total, 0 started, 0 done, 0 succeeded, 0 failed, 0 errored, 0 timeout
status codes: 0 2xx, 0 3xx, 0 4xx, 0 5xx
traffic: 136B (136) total, 723B (723) headers (space savings 78.23%), 0B (0) data
"""
LOG = "1795291587417146\t200\t600\n1795291587417811\t200\t593\n1795291587418417\t200\t648\n"
ANSWER = 126
"""Bytes of the message in each of these answers."""


def test_wrk_tells_rate_latencies_and_errors() -> None:
    assert parse_wrk(WRK) == Load(1443 / 1003364 * 1e6, 0.002546, 0.005987, 0)


def test_what_was_answered_with_an_error_is_no_throughput() -> None:
    assert parse_wrk(WRK_REFUSED) == Load(0, 0.000721, 0.00193, 5111)
    assert parse_h2load(H2LOAD_REFUSED, LOG, ANSWER) == Load(0, 0.0006, 0.000648, 2592)


def test_h2load_tells_rate_and_errors_and_its_log_the_latencies() -> None:
    assert parse_h2load(H2LOAD, LOG, ANSWER) == Load(1125, 0.0006, 0.000648, 0)
    assert h2load_latencies(LOG) == [0.0006, 0.000593, 0.000648]


def test_answers_without_a_message_are_found_among_good_ones() -> None:
    fewer = H2LOAD.replace("(147375) data", f"({147375 - 25 * (ANSWER + 5)}) data")
    assert parse_h2load(fewer, LOG, ANSWER) == Load(1100, 0.0006, 0.000648, 25)


def test_what_h2load_calls_failed_counts_as_an_error() -> None:
    failed = H2LOAD.replace("1125 succeeded, 0 failed", "1120 succeeded, 5 failed")
    failed = failed.replace("(147375) data", f"({1120 * (ANSWER + 5)}) data")
    assert parse_h2load(failed, LOG, ANSWER) == Load(1120, 0.0006, 0.000648, 5)


def test_a_server_that_answers_nothing_has_a_rate_of_nothing() -> None:
    assert parse_h2load(H2LOAD_NOTHING, "", ANSWER) == Load(0, 0, 0, 0)


def test_output_that_cannot_be_read_is_shown() -> None:
    with pytest.raises(BenchmarkFailed, match="unable to connect"):
        parse_wrk("unable to connect to 127.0.0.1:1 Connection refused\n")
    with pytest.raises(BenchmarkFailed, match="could not connect"):
        parse_h2load("could not connect to host\n", "", ANSWER)


def test_a_message_of_grpc_has_its_length_before_it() -> None:
    assert grpc_frame(b"x" * 258) == b"\0\0\0\1\2" + b"x" * 258
