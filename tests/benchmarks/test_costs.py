"""The arithmetic of sizes and prices, by sums done by hand."""

from __future__ import annotations

import pytest

from benchmarks import prices
from benchmarks.costs import (
    Fit,
    Observed,
    break_even,
    container_million,
    fit,
    lambda_cpus,
    lambda_million,
    lone_million,
    provisioned_month,
    snapshot_month,
    to_grant,
    warm_month,
)
from benchmarks.prices import CLOUD_RUN_INSTANCES, CLOUD_RUN_REQUESTS, CONTAINER_APPS, LAMBDA_ARM, LAMBDA_X86

MIB = 1 << 20


def test_lambda_charges_gigabytes_by_the_millisecond_begun() -> None:
    # 2 GB for 0.05 s are 0.1 GB-seconds: 100,000 for a million.
    assert lambda_million(LAMBDA_X86, 2048, 0.05) == pytest.approx(100_000 * 16.6667e-6 + 0.20)
    assert lambda_million(LAMBDA_X86, 2048, 0.0491) == lambda_million(LAMBDA_X86, 2048, 0.05)
    assert lambda_million(LAMBDA_X86, 2048, 0.0501) > lambda_million(LAMBDA_X86, 2048, 0.05)
    # Not 0.051 s because 0.05 is no binary fraction.
    assert lambda_million(LAMBDA_X86, 1024, 0.1 + 0.2) == lambda_million(LAMBDA_X86, 1024, 0.3)


def test_arm_is_a_fifth_cheaper_at_the_same_latency() -> None:
    ratio = (lambda_million(LAMBDA_ARM, 1769, 1) - 0.2) / (lambda_million(LAMBDA_X86, 1769, 1) - 0.2)
    assert ratio == pytest.approx(0.8, abs=1e-4)


def test_a_processor_comes_with_1769_megabytes() -> None:
    assert lambda_cpus(1769) == 1
    assert lambda_cpus(3538) == 2


def test_an_instance_that_is_half_used_costs_twice_as_much_a_request() -> None:
    # 20 answers a second take 50,000 instance-seconds for a million.
    full = container_million(CLOUD_RUN_REQUESTS, 1, 2, 20)
    assert full == pytest.approx(50_000 * (24e-6 + 2 * 2.5e-6) + 0.40)
    half = container_million(CLOUD_RUN_REQUESTS, 1, 2, 20, 0.5)
    assert half - 0.40 == pytest.approx(2 * (full - 0.40))


def test_lone_requests_are_charged_in_whole_steps() -> None:
    one = lone_million(CLOUD_RUN_REQUESTS, 1, 1, 0.004)
    assert one == pytest.approx(100_000 * 26.5e-6 + 0.40)
    assert lone_million(CLOUD_RUN_REQUESTS, 1, 1, 0.1) == one
    assert lone_million(CLOUD_RUN_REQUESTS, 1, 1, 0.11) > one
    assert lone_million(CLOUD_RUN_REQUESTS, 1, 1, 0.3) == lone_million(CLOUD_RUN_REQUESTS, 1, 1, 0.25)


def test_being_kept_warm_costs_what_the_platform_takes_for_idling() -> None:
    month = 730 * 3600
    assert warm_month(CONTAINER_APPS, 1, 2) == pytest.approx(month * 9e-6)
    assert warm_month(CLOUD_RUN_INSTANCES, 1, 2) == pytest.approx(month * 22e-6)
    assert warm_month(CLOUD_RUN_REQUESTS, 1, 2) == pytest.approx(month * 7.5e-6)
    assert provisioned_month(LAMBDA_X86, 2048) == pytest.approx(month * 2 * 4.1667e-6)
    assert snapshot_month(2048) < provisioned_month(LAMBDA_X86, 2048) / 2


def test_at_the_break_even_both_cost_the_same() -> None:
    million, month = 2.0, 50.0
    requests = break_even(million, month) * prices.MONTH
    assert requests / 1e6 * million == pytest.approx(month)


def test_every_price_names_its_source() -> None:
    for one in (LAMBDA_X86, LAMBDA_ARM, *prices.CONTAINERS):
        assert one.source.startswith("https://")


def test_the_fit_finds_what_the_figures_were_made_of() -> None:
    made = Fit(100 * MIB, 1.5, 3.0, 0)
    cases = [(size * MIB, tensors, c) for size, tensors in ((0, 1e4), (3, 4e6), (100, 6e5)) for c in (1, 4, 16)]
    found = fit([Observed(*case, made.peak(*case)) for case in cases])
    assert found == pytest.approx(made, rel=1e-6, abs=1.0)


def test_the_fit_says_how_far_off_it_is() -> None:
    made = Fit(100 * MIB, 1.5, 3.0, 0)
    cases = [(size * MIB, 1e6, c) for size in (1, 10, 100) for c in (1, 4, 16)]
    observed = [Observed(*case, made.peak(*case)) for case in cases]
    observed[4] = observed[4]._replace(peak=observed[4].peak + 20 * MIB)
    assert 5 * MIB < fit(observed).error < 20 * MIB


def test_one_model_at_one_concurrency_is_no_fit() -> None:
    with pytest.raises(ValueError, match="different sizes"):
        fit([Observed(1e6, 1e4, 1, 1e8)] * 3)


def test_what_is_granted_is_more_than_the_peak_in_whole_steps() -> None:
    assert to_grant(400 * MIB) == 512
    assert to_grant(410 * MIB) == 640
    assert to_grant(100 * MIB, 256) == 256
