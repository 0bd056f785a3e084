import itertools

import numpy as np
import pytest

from eval.paired import holm, paired_tests, sign_flip_p


def test_with_few_scenarios_every_flip_is_counted():
    sums = np.array([[3.0], [1.0], [2.0], [-0.5]])
    every = [abs(np.dot(signs, sums[:, 0])) for signs in itertools.product((1, -1), repeat=4)]
    assert sign_flip_p(sums, 0)[0] == np.mean(np.array(every) >= 5.5 - 1e-12)


def test_two_files_that_differ_by_noise_get_p_values_spread_evenly():
    rng = np.random.default_rng([1])
    p = sign_flip_p(rng.normal(0.0, 1.0, (60, 400)), 0)
    assert np.mean(p < 0.05) == pytest.approx(0.05, abs=0.03)
    assert np.mean(p < 0.5) == pytest.approx(0.5, abs=0.08)


def test_a_difference_in_every_scenario_is_as_sure_as_the_flips_allow():
    assert sign_flip_p(np.full((100, 1), 0.3), 0)[0] == pytest.approx(1.0 / 8193.0)
    assert (
        sign_flip_p(np.full((1, 1), 0.3), 0)[0] != sign_flip_p(np.full((1, 1), 0.3), 0)[0]
    )  # nan: one scenario says nothing


def test_samples_of_one_scenario_are_flipped_together():
    values = np.repeat([1.0, -0.8, 0.9, 0.7, -0.6], 40)[:, None]  # 200 samples, but five scenarios
    columns = {"a": values, "b": np.zeros_like(values)}
    (test,) = paired_tests(columns, ["3s/ADE"], np.repeat(np.arange(5), 40), 0)
    assert test["p"] > 0.3
    assert test["difference"] == pytest.approx(0.24)
    assert test["low"] < 0.0 < test["high"]


def test_holm_by_the_book():
    np.testing.assert_allclose(holm(np.array([0.01, 0.04, 0.03, 0.005])), [0.03, 0.06, 0.06, 0.02])
    np.testing.assert_allclose(holm(np.array([0.5, np.nan, 0.9])), [1.0, np.nan, 1.0])


def test_files_meet_each_other_and_every_baseline_but_baselines_do_not_meet():
    columns = {name: np.full((6, 1), float(k)) for k, name in enumerate(["m", "n", "blind", "constant"])}
    tests = paired_tests(columns, ["3s/ADE"], np.arange(6), 0, rivals=["blind", "constant"])
    assert [(t["a"], t["b"]) for t in tests] == [
        ("m", "n"),
        ("m", "blind"),
        ("m", "constant"),
        ("n", "blind"),
        ("n", "constant"),
    ]
    assert [t["difference"] for t in tests] == [-1.0, -2.0, -3.0, -1.0, -2.0]


def test_a_thousand_scenarios_more_than_the_bundles_hold_give_the_same_answer():
    rng = np.random.default_rng([3])
    values = rng.normal(0.02, 1.0, (9000, 1))
    (test,) = paired_tests({"a": values, "b": np.zeros((9000, 1))}, ["3s/ADE"], np.arange(9000), 0)
    spread = values.std() / np.sqrt(9000)
    assert test["high"] - test["low"] == pytest.approx(2 * 1.96 * spread, rel=0.1)
