import numpy as np
import pytest

from eval.bootstrap import cluster_mean
from eval.open_loop.displacement import COLUMNS, heading_errors_deg, headings_rad, measure
from nsdrive.vla.displacement import usable

ALL = np.ones(1, dtype=bool)


def straight(speed_mps, n=1):
    x = speed_mps * 0.5 * np.arange(1, 11)
    return np.repeat(np.stack([x, np.zeros(10)], axis=1)[None], n, axis=0)


def column(table, name):
    return table[:, COLUMNS.index(name)]


def test_a_speed_error_grows_to_the_closed_form():
    table = measure(straight(9.0), straight(8.0), ALL)
    # d_k = 1 m/s * 0.5 s * k
    assert column(table, "3s/FDE")[0] == pytest.approx(3.0)
    assert column(table, "3s/ADE")[0] == pytest.approx(0.5 * np.mean([1, 2, 3, 4, 5, 6]))
    assert column(table, "5s/ADE")[0] == pytest.approx(2.75)
    assert [column(table, f"{h}/MR")[0] for h in ("1s", "2s", "3s", "5s")] == [
        0,
        0,
        1,
        1,
    ]  # at 2 s exactly 2.0 m: no miss
    assert column(table, "3s/AHE")[0] == 0.0


def test_a_failed_answer_is_ten_metres_off_everywhere_whatever_its_row_holds():
    table = measure(np.full((1, 10, 2), np.nan), straight(8.0), ~ALL)
    for h in ("1s", "2s", "3s", "5s"):
        assert column(table, f"{h}/ADE")[0] == column(table, f"{h}/FDE")[0] == 10.0
        assert column(table, f"{h}/MR")[0] == 1.0
        assert column(table, f"{h}/AHE")[0] == column(table, f"{h}/FHE")[0] == 180.0


def test_a_turned_path_has_the_turned_heading_error():
    turned = straight(8.0) @ np.array([[0.0, 1.0], [-1.0, 0.0]])  # to the left
    np.testing.assert_allclose(heading_errors_deg(turned, straight(8.0), ALL), 90.0)


def test_headings_on_both_sides_of_180_degrees_are_close():
    back = -straight(8.0)
    back[..., 1] = [0.02 * k for k in range(1, 11)]
    other = back * [1.0, -1.0]
    assert heading_errors_deg(back, other, ALL).max() < 2.0


def test_a_standing_car_has_no_heading_error_from_printing_noise():
    label = np.zeros((1, 10, 2))
    noise = np.random.default_rng([1]).choice([-0.01, 0.0, 0.01], size=(1, 10, 2))
    assert heading_errors_deg(noise, label, ALL).max() == 0.0


def test_a_car_that_stops_in_a_turn_keeps_its_last_heading():
    points = np.array([[[1.0, 0.0], [2.0, 1.0], [2.0, 1.0], [2.0, 1.01]] + [[2.0, 1.01]] * 6])
    np.testing.assert_allclose(np.degrees(headings_rad(points))[0], [0.0] + [45.0] * 9)


@pytest.mark.parametrize(
    "waypoints",
    [
        None,
        np.zeros((9, 2)),
        np.zeros((11, 2)),
        np.full((10, 2), np.nan),
        np.full((10, 2), np.inf),
        np.full((10, 2), 1e300),
    ],
)
def test_anything_but_ten_believable_waypoints_is_unusable(waypoints):
    assert not usable(waypoints)


def test_the_interval_covers_the_mean_of_the_population_about_as_often_as_it_says():
    covered = 0
    for trial in range(100):
        rng = np.random.default_rng([trial])
        effect = rng.normal(0.0, 1.0, 40)  # one per scenario: samples of a scenario are alike
        values = 3.0 + np.repeat(effect, 5) + rng.normal(0.0, 0.2, 200)
        found = cluster_mean(values[:, None], np.ones(200, dtype=bool), np.repeat(np.arange(40), 5), trial)
        covered += found.low[0] <= 3.0 <= found.high[0]
    assert 85 <= covered <= 100


def test_the_interval_knows_that_samples_of_one_scenario_are_alike():
    effect = np.random.default_rng([3]).normal(0.0, 1.0, 20)
    values, count = np.repeat(effect, 50)[:, None], np.ones(1000, dtype=bool)
    by_scenario = cluster_mean(values, count, np.repeat(np.arange(20), 50), 0)
    by_sample = cluster_mean(values, count, np.arange(1000), 0)
    assert by_scenario.high[0] - by_scenario.low[0] > 4 * (by_sample.high[0] - by_sample.low[0])


def test_one_scenario_gives_a_value_and_no_interval():
    found = cluster_mean(np.array([[1.0], [3.0]]), np.ones(2, dtype=bool), np.array(["a", "a"]), 0)
    assert found.value[0] == 2.0
    assert np.isnan(found.low[0])
    assert np.isnan(found.high[0])


def test_rows_that_do_not_count_change_nothing():
    values = np.array([[1.0], [2.0], [99.0]])
    found = cluster_mean(values, np.array([True, True, False]), np.array(["a", "b", "c"]), 0)
    assert found.value[0] == 1.5
    assert found.high[0] <= 2.0


def test_a_paired_difference_is_surer_than_the_two_means():
    rng = np.random.default_rng([5])
    values = rng.normal(5.0, 3.0, 200)
    both = np.stack([values, values + 0.5 + rng.normal(0.0, 0.05, 200)], axis=1)
    count, scenarios = np.ones(200, dtype=bool), np.arange(200)
    one, two = (cluster_mean(both[:, [k]], count, scenarios, 0) for k in range(2))
    difference = two.minus(one)
    assert difference.low[0] < 0.5 < difference.high[0]
    assert difference.high[0] - difference.low[0] < 0.1 * (one.high[0] - one.low[0])
