"""An edit changes the one thing that it names, from when it says, and says why it cannot."""

import re
from dataclasses import replace

import numpy as np
import pytest
from builders import car, scenario, straight_map, tracked

from nsdrive.scenarios.manoeuvres import load_manoeuvre
from nsdrive.scenarios.synthetic import SyntheticConfig, build
from nsdrive.world.edits import GENERAL, applicable, applied, candidates, edited, parse_edit
from nsdrive.world.edits_route import AMBER_S
from nsdrive.world.edits_scene import before_of
from nsdrive.world.measure import clearance_m, off_road_m
from nsdrive.world.navigation import navigation
from nsdrive.world.types import HISTORY_TICKS, INTERVAL_S
from nsdrive.world.vehicle import ego_box

T = HISTORY_TICKS


@pytest.fixture(scope="module")
def junction():
    """A red light ahead of a lead, on a lane that leads straight and to the right."""
    return build(SyntheticConfig(seed=3, families=("red_light_lead",)), 0)


def road(*objects, speed_mps=8.0, n_lanes=2):
    return scenario(straight_map(400.0, n_lanes=n_lanes), objects=list(objects), speed_mps=speed_mps)


def edit(world, text):
    return edited(world, parse_edit(text), T, world.ego_log[T])


def at(world, track_id, tick=T):
    frame = world.frames[tick]
    return frame[frame.ids.index(track_id)]


def ahead_of_bumper_m(world, track_id):
    ego = ego_box(world.ego_log[T].pose[None])
    rows = world.frames[T].take([world.frames[T].ids.index(track_id)])
    return float(clearance_m(ego, [rows])[0])


@pytest.mark.parametrize(
    "text",
    [*GENERAL, "remove car-3", "remove everyone", "speed lead 3", "stop car-2", "gap lead 12.5m", "move car-1 2m left"],
)
def test_an_edit_is_read_back_from_its_text(text):
    found = parse_edit(text)
    assert parse_edit(found.text) == found
    assert found.name == found.name.strip("-.")
    assert set(found.name) <= set("abcdefghijklmnopqrstuvwxyz0123456789-_.")


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("", "An edit begins with one of remove, light"),
        ("remvoe lead", "Did you mean 'remove'?"),
        ("remove", "Write, for example, 'remove lead'"),
        ("light gren", "Did you mean 'green'?"),
        ("add pedestrain@12m", "Did you mean 'pedestrian'?"),
        ("add pedestrian", "how far away?"),
        ("add pedestrian@1e999m", "should be a number from 0 to 200 (m)"),
        ("add pedestrian@nanm", "should be a number"),
        ("add vehicle@20m besides", "Did you mean 'beside'?"),
        ("add vehicle@20m beside 3mps", "leave the speed out"),
        ("goal back", "Known: left, right, straight"),
        ("speed lead fast", "should be a number from 0 to 40 (mps)"),
        ("move car-1 2m up", "Known: ahead, back, left, right"),
        ("gap lead", "write who and what gap"),
    ],
)
def test_a_misspelt_edit_ends_in_one_line_that_helps(text, says):
    with pytest.raises(ValueError, match=re.escape(says)) as error:
        parse_edit(text)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("remove lead", "No lead"),
        ("remove leda", "Did you mean 'lead'?"),
        ("remove oncomin", "Did you mean 'oncoming'?"),
        ("remove pedestrians", "no pedestrians to remove"),
        ("light green", "No signal on the route"),
        ("goal left", "no junction ahead"),
        ("gap oncoming 10m", "is not the lead"),
        ("add vehicle@390m", "from 0 to 200"),
        ("remove binding", "known to a planner only"),
    ],
)
def test_an_edit_that_does_not_apply_says_why(text, says):
    world = road(car("oncoming", 60.0, 3.5))
    with pytest.raises(ValueError, match=re.escape(says)):
        edit(world, text)


def test_removing_the_lead_takes_the_next_object_on_the_way_and_nothing_else():
    world = road(car("far", 90.0, 0.0, speed_mps=3.0), car("next", 45.0, 0.0, speed_mps=3.0), car("beside", 40.0, 3.5))
    after = edit(world, "remove lead")
    assert after.frames[T].ids == ("far", "beside")
    for was, now in zip(world.frames, after.frames, strict=True):
        kept = was.take([0, 2])
        assert (now.boxes == kept.boxes).all()
        assert (now.velocities_mps == kept.velocities_mps).all()
    assert (after.ego_log, after.lights, after.scenario_id) == (world.ego_log, world.lights, world.scenario_id)


