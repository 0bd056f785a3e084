"""The named manoeuvres are exact: the same scene every time, a sound map, an ego with a steady past, nobody in anybody's way."""

import json

import numpy as np
import pytest

from nsdrive.scenarios.catalogue import open_source, source_configs
from nsdrive.scenarios.manoeuvres import MANOEUVRES, ManoeuvresConfig, load_manoeuvre
from nsdrive.scenarios.source import ScenarioError
from nsdrive.scenarios.synthetic import FAMILIES
from nsdrive.world.route import nearest_lane, validate
from nsdrive.world.types import HISTORY_TICKS

every_manoeuvre = pytest.mark.parametrize("name", MANOEUVRES)


@every_manoeuvre
def test_a_manoeuvre_is_the_same_every_time_and_stands_on_a_sound_map(name):
    scene, again = load_manoeuvre(name), load_manoeuvre(name)
    assert scene.ego_log == again.ego_log
    assert scene.lights == again.lights
    for a, b in zip(scene.frames, again.frames, strict=True):
        assert a.ids == b.ids
        np.testing.assert_array_equal(a.boxes, b.boxes)
    assert validate(scene.lane_map) == []
    assert (scene.scenario_id, scene.source) == (name, "manoeuvres")
    assert json.loads(json.dumps(scene.notes)) == scene.notes


@every_manoeuvre
def test_the_ego_comes_at_a_constant_speed_and_on_its_route(name):
    scene = load_manoeuvre(name)
    assert len(scene.ego_log) == HISTORY_TICKS + 1
    assert len({round(state.speed_mps, 6) for state in scene.ego_log}) == 1
    lane = scene.lane_map.lanes[nearest_lane(scene.lane_map, scene.ego_log[-1].pose)]
    assert lane.roadblock_id in scene.route_roadblock_ids
    assert all(
        block in {one.roadblock_id for one in scene.lane_map.lanes.values()} for block in scene.route_roadblock_ids
    )


def test_speeds_and_gaps_are_those_of_the_sentence():
    scene = load_manoeuvre("slower_lead_at_20")
    ego, lead = scene.ego_log[-1], scene.frames[HISTORY_TICKS][0]
    assert ego.speed_mps == pytest.approx(20.0)
    assert lead.speed_mps == pytest.approx(10.0)
    front_to_rear = np.hypot(lead.x_m - ego.x_m, lead.y_m - ego.y_m) - 4.049 - lead.length_m / 2
    assert front_to_rear == pytest.approx(90.0, abs=0.01)


def test_the_lights_change_when_the_sentence_says():
    scene = load_manoeuvre("amber_can_stop")
    states = [lights[scene.notes["connector"]] for lights in scene.lights]
    assert states[HISTORY_TICKS + 9] == "green"
    assert states[HISTORY_TICKS + 10] == "yellow"
    assert "red" in states[HISTORY_TICKS + 40 :]


def test_they_are_a_source_like_any_other():
    source = open_source("manoeuvres", source_configs()["manoeuvres"](names=("cut_in_close",)))
    assert source.items() == ("cut_in_close",)
    assert source.load("cut_in_close").notes["sentence"].startswith("A car 5 m ahead")
    assert len(ManoeuvresConfig().names) == len(MANOEUVRES) >= 30
    with pytest.raises(ValueError, match="Did you mean 'cut_in_close'"):
        ManoeuvresConfig(names=("cutin_close",))
    with pytest.raises(ScenarioError, match="is not a manoeuvre"):
        source.load("a red light")


def test_no_manoeuvre_is_called_like_a_family():
    assert set(MANOEUVRES) & set(FAMILIES) == set()
