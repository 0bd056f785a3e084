"""Any generated scene, written in nuPlan's format and read back, is the same scene to the precision of the format."""

import tempfile
from pathlib import Path

import numpy as np
import pytest
import shapely
from hypothesis import Phase, given, settings
from hypothesis import strategies as st
from nuplan_builder import source_of

from nsdrive.scenarios.nuplan.write import write_scenario
from nsdrive.scenarios.nuplan.write_map import ORIGIN_UTM_M, MapFids, number
from nsdrive.scenarios.synthetic import FAMILIES, SyntheticConfig, build
from nsdrive.world.lane_map import LaneMap
from nsdrive.world.route import validate
from nsdrive.world.types import OBJECT_KINDS, Scenario

ORIGIN = np.array(ORIGIN_UTM_M)
AGENTS = [OBJECT_KINDS.index(kind) for kind in ("vehicle", "bicycle", "pedestrian")]
POSITION_M = 1e-6  # degrees of longitude in a double: some 1e-9 m; what is written in metres comes back exactly
AREA_M2 = 0.01


def round_trip(scenario: Scenario) -> Scenario:
    with tempfile.TemporaryDirectory() as folder:
        write_scenario(scenario, Path(folder))
        source = source_of(Path(folder), map_margin_m=None)
        (item,) = source.items()
        return source.load(item)


def same_scene(was: Scenario, now: Scenario) -> None:
    fids = number(was.lane_map)
    assert now.scenario_type == was.scenario_type
    assert now.unknown == frozenset()
    assert now.scenery_seed == was.scenery_seed
    assert now.route_roadblock_ids[: len(was.route_roadblock_ids)] == tuple(
        map(str, fids.route(was.route_roadblock_ids))
    )
    assert was.goal_m is not None
    np.testing.assert_allclose(np.subtract(now.goal_m, ORIGIN), was.goal_m, atol=1e-8)
    for before, after in zip(was.ego_log, now.ego_log, strict=False):
        np.testing.assert_allclose(after.pose - [*ORIGIN, 0.0], before.pose, atol=1e-8)
        assert (after.speed_mps, after.accel_mps2) == (before.speed_mps, before.accel_mps2)
    for tick in range(was.n_ticks):
        same_objects(was, now, tick)
        assert dict(now.lights[tick]) == {str(fids.lanes[name]): state for name, state in was.lights[tick].items()}
    same_map(was.lane_map, now.lane_map, fids)


def same_objects(was: Scenario, now: Scenario, tick: int) -> None:
    before, after = was.frames[tick], now.frames[tick]
    assert len(after) == len(before)
    boxes = before.boxes + np.array([*ORIGIN, 0.0, 0.0, 0.0])
    mine, theirs = np.lexsort(np.round(boxes, 6).T), np.lexsort(np.round(after.boxes, 6).T)
    np.testing.assert_allclose(after.boxes[theirs], boxes[mine], atol=1e-8)
    np.testing.assert_array_equal(after.kinds[theirs], before.kinds[mine])
    np.testing.assert_allclose(after.heights_m[theirs], before.heights_m[mine], atol=1e-12)
    moving = np.isin(before.kinds[mine], AGENTS)
    np.testing.assert_allclose(after.velocities_mps[theirs][moving], before.velocities_mps[mine][moving], atol=1e-9)


def same_map(was: LaneMap, now: LaneMap, fids: MapFids) -> None:
    assert validate(now) == validate(was) == []
    assert set(now.lanes) == {str(fid) for fid in fids.lanes.values()}
    for lane in was.lanes.values():
        other = now.lanes[str(fids.lanes[lane.lane_id])]
        near(lane.centerline, other.centerline)
        near(lane.left_boundary, other.left_boundary)
        near(lane.right_boundary, other.right_boundary)
        assert other.is_connector == lane.is_connector
        assert (other.speed_limit_mps, other.turn) == (lane.speed_limit_mps, lane.turn)
        assert {int(name) for name in other.incoming} == {fids.lanes[name] for name in lane.incoming}
        assert {int(name) for name in other.outgoing} == {fids.lanes[name] for name in lane.outgoing}
        assert (other.intersection_id is None) == (lane.intersection_id is None)
        assert [now.stop_lines[n].kind for n in other.stop_line_ids] == [
            was.stop_lines[n].kind for n in lane.stop_line_ids
        ]
        if not lane.is_connector:
            sides = [(lane.left_neighbor, other.left_neighbor), (lane.right_neighbor, other.right_neighbor)]
            assert all(theirs == (str(fids.lanes[mine]) if mine else None) for mine, theirs in sides)
    for layer in ("crosswalks", "intersections", "stop_lines", "signals", "walkways"):
        assert len(getattr(now, layer)) == len(getattr(was, layer)), layer
    for mine, theirs in zip(was.signals, now.signals, strict=True):
        assert {str(fids.lanes[name]) for name in mine.connector_ids} == set(theirs.connector_ids)
    same_ground(was.drivable_area, now.drivable_area)


def near(line: np.ndarray, other: np.ndarray) -> None:
    """Two polylines are one: nodes may be added, where more than a metre lies between two."""
    mine, theirs = shapely.LineString(line), shapely.LineString(other - ORIGIN)
    assert theirs.length == pytest.approx(mine.length, abs=POSITION_M)
    assert shapely.hausdorff_distance(mine, theirs, densify=0.1) < 0.02
    assert shapely.distance(shapely.points(line), theirs).max() < POSITION_M


def same_ground(was: tuple[np.ndarray, ...], now: tuple[np.ndarray, ...]) -> None:
    grounds = [
        shapely.union_all(shapely.make_valid(shapely.polygons([shapely.linearrings(ring) for ring in rings])))
        for rings in (was, tuple(ring - ORIGIN for ring in now))
    ]
    assert shapely.area(shapely.symmetric_difference(*grounds)) < AREA_M2


@settings(max_examples=2, deadline=None, derandomize=True, phases=[Phase.generate])  # shrinking would take minutes
@given(family=st.sampled_from(tuple(FAMILIES)), seed=st.integers(0, 10_000))
def test_any_scene_comes_back_as_it_was(family, seed):
    scene = build(SyntheticConfig(seed=seed, families=(family,), n_scenarios=1), 0)
    same_scene(scene, round_trip(scene))


@pytest.mark.slow
@pytest.mark.parametrize("family", FAMILIES)
def test_a_scene_of_every_family_comes_back_as_it_was(family):
    scene = build(SyntheticConfig(seed=23, families=(family,), n_scenarios=1), 0)
    same_scene(scene, round_trip(scene))
