import json

import numpy as np
import pytest
from eval_fixtures import TIMES_S, make_sample
from predictions import predictions_in

from eval.open_loop.baselines import BASELINES, BLIND, waypoints_of, write_baseline
from nsdrive.vla.prompt import parse_answer


def test_constant_velocity_goes_on_as_it_is():
    sample = make_sample("a", scenario="s", speed_mps=7.0)
    np.testing.assert_allclose(
        waypoints_of("constant_velocity", sample), np.stack([7.0 * TIMES_S, 0 * TIMES_S], axis=1)
    )


def test_constant_acceleration_stops_and_does_not_reverse():
    sample = make_sample("a", scenario="s", speed_mps=4.0, history_accel_mps2=-2.0)
    x = waypoints_of("constant_acceleration", sample)[:, 0]
    assert x[3] == pytest.approx(4.0)  # v^2 / 2a, reached after 2 s
    assert np.all(np.diff(x) >= 0.0)
    np.testing.assert_allclose(x[3:], 4.0)


def test_constant_acceleration_stays_where_a_standing_car_brakes():
    sample = make_sample("a", scenario="s", speed_mps=0.0, history_accel_mps2=-1.0)
    np.testing.assert_allclose(waypoints_of("constant_acceleration", sample), 0.0)


def test_constant_turn_rate_drives_an_arc_of_the_right_radius():
    sample = make_sample("a", scenario="s", speed_mps=6.0, yaw_rate_radps=0.2)
    points = waypoints_of("constant_turn_rate_velocity", sample)
    np.testing.assert_allclose(np.hypot(points[:, 0], points[:, 1] - 30.0), 30.0)  # R = v / w, centre on the left
    assert points[-1, 1] > 0.0


def test_constant_turn_rate_of_a_straight_history_is_constant_velocity():
    sample = make_sample("a", scenario="s", speed_mps=6.0)
    np.testing.assert_allclose(
        waypoints_of("constant_turn_rate_velocity", sample), waypoints_of("constant_velocity", sample), atol=1e-12
    )


def test_blind_idm_keeps_the_speed_limit_and_first_moves_at_the_present_speed():
    sample = make_sample("a", scenario="s", speed_mps=8.0, speed_limit_mps=8.0)
    np.testing.assert_allclose(waypoints_of("blind_idm", sample)[:, 0], 8.0 * TIMES_S)
    slow = make_sample("a", scenario="s", speed_mps=2.0, speed_limit_mps=12.0)
    steps = np.diff(waypoints_of("blind_idm", slow)[:, 0], prepend=0.0)
    assert steps[0] == pytest.approx(1.0)  # forward Euler: x += v_old dt
    assert np.all(np.diff(steps) > 0.0)
    assert steps[1] - steps[0] == pytest.approx(0.25 * (1.0 - (2.0 / 12.0) ** 4))  # a (1 - (v/v0)^4) dt^2


def test_blind_idm_without_a_known_limit_takes_ten_metres_per_second():
    sample = make_sample("a", scenario="s", speed_mps=10.0, speed_limit_mps=None)
    np.testing.assert_allclose(waypoints_of("blind_idm", sample)[:, 0], 10.0 * TIMES_S)


@pytest.mark.parametrize("name", BLIND)
def test_a_blind_baseline_does_not_look_at_the_label(name):
    sample = make_sample("a", scenario="s", speed_mps=5.0)
    elsewhere = make_sample("a", scenario="s", speed_mps=5.0, waypoints=np.full((10, 2), 3.0))
    np.testing.assert_array_equal(waypoints_of(name, sample), waypoints_of(name, elsewhere))


@pytest.mark.parametrize("name", BASELINES)
def test_every_baseline_answers_every_sample_in_order(name, dataset, samples, tmp_path):
    out = tmp_path / "predictions.jsonl"
    assert write_baseline(name, dataset, "test", out) == len(samples)
    rows = predictions_in(out)
    assert [row.sample_id for row in rows] == [sample.sample_id for sample in samples]
    for row in rows:
        assert row.error is None
        np.testing.assert_allclose(parse_answer(row.text).waypoints_ego_m, row.waypoints_ego_m, atol=0.00501)
    assert set(json.loads(out.read_text().splitlines()[0])) == {"id", "text", "waypoints_ego_m", "error", "seconds"}


def test_an_unknown_baseline_is_answered_with_the_nearest_name(dataset, tmp_path):
    with pytest.raises(
        ValueError, match=r"No baseline 'blind_imd'. Did you mean 'blind_idm'\? Known: constant_velocity"
    ):
        write_baseline("blind_imd", dataset, "test", tmp_path / "x.jsonl")
    assert not (tmp_path / "x.jsonl").exists()


def test_an_existing_file_is_not_overwritten_unasked(dataset, tmp_path):
    out = tmp_path / "mine.jsonl"
    out.write_text("precious")
    with pytest.raises(ValueError, match="exists"):
        write_baseline("oracle", dataset, "test", out)
    assert out.read_text() == "precious"
    write_baseline("oracle", dataset, "test", out, overwrite=True)


def test_an_empty_split_is_an_error(dataset, tmp_path):
    with pytest.raises(ValueError, match="no samples in split 'val'"):
        write_baseline("oracle", dataset, "val", tmp_path / "x.jsonl")
