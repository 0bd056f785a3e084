"""Areas are joined whatever GEOS makes of their corners."""

from __future__ import annotations

from typing import Any

import pytest
import shapely

from nsdrive.cameras.ground import plan_ground
from nsdrive.scenarios.catalogue import open_source, source_configs
from nsdrive.world import areas
from nsdrive.world.areas import union_of


def test_what_fails_in_doubles_is_joined_on_a_fine_grid(monkeypatch: pytest.MonkeyPatch) -> None:
    joined = shapely.union_all

    def fails_without_a_grid(shapes: Any, grid_size: float | None = None) -> Any:
        if grid_size is None:
            raise shapely.GEOSException("TopologyException: Ring edge missing")
        return joined(shapes, grid_size=grid_size)

    monkeypatch.setattr(areas.shapely, "union_all", fails_without_a_grid)
    assert union_of([shapely.box(0, 0, 2, 1), shapely.box(2, 0, 3, 1)]).area == pytest.approx(3.0)


def test_a_scene_whose_lanes_nearly_touch_can_be_drawn() -> None:
    """GEOS 3.13 fails on the union of this map's lanes in doubles."""
    source = open_source("synthetic", source_configs()["synthetic"](n_scenarios=1000, seed=1001))
    ground = plan_ground(source.load("syn-cut_in-000206-s1001").lane_map)
    assert ground is not None
