"""Maps of any shape become paint."""

import numpy as np
import pytest
import shapely
from builders import straight_map

from nsdrive.cameras.ground import plan_ground, strip, triangulate, zebra
from nsdrive.cameras.scenery import plan_scenery
from nsdrive.cameras.shading import ASPHALT, WHITE, YELLOW
from nsdrive.world.lane_map import LaneMap


def area_of(quads):
    return shapely.area(shapely.polygons(quads)).sum()


@pytest.mark.parametrize(
    "shape",
    [
        shapely.box(0, 0, 8, 3),
        shapely.Point(0, 0).buffer(10, quad_segs=6),
        shapely.box(0, 0, 30, 30) - shapely.box(5, 5, 12, 25) - shapely.box(15, 3, 28, 9),
        shapely.union(shapely.box(0, 0, 4, 4), shapely.box(10, 10, 15, 13)),
        shapely.Polygon([(0, 0), (10, 0), (10, 10), (5, 2), (0, 10)]),
        shapely.make_valid(shapely.Polygon([(0, 0), (10, 10), (10, 0), (0, 10)])),
        shapely.Polygon(),
    ],
)
def test_any_area_is_covered_once(shape):
    assert area_of(triangulate(shape)) == pytest.approx(shape.area, abs=1e-6)


def test_a_strip_is_as_wide_as_it_says_around_corners():
    band = strip(np.array([[0.0, 0.0], [10.0, 0.0], [10.0, 0.0], [20.0, 4.0]]), 0.4)
    assert area_of(band) == pytest.approx(0.4 * (10 + np.hypot(10, 4)), rel=0.01)
    assert len(strip(np.zeros((3, 2)), 0.4)) == 0


def test_zebra_bars_run_across_the_way_people_walk():
    bars = zebra(np.array([[0.0, 0.0], [3.0, 0.0], [3.0, 14.0], [0.0, 14.0]]))
    assert len(bars) >= 10
    spans = bars.max(axis=1) - bars.min(axis=1)
    assert (spans[:, 0] > 2.9).all()
    assert (spans[:, 1] < 0.6).all()


def test_a_line_that_two_lanes_share_is_painted_once():
    ground = plan_ground(straight_map(200.0, n_lanes=3))
    boundary_y = 1.75 - ground.origin_m[1]
    paint = np.isin(ground.material, (WHITE, YELLOW))
    on_it = paint & (np.abs(ground.middle[:, 1] - boundary_y) < 0.4)
    covered = shapely.polygons(ground.corners[on_it])
    assert shapely.union_all(covered).area == pytest.approx(shapely.area(covered).sum(), rel=0.02)


def test_scenery_keeps_off_roads_and_is_the_same_for_a_seed():
    road = straight_map(300.0, n_lanes=2)
    ground = plan_ground(road)
    props = plan_scenery(road, ground, 5)
    assert len(props) > 20
    assert shapely.distance(shapely.points([(p.x_m, p.y_m) for p in props]), ground.asphalt).min() > 0.3
    again = plan_scenery(road, ground, 5)
    assert [(p.x_m, p.y_m, p.scale) for p in props] == [(p.x_m, p.y_m, p.scale) for p in again]
    other = plan_scenery(road, ground, 6)
    assert [(p.x_m, p.y_m) for p in props] != [(p.x_m, p.y_m) for p in other]


def test_only_what_is_near_is_drawn():
    ground = plan_ground(straight_map(2000.0))
    some, materials = ground.around(100.0, 0.0, 50.0)
    everything, _ = ground.around(100.0, 0.0, 5000.0)
    assert 0 < len(some) < len(everything) == len(ground.corners)
    assert ASPHALT in materials


def test_a_map_of_nothing_is_a_lawn():
    ground = plan_ground(LaneMap(name="nowhere", lanes={}))
    assert len(ground.corners) == 0
