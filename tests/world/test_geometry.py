import numpy as np
import pytest
import shapely
from hypothesis import given, settings
from hypothesis import strategies as st

from nsdrive.world import kernels
from nsdrive.world.geometry import (
    Path,
    box_corners,
    boxes_overlap,
    corridor_overlap,
    offset_polyline,
    resample,
    to_ego,
    to_global,
    wrap_angle,
)


def bend(radius_m: float = 30.0) -> Path:
    angle = np.linspace(0.0, np.pi / 2, 60)
    arc = np.column_stack([radius_m * np.sin(angle), radius_m - radius_m * np.cos(angle)])
    return Path.of(np.vstack([[-50.0, 0.0], arc, [radius_m, 100.0]]))


def test_projecting_a_pose_of_the_path_gives_its_progress_back():
    path = bend()
    progress = np.linspace(0.0, path.length_m, 501)
    back = path.project_points(path.pose_at(progress)[:, :2])
    assert np.abs(back[:, 0] - progress).max() < 1e-9
    assert np.abs(back[:, 1]).max() < 1e-9


def test_lateral_offset_is_positive_to_the_left_and_does_not_grow_beyond_the_ends():
    path = Path.of(np.array([[0.0, 0.0], [100.0, 0.0]]))
    assert path.project(30.2, 1.5) == pytest.approx((30.2, 1.5))
    assert path.project(30.2, -1.5) == pytest.approx((30.2, -1.5))
    assert path.project(-40.0, 2.0) == pytest.approx((0.0, 2.0))
    assert path.project(180.0, -2.0) == pytest.approx((100.0, -2.0))


def test_a_path_that_crosses_itself_is_read_near_the_given_progress():
    loop = np.array([[0.0, 0.0], [50.0, 0.0], [50.0, 40.0], [25.0, 40.0], [25.0, -40.0]])
    path = Path.of(loop)
    assert path.project(25.0, 0.2, near_progress_m=20.0)[0] == pytest.approx(25.0, abs=0.5)
    assert path.project(25.2, 0.0, near_progress_m=150.0)[0] == pytest.approx(155.0, abs=0.5)


def test_curvature_of_a_bend_is_one_over_its_radius_and_zero_on_the_straight():
    path = bend(30.0)
    assert path.curvature_at(50.0 + 23.5) == pytest.approx(1 / 30.0, rel=0.02)
    assert abs(path.curvature_at(20.0)) < 1e-9


@settings(deadline=None)  # the first call compiles
@given(st.lists(st.floats(-20.0, 220.0), min_size=1, max_size=30), st.integers(0, 100))
def test_what_is_looked_for_near_a_guess_is_what_a_search_finds(asked, guess):
    path = bend()
    guess = min(guess, len(path.points) - 1)
    for at in [*asked, *path.progress_m[:5], path.length_m]:
        found = kernels.index_near(path.progress_m, at, guess)
        assert found == np.searchsorted(path.progress_m, at, side="right") - 1
        value, index = kernels.interpolated(path.progress_m, path.curvature_1pm, at, guess)
        assert value == np.interp(at, path.progress_m, path.curvature_1pm)
        assert index == max(found, 0)
        guess = index


@settings(deadline=None)  # the first call compiles
@given(st.lists(st.tuples(st.floats(-9.0, 9.0), st.floats(-9.0, 9.0)), min_size=1, max_size=30), st.booleans())
def test_a_point_is_in_a_polygon_as_it_is_for_shapely(points, closed):
    ring = np.array([[-6.0, -6.0], [7.0, -6.0], [7.0, 5.0], [1.0, 5.0], [1.0, -2.0], [-6.0, 6.0]])  # a bay in it
    polygon = shapely.Polygon(ring)
    for x, y in points:
        if polygon.boundary.distance(shapely.Point(x, y)) > 1e-9:
            line = np.vstack([ring, ring[:1]]) if closed else ring
            assert kernels.in_polygon(line, x, y) == polygon.contains(shapely.Point(x, y))


def test_neighbouring_points_are_at_most_a_metre_apart_and_limits_hold_from_their_vertex_on():
    path = Path.of(np.array([[0, 0], [10.3, 0], [21.7, 0]]), [5.0, 9.0, 9.0], ["a", "b", "b"])
    assert np.diff(path.progress_m).max() <= 1.0
    assert path.lane_at(9.0) == "a"
    assert path.speed_limit_at(12.0) == 9.0
    assert path.length_m == pytest.approx(21.7)