def test_who_is_added_ahead_stands_so_far_before_the_bumper_from_the_anchor_on():
    world = road(car("beside", 40.0, 3.5))
    for text, track_id in (("add pedestrian@12m", "added-pedestrian-1"), ("add vehicle@25m", "added-vehicle-1")):
        after = edit(world, text)
        assert ahead_of_bumper_m(after, track_id) == pytest.approx(parse_edit(text).distance_m, abs=0.05)
        assert track_id not in after.frames[T - 1].ids
        assert at(after, track_id).speed_mps == 0.0
        assert (at(after, track_id).x_m, at(after, track_id).y_m) == (
            at(after, track_id, 60).x_m,
            at(after, track_id, 60).y_m,
        )


def test_who_is_added_at_a_speed_moves_along_the_ego_s_way_at_it():
    after = edit(road(), "add cyclist@15m 4mps")
    first, later = at(after, "added-cyclist-1"), at(after, "added-cyclist-1", T + 50)
    assert later.x_m - first.x_m == pytest.approx(4.0 * 50 * INTERVAL_S, abs=1e-6)
    assert first.speed_mps == later.speed_mps == pytest.approx(4.0)


def test_who_is_added_beside_the_road_is_off_it(junction):
    after = applied(junction, parse_edit("add pedestrian@12m beside"), T, junction.ego_log[T])
    box = at(after.scenario, after.about)
    row = np.array([[box.x_m, box.y_m, box.heading_rad, box.length_m, box.width_m]])
    assert off_road_m(row, junction.lane_map)[0] > 0.5
    assert after.scenario.frames[T].ids == (*junction.frames[T].ids, after.about)


def test_nobody_is_put_onto_another_or_into_their_way():
    standing, coming = car("standing", 42.0, 0.0), car("coming", 30.0, 0.0, speed_mps=8.0)
    with pytest.raises(ValueError, match="in the way of standing"):
        edit(road(standing), "add vehicle@20m")
    with pytest.raises(ValueError, match="in the way of coming"):
        edit(road(coming), "add pedestrian@30m")
    with pytest.raises(ValueError, match="where the ego is"):
        edit(road(car("left", 21.0, 3.5)), "move left 3.5m right")


def test_a_lead_that_is_stopped_stands_from_the_anchor_on():
    world = road(car("lead", 50.0, 0.0, speed_mps=6.0))
    after = edit(world, "stop lead")
    assert (after.frames[T - 1].boxes == world.frames[T - 1].boxes).all()
    assert np.allclose(after.frames[T].boxes, world.frames[T].boxes, atol=1e-9)
    assert {float(f.boxes[0, 0]) for f in after.frames[T:]} == {float(after.frames[T].boxes[0, 0])}
    assert max(float(f.speeds_mps[0]) for f in after.frames[T:]) == 0.0


def test_a_lead_s_speed_is_kept_along_the_way_that_it_took(junction):
    before = before_of(junction, T, junction.ego_log[T])
    lead = before.lead[0]
    after = edit(junction, "speed lead 3")
    poses = np.array([[at(after, lead, k).x_m, at(after, lead, k).y_m] for k in range(T, T + 51)])
    steps = np.hypot(*np.diff(poses, axis=0).T)
    assert steps == pytest.approx(np.full(50, 0.3), abs=0.01)
    offsets = before.path.project_points(poses)[:, 1]
    assert np.ptp(offsets) < 0.3, "it left its lane"


def test_a_gap_that_is_set_is_the_gap_and_the_speeds_stay():
    world = road(car("lead", 50.0, 0.0, speed_mps=6.0))
    after = edit(world, "gap lead 12m")
    assert before_of(after, T, after.ego_log[T]).lead == ("lead", pytest.approx(12.0, abs=0.02))
    moved = [now.boxes[0, 0] - was.boxes[0, 0] for was, now in zip(world.frames, after.frames, strict=True)]
    assert np.ptp(moved) < 1e-6
    assert np.allclose(after.frames[40].velocities_mps, world.frames[40].velocities_mps)