def test_a_path_of_one_point_is_refused():
    with pytest.raises(ValueError, match="two distinct points"):
        Path.of(np.array([[1.0, 2.0], [1.0, 2.0]]))


@settings(deadline=None, max_examples=40)
@given(
    x=st.floats(-20, 60),
    y=st.floats(-15, 40),
    heading=st.floats(-3.1, 3.1),
    length=st.floats(0.3, 12.0),
    width=st.floats(0.3, 3.0),
    half=st.floats(0.3, 2.0),
)
def test_corridor_entry_agrees_with_exact_polygons(x, y, heading, length, width, half):
    path, start, end = bend(), 25.0, 110.0
    box = np.array([[x, y, heading, length, width]])
    entry = corridor_overlap(path, box, start, end, half)[0]
    middle = shapely.LineString(path.pose_at(np.linspace(start, end, 300))[:, :2])
    corridor = middle.buffer(half, cap_style="flat", quad_segs=32)
    overlap = corridor.intersection(shapely.Polygon(box_corners(box)[0]))
    if overlap.area > 1e-2:
        points = shapely.get_coordinates(shapely.segmentize(overlap, 0.05))
        assert entry == pytest.approx(path.project_points(points)[:, 0].min(), abs=0.15)
    elif corridor.buffer(0.05).intersection(shapely.Polygon(box_corners(box)[0])).is_empty:
        assert entry == np.inf


def test_a_car_behind_beside_or_past_the_corridor_does_not_touch_it():
    path = Path.of(np.array([[0.0, 0.0], [100.0, 0.0]]))
    boxes = np.array([[5, 0, 0, 4, 2], [50, 4, 0, 4, 2], [95, 0, 0, 4, 2], [50, 1.5, 0, 4, 2]], dtype=float)
    entry = corridor_overlap(path, boxes, 10.0, 90.0, 1.0)
    assert entry.tolist() == [np.inf, np.inf, np.inf, pytest.approx(48.0, abs=2e-3)]


def test_a_cone_in_the_middle_and_a_bus_across_the_whole_corridor_are_both_seen():
    path = Path.of(np.array([[0.0, 0.0], [100.0, 0.0]]))
    boxes = np.array([[30.0, 0.1, 0.3, 0.3, 0.3], [60.0, 0.0, np.pi / 2, 12.0, 2.6]])
    entry = corridor_overlap(path, boxes, 0.0, 100.0, 1.15)
    assert entry[0] == pytest.approx(30.0, abs=0.25)
    assert entry[1] == pytest.approx(60.0 - 1.3, abs=1e-2)


def test_box_overlap_agrees_with_polygons():
    rng = np.random.default_rng(3)
    boxes = np.column_stack([rng.uniform(-8, 8, (60, 2)), rng.uniform(-4, 4, 60), rng.uniform(0.5, 6, (60, 2))])
    polygons = shapely.polygons(box_corners(boxes))
    expected = shapely.area(shapely.intersection(polygons[:, None], polygons[None, :])) > 1e-9
    assert (boxes_overlap(boxes, boxes) == expected).all()


def test_ego_frame_and_back_is_the_identity_and_left_is_positive():
    pose = np.array([10.0, -3.0, np.pi / 2])
    assert to_ego(np.array([[8.0, 0.0]]), pose)[0] == pytest.approx([3.0, 2.0])
    points = np.random.default_rng(0).normal(size=(20, 2))
    assert to_global(to_ego(points, pose), pose) == pytest.approx(points)


def test_an_arc_shifted_to_its_inside_has_the_smaller_radius_and_never_folds_back():
    angle = np.linspace(0.0, np.pi, 40)
    arc = 10.0 * np.column_stack([np.sin(angle), 1.0 - np.cos(angle)])
    inside = offset_polyline(arc, 3.5)
    assert np.hypot(inside[:, 0], inside[:, 1] - 10.0) == pytest.approx(np.full(len(inside), 6.5), abs=0.05)
    tight = offset_polyline(arc * 0.2, 3.0)
    assert len(tight) < 40


def test_resampling_keeps_both_ends_and_angles_wrap_once_around():
    line = resample(np.array([[0.0, 0.0], [3.0, 4.0], [3.0, 10.0]]), 0.7)
    assert line[0].tolist() == [0.0, 0.0]
    assert line[-1].tolist() == [3.0, 10.0]
    assert wrap_angle(np.array([3.5 * np.pi, -0.1])) == pytest.approx([-0.5 * np.pi, -0.1])