def test_a_green_light_is_green_from_the_anchor_on_and_everything_across_is_red(junction):
    after = applied(junction, parse_edit("light green"), T, junction.ego_log[T])
    mine = after.about
    assert junction.lights[T][mine] == "red"
    assert after.scenario.lights[:T] == junction.lights[:T]
    here = junction.lane_map.lanes[mine].intersection_id
    for lights in after.scenario.lights[T:]:
        assert lights[mine] == "green"
        green = {
            c for c, state in lights.items() if state != "red" and junction.lane_map.lanes[c].intersection_id == here
        }
        together = {c for c in green if all(was.get(c) == was.get(mine) for was in junction.lights)}
        assert green == together


def test_an_amber_light_turns_red():
    world = build(SyntheticConfig(seed=3, families=("green_light",)), 0)
    after = applied(world, parse_edit("light amber"), T, world.ego_log[T])
    shown = [lights[after.about] for lights in after.scenario.lights[T:]]
    amber = round(AMBER_S / INTERVAL_S)
    assert set(shown[:amber]) == {"yellow"}
    assert set(shown[amber:]) == {"red"}


def test_a_light_that_shows_it_already_is_no_edit():
    world = load_manoeuvre("red_light_at_10")
    with pytest.raises(ValueError, match="is red already"):
        edit(world, "light red")


@pytest.mark.parametrize(
    ("family", "turns"), [("left_turn", {"straight": "go straight"}), ("green_light", {"right": "turn right"})]
)
def test_a_shifted_goal_is_what_the_navigation_says(family, turns):
    world = build(SyntheticConfig(seed=3, families=(family,)), 0)
    for turn, says in turns.items():
        after = edit(world, f"goal {turn}")
        assert navigation(world.mission, world.ego_log[T]).manoeuvre != says
        assert navigation(after.mission, after.ego_log[T]).manoeuvre == says
        assert (after.frames, after.lights) == (world.frames, world.lights)


def test_a_goal_that_the_ego_s_lane_does_not_lead_to_names_those_that_it_does():
    world = build(SyntheticConfig(seed=3, families=("left_turn",)), 0)
    with pytest.raises(ValueError, match="The route leads left at the next junction already"):
        edit(world, "goal left")
    with pytest.raises(ValueError, match=r"does not lead right at the next junction: .*left"):
        edit(world, "goal right")


def test_what_is_called_applicable_applies_and_leaves_the_scenario_valid(junction):
    ego = junction.ego_log[T]
    found = applicable(junction, T, ego)
    assert {"remove lead", "light green", "add pedestrian@12m beside"} <= {e.text for e in found}
    assert found == [e for e in candidates(junction, T, ego) if e in found]
    for each in found[:20]:
        after = edited(junction, each, T, ego)
        assert after.n_ticks == junction.n_ticks
        for frame in after.frames:
            assert len(set(frame.ids)) == len(frame.ids) == len(frame.boxes)
            assert np.isfinite(frame.boxes).all()


def test_an_edit_seen_from_a_stored_pose_is_the_same_as_from_the_drive(junction):
    ego = junction.ego_log[T]
    stored = replace(
        ego, x_m=round(ego.x_m, 6), y_m=round(ego.y_m, 6), heading_rad=round(ego.heading_rad, 6), steering_rad=0.0
    )
    for text in ("add pedestrian@12m", "gap lead 9m", "speed lead 3", "goal straight"):
        try:
            ours = edited(junction, parse_edit(text), T, ego)
        except ValueError:
            continue
        theirs = edited(junction, parse_edit(text), T, stored)
        assert all((a.boxes == b.boxes).all() for a, b in zip(ours.frames, theirs.frames, strict=True))
        assert ours.route_roadblock_ids == theirs.route_roadblock_ids


def test_people_and_signs_are_removed_by_their_kind():
    world = road(
        tracked("p1", 40.0, 5.0, kind="pedestrian"), tracked("p2", 50.0, 5.0, kind="pedestrian"), car("c", 60.0)
    )
    assert edit(world, "remove pedestrians").frames[T].ids == ("c",)
    assert edit(world, "remove everyone").frames[T].ids == ()
